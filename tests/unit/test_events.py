"""The event-driven engine's parts: products, functions, neurons, the way back to dense products, threads, 8-bit rows, and what is said without Numba."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wavespike
from wavespike.errors import UsageError
from wavespike.nn.heads import SourceFilterHead, SourceFilterHeadConfig
from wavespike.nn.recording import record_spikes, spiking_layers
from wavespike.nn.recurrent import RecurrentLayer
from wavespike.nn.spiking import SpikingConvNeXtBackbone, SpikingConvNeXtConfig
from wavespike.runtime import engines, events
from wavespike.signal.mel import MelConfig
from wavespike.spikes.neurons import NeuronConfig

pytest.importorskip("numba", reason="numba is not installed (extra: events)")


def backbone(seed: int = 0, **options: Any) -> SpikingConvNeXtBackbone:
    """A small backbone whose neurons fire."""
    torch.manual_seed(seed)
    config = SpikingConvNeXtConfig(**{"input_channels": 6, "dim": 32, "intermediate_dim": 80, "num_layers": 2, "expansion_init_std": 0.4, **options})
    made = SpikingConvNeXtBackbone(config).eval()
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim == 3:
                p.normal_(std=0.3)
            elif p.shape == (32, 80):
                p.normal_(std=0.1)
    return made


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("outputs", [1, 17, 64, 83, 160, 208])
def test_rows_of_the_active_inputs_sum_to_the_product(steps: int, outputs: int) -> None:
    from wavespike.runtime.events import kernels

    rng = np.random.default_rng(steps * outputs)
    inputs = 150
    spikes = rng.random((steps, inputs)) < 0.3
    masks = (spikes * (1 << np.arange(steps))[:, None]).sum(0).astype(np.int32)
    found = np.empty(inputs + 1, np.int32)
    count = kernels.active(masks, found)
    assert found[:count].tolist() == np.flatnonzero(masks).tolist()
    group = 1 << min(kernels.GROUP, steps)
    for weight, kind in ((rng.standard_normal((inputs, outputs)).astype(np.float32), np.float32),
                         (rng.integers(-127, 128, (inputs, outputs)).astype(np.int8), np.int16), (rng.integers(-127, 128, (inputs, outputs)).astype(np.int8), np.int32)):
        total = np.empty((steps, outputs), kind)
        kernels.add_products(weight, masks, found, count, np.empty((group, inputs), np.int32), np.empty(group, np.int64), total)
        want = spikes.astype(np.float64) @ weight.astype(np.float64)
        np.testing.assert_allclose(total, want, atol=2e-5 if kind == np.float32 else 0, rtol=0)


def test_functions_keep_their_stated_errors() -> None:
    from wavespike.runtime.compiled import head_kernels
    from wavespike.runtime.events import kernels

    x = np.linspace(-16, 16, 200_001).astype(np.float32)
    out = np.empty_like(x)
    kernels.gelu_of(x, out)
    exact = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    assert np.abs(out - exact)[np.abs(x) <= 8].max() < 1.3e-6
    head_kernels.exp_of(x, out)
    assert np.abs(out / np.exp(x.astype(np.float64)) - 1).max() < 1.2e-6
    positive = np.logspace(-9, 12, 100_001).astype(np.float32)
    out = np.empty_like(positive)
    head_kernels.inverse_root_of(positive, out)
    assert np.abs(out * np.sqrt(positive.astype(np.float64)) - 1).max() < 4e-7


@pytest.mark.parametrize("neuron", [
    NeuronConfig(kind="if"), NeuronConfig(kind="lif", tau=1.5, decay_input=False), NeuronConfig(kind="lif", reset="soft"), NeuronConfig(kind="plif", v_reset=-0.3),
], ids=["if", "lif-no-decay", "soft", "reset"])
@pytest.mark.parametrize("options", [
    {"time_steps": 1}, {"time_steps": 6, "temporal_shift": True, "shift_segments": 8, "shift_fold": 2}, {"time_steps": 2, "mlp": "silenced"},
    {"time_steps": 3, "causal": True, "adanorm_num_embeddings": 3}, {"time_steps": 3, "readout": "spikes", "activation": "identity"},
], ids=["1", "6-shift", "silenced", "3-causal-adanorm", "3-spikes-out"])
def test_every_neuron_and_option(neuron: NeuronConfig, options: dict[str, Any]) -> None:
    dense = backbone(neuron=neuron, **options)
    fast = events.accelerate(dense)
    x = torch.randn(2, 6, 40)
    condition = torch.tensor([2, 0]) if "adanorm_num_embeddings" in options else None
    with torch.no_grad(), record_spikes(dense) as record:
        want = dense(x, condition)
    assert next(iter(record.rates.values())) > 0
    assert error(fast(x, condition), want) < 1e-5


@pytest.mark.parametrize("options", [{"time_steps": 2}, {"time_steps": 3, "causal": True, "initial_norm": True, "temporal_shift": True, "shift_segments": 8, "shift_fold": 2},
                                     {"time_steps": 4, "readout": "spikes", "activation": "identity", "initial_norm": True}])
def test_a_stream_by_events_is_the_whole_to_the_last_bit(options: dict[str, Any]) -> None:
    fast = events.accelerate(backbone(**options))
    x = torch.randn(2, 6, 61)
    whole = fast(x)
    for sizes in ([1] * 61, [3, 0, 17, 40, 1], [60, 1]):
        state, out = fast.initial_state(2), []
        for i, chunk in enumerate(x.split(sizes, -1)):
            frames, state = fast.step(chunk, state, None, i == len(sizes) - 1)
            out.append(frames)
        assert torch.equal(torch.cat(out, 1), whole)


@pytest.mark.parametrize("shape", [(5, 1), (6, 33), (3, 83), (100, 160)])
def test_the_embedding_by_frames_is_the_convolution(shape: tuple[int, int]) -> None:
    from wavespike.nn.conv import Conv1d
    from wavespike.runtime.events.backbone import FrameConv1d

    torch.manual_seed(0)
    conv = Conv1d(*shape, 7)
    fast = FrameConv1d.of(conv)
    for frames in (1, 2, 9):
        x = torch.randn(2, shape[0], frames)
        with torch.no_grad():
            assert error(fast(x), conv(x)) < 1e-5
    assert fast(x.requires_grad_()).requires_grad
    with torch.no_grad():
        conv.weight.mul_(2)
        assert error(fast(x), conv(x)) < 1e-5


@pytest.mark.parametrize("dense_from", [0.0, 0.05, 0.15, 0.3])
def test_busy_frames_take_the_dense_product(dense_from: float) -> None:
    """Whatever the share from which a frame is left to the dense product, the result is the same."""
    dense = backbone()
    fast: Any = events.accelerate(dense, dense_from=dense_from)
    x = torch.randn(1, 6, 60)
    with torch.no_grad():
        assert error(fast(x), dense(x)) < 1e-5
    rows = fast.packed()[0]
    window = np.pad(np.random.default_rng(0).standard_normal((60, 4, 32)).astype(np.float32), ((3, 3), (0, 0), (0, 0)))
    _, waiting = rows.run(window, (np.ones(32, np.float32), np.zeros(32, np.float32)), dense_from)
    assert waiting >= {0.0: 50, 0.05: 1}.get(dense_from, 0)
    assert waiting == 0 or dense_from < 0.3


def test_threads_change_nothing() -> None:
    """Ranges of frames on two threads, items on several, and callers of their own: the same numbers."""
    dense = backbone(temporal_shift=True, shift_segments=8, shift_fold=2)
    fast = events.accelerate(dense)
    x = torch.randn(1, 6, 400)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = fast(x)
        torch.set_num_threads(2)
        assert torch.equal(fast(x), want)
        found: list[torch.Tensor] = []
        callers = [threading.Thread(target=lambda: found.append(fast(x))) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(before)
    assert len(found) == 4
    assert all(torch.equal(y, want) for y in found)


def test_int8_rows_stay_near() -> None:
    dense = backbone()
    x = torch.randn(1, 6, 200)
    with torch.no_grad():
        want, got = dense(x), events.accelerate(dense, "int8")(x)
    assert not torch.equal(want, got)
    assert 10 * torch.log10(want.square().sum() / (want - got).square().sum()) > 15
    with pytest.raises(UsageError, match="precision"):
        events.accelerate(dense, "int4")  # type: ignore[arg-type]


def test_int16_sums_cannot_overflow() -> None:
    from wavespike.runtime.events.backbone import Rows

    one_sign = torch.ones(4, 300)  # 300 x 127 does not fit into 16 bits
    assert Rows.of(one_sign, None, "int8").sum_type.dtype == np.int32
    assert Rows.of(torch.cat([one_sign[:, :150], -one_sign[:, :150]], 1), None, "int8").sum_type.dtype == np.int16


@pytest.mark.parametrize("preset", [name for name in wavespike.presets() if name.startswith("spiking-")] or [pytest.param("", marks=pytest.mark.skip(reason="no spiking vocoder is bundled"))])
def test_the_bundled_spiking_vocoder_by_events(preset: str) -> None:
    """On speech: within 1e-5 unless a spike stood at its threshold (then 50 dB), and 30 dB with 8-bit rows."""
    from wavespike.assets import SAMPLE
    from wavespike.signal.files import read

    model: Any = wavespike.load(preset)
    samples, _ = read(SAMPLE, model.sample_rate)
    features = model.features(torch.from_numpy(samples[:1, : 2 * model.sample_rate].copy()))
    want = model.decode(features)

    def snr_db(got: torch.Tensor) -> float:
        return float(10 * torch.log10(want.square().sum() / (want - got).square().sum().clamp_min(1e-20)))

    assert snr_db(wavespike.load(preset, engine="events").decode(features)) > 50
    assert snr_db(wavespike.load(preset, engine="events", int8=True).decode(features)) > 30


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_compiled_head_is_the_head(padding: Any, momentum: float) -> None:
    from wavespike.runtime.compiled.head import CompiledSourceFilterHead

    torch.manual_seed(0)
    config = SourceFilterHeadConfig(dim=8, n_fft=64, hop_length=16, padding=padding, pitch_dim=8, pitch_layers=1, momentum=momentum)
    head = SourceFilterHead(config, MelConfig(n_fft=64, hop_length=16, n_mels=12, padding=padding)).eval()
    fast = CompiledSourceFilterHead.of(head)
    for frames in (2, 3, 150):
        hidden, features = torch.randn(2, frames, 8), torch.randn(2, 12, frames)
        with torch.no_grad():
            assert error(fast(hidden, features), head(hidden, features)) < 1e-4
    hidden.requires_grad_()
    assert fast(hidden, features).requires_grad


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_head_that_reads_spikes_adds_the_rows_of_those_that_fired(padding: Any, precision: Any) -> None:
    from wavespike.models.registry import build
    from wavespike.runtime.events.head import EventSourceFilterHead

    torch.manual_seed(0)
    model: Any = build({
        "type": "spiking-vocos", "features": {"type": "mel", "n_mels": 12, "padding": padding},
        "backbone": {"type": "spiking-convnext", "input_channels": 12, "dim": 32, "intermediate_dim": 48, "num_layers": 1, "time_steps": 3, "initial_norm": True,
                     "readout": "spikes", "activation": "identity", "expansion_init_std": 0.4},
        "head": {"type": "source-filter", "dim": 96, "padding": padding, "pitch": "hidden", "momentum": 0.0, "consistency_steps": 2}}).eval()
    with torch.no_grad():
        model.head.out.weight.normal_(std=0.05)
        model.head.pitch.out.weight.normal_(std=0.5)
    fast = events.accelerate(model, precision)
    assert isinstance(fast.head, EventSourceFilterHead)
    features = 2 * torch.randn(2, 12, 61)
    hidden = model.backbone(features)
    assert torch.equal(fast.backbone(features), hidden)  # of whole float32 rows in both precisions: the pitch hangs on it
    assert 0.02 < float(hidden.detach().mean()) < 0.5
    assert set(hidden.unique().tolist()) == {0.0, 1.0}
    for ours, want in zip(fast.head.hear(hidden, features), model.head.hear(hidden, features), strict=True):
        torch.testing.assert_close(ours, want)
    want = model.decode(features)
    assert error(fast.decode(features), want) < (1e-4 if precision == "float32" else 0.05)
    with torch.no_grad():
        model.head.out.weight.mul_(0.5)  # the rows are packed anew
        model.head.pitch.out.bias.add_(1.0)
    assert error(fast.decode(features), model.decode(features)) < (1e-4 if precision == "float32" else 0.05)
    assert error(fast.decode(features), want) > 1e-3
    frames = hidden[:, :, :].clone().requires_grad_()
    assert fast.head.hear(frames, features)[0].requires_grad


def test_the_engine_compiled_says_what_the_dense_vocoder_says_and_streams_it() -> None:
    from wavespike.assets import SAMPLE
    from wavespike.signal.files import read

    samples, rate = read(SAMPLE, 24000)
    speech = torch.from_numpy(samples[:1, :rate].copy())
    dense, fast = wavespike.load("vocos-24k"), wavespike.load("vocos-24k", engine="compiled")
    features = dense.features(speech.repeat(2, 1))
    want = dense.decode(features)
    assert error(fast.decode(features), want) < 1e-4
    with fast.stream(batch_size=2) as session:
        pieces = [session.push(piece) for piece in features.split(17, -1)] + [session.flush()]
    assert error(torch.cat(pieces, -1), want) < 1e-4
    with pytest.raises(UsageError, match="source-filter head"):
        wavespike.load("griffin-lim-24k", engine="compiled")


@pytest.mark.parametrize("kind", ["LIF", "adLIF", "RLIF", "RadLIF", "SE-adLIF"])
@pytest.mark.parametrize("options", [{}, {"normalization": "layernorm"}, {"normalization": "none", "use_bias": True}, {"bidirectional": True}, {"max_delay_frames": 3}],
                         ids=["batchnorm", "layernorm", "bias", "bidirectional", "delays"])
def test_recurrent_layers(kind: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = RecurrentLayer(20, 48, kind, **options).eval()
    with torch.no_grad():
        layer.W.weight.mul_(30)  # type: ignore[operator, union-attr]
        if getattr(layer, "norm", None) is not None:
            layer.norm.weight.mul_(5)  # type: ignore[operator, union-attr]
        if kind == "SE-adLIF":
            layer.a.mul_(0.01)
            layer.b.mul_(0.01)
    fast = events.accelerate(layer)
    for x in (torch.randn(30, 3, 20), (torch.rand(30, 3, 20) < 0.2).float(), torch.rand(2, 1, 20)):
        lengths = torch.tensor([30, 12, 20]) if x.shape[1] == 3 else None
        with torch.no_grad():
            want, rates = layer(x, lengths)
        assert float(want.mean()) > 0 or len(x) < 3
        got, got_rates = fast(x, lengths)
        assert torch.equal(got, want)
        torch.testing.assert_close(got_rates, rates)


def test_engines_are_named_and_refused_in_one_line() -> None:
    model = wavespike.load("griffin-lim-24k")
    assert engines.with_engine(model, "auto") is model
    with pytest.raises(UsageError, match="did you mean 'events'"):
        engines.with_engine(model, "event")
    with pytest.raises(UsageError, match="spiking layers"):
        wavespike.load("griffin-lim-24k", engine="events")
    with pytest.raises(UsageError, match="expected a Vocos"):
        engines.with_engine(model, "onnx")
    with pytest.raises(UsageError, match="8-bit"):
        wavespike.load("griffin-lim-24k", int8=True)


def test_without_numba_auto_is_dense_and_events_says_what_to_install(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["numba"] = None
import wavespike
from wavespike.errors import MissingDependencyError
from wavespike.runtime import events
model = wavespike.load("radlif-commands-16k", engine="auto")
assert type(model) is wavespike.SpArch and not events.available()
try:
    wavespike.load("radlif-commands-16k", engine="events")
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pip install 'wavespike[events]'" in done.stdout


@pytest.mark.slow
def test_memory_does_not_grow_over_ten_thousand_calls() -> None:
    def resident_mb() -> float:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
        return float(line.split()[1]) / 1024

    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc on this system")
    fast, layer = events.accelerate(backbone()), events.accelerate(RecurrentLayer(20, 48, "RadLIF").eval())
    x, y = torch.randn(1, 6, 8), torch.randn(4, 1, 20)
    for _ in range(500):
        fast(x), layer(y)
    before = resident_mb()
    for _ in range(10_000):
        fast(x), layer(y)
    assert resident_mb() - before < 4
    assert spiking_layers(layer)
