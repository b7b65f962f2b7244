"""The contract every registered model type and every preset keeps: build, forward, gradient, seed, save and load, streaming, card.

A model type joins by a line in CONFIGS; one without a line is tested at its default size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import wavespike
from wavespike.config import to_dict
from wavespike.errors import UsageError, WavespikeError
from wavespike.models.base import Model
from wavespike.models.registry import MODEL_TYPES, build, model_class

MEL = {"type": "mel", "n_fft": 64, "hop_length": 16, "n_mels": 12}
CONVNEXT = {"type": "convnext", "input_channels": 12, "dim": 8, "intermediate_dim": 16, "num_layers": 1}
ISTFT = {"type": "istft", "dim": 8, "n_fft": 64, "hop_length": 16}
SPIKING = {"type": "spiking-convnext", "input_channels": 12, "dim": 32, "intermediate_dim": 32, "num_layers": 1}

CODER = {"input_channels": 6, "dim": 8, "intermediate_dim": 16, "num_layers": 1, "causal": True}
FRAMES = {"transform": "stft", "hop_length": 20, "frame_length": 32, "quantizer": {"dim": 6, "num_codebooks": 3, "codebook_size": 16}}

CONFIGS: dict[str, list[dict[str, Any]]] = {
    "vocos": [
        {"features": MEL, "backbone": CONVNEXT, "head": ISTFT},
        {"features": {**MEL, "padding": "same"}, "backbone": {**CONVNEXT, "causal": True}, "head": {**ISTFT, "padding": "same", "consistency_steps": 1}},
        {"features": MEL, "backbone": {"type": "resnet", "input_channels": 12, "dim": 8, "num_blocks": 1}, "head": {**ISTFT, "mel_prior": True}},
        {"features": MEL, "backbone": CONVNEXT, "head": {"type": "imdct-symexp", "dim": 8, "mdct_frame_len": 32}},
        {"features": MEL, "backbone": CONVNEXT, "head": {"type": "imdct-cos", "dim": 8, "mdct_frame_len": 32}},
        {"features": MEL, "backbone": CONVNEXT, "head": {"type": "source-filter", "dim": 8, "n_fft": 64, "hop_length": 16, "pitch_dim": 8, "pitch_layers": 1}},
        {"features": MEL, "backbone": CONVNEXT, "head": {"type": "source-filter", "dim": 8, "n_fft": 64, "hop_length": 16, "pitch": "hidden"}},
        {"features": {"type": "encodec", "bandwidths": [1.5], "codebook_dim": 12}, "backbone": CONVNEXT,
         "head": {"type": "istft", "dim": 8, "n_fft": 640, "hop_length": 320, "padding": "same"}},
    ],
    "griffin-lim": [{"features": MEL, "iterations": 3}],
    "specgrad": [
        {"features": MEL, "denoiser": {"type": "frames", "backbone": {**CONVNEXT, "input_channels": 8}}, "steps": 2},
        {"features": MEL, "denoiser": {"type": "frames", "backbone": {**CONVNEXT, "input_channels": 8}}, "steps": 3, "sampler": "dpm2", "consistency_steps": 1,
         "source": {"type": "excitation", "pitch_dim": 8, "pitch_layers": 1}, "prior": {"type": "energy"}},
        {"features": MEL, "denoiser": {"type": "frames", "backbone": {**CONVNEXT, "input_channels": 8}}, "steps": 2, "shallow": 0.5,
         "source": {"type": "excitation", "pitch_dim": 8, "pitch_layers": 1}},
        {"features": MEL, "denoiser": {"type": "frames", "backbone": {**SPIKING, "input_channels": 8}}, "steps": 2, "sampler": "ddpm", "prediction": "signal"},
        {"features": {**MEL, "padding": "same"}, "denoiser": {"type": "wavegrad", "n_mels": 12, "mel_channels": 8, "factors": [4, 4], "channels": [8, 8],
         "down_channels": [8], "first_channels": 4}, "schedule": "linear-1000", "prediction": "noise", "space": "signal", "sampler": "ddpm", "steps": 3},
    ],
    "spiking-vocos": [
        {"features": MEL, "backbone": SPIKING, "head": {**ISTFT, "dim": 32}},
        {"features": MEL, "backbone": {**SPIKING, "temporal_shift": True, "causal": True, "initial_norm": True, "num_layers": 2}, "head": {**ISTFT, "dim": 32, "mel_prior": True}},
        {"features": MEL, "backbone": {**SPIKING, "neuron": {"kind": "lif", "reset": "soft"}, "amplitude_shortcut": False, "expansion_init_std": 0.4},
         "head": {"type": "source-filter", "dim": 32, "n_fft": 64, "hop_length": 16, "pitch_dim": 8, "pitch_layers": 1}},
        {"features": MEL, "backbone": {**SPIKING, "time_steps": 3, "activation": "identity", "readout": "spikes", "expansion_init_std": 0.4},
         "head": {"type": "source-filter", "dim": 96, "n_fft": 64, "hop_length": 16, "pitch": "hidden"}},
    ],
    "hifigan": [{"channels": 24, "in_channels": 8, "upsample_scales": [4, 3]}],
    "audiodec": [{"encoder": {"channels": 2}, "decoder": {"type": "audiodec-decoder", "channels": 2}}],
    "fourier-codec": [
        {**FRAMES, "encoder": {**CODER, "input_channels": 34, "embed_kernel_size": 1}, "decoder": {"type": "convnext", **CODER}},
        {**FRAMES, "transform": "mdct", "frame_length": 40, "encoder": {**CODER, "input_channels": 20}, "decoder": {"type": "convnext", **CODER}},
        {**FRAMES, "encoder": {**CODER, "input_channels": 34}, "decoder": {**SPIKING, "input_channels": 6, "causal": True, "expansion_init_std": 0.4}},
    ],
    "sparch": [{"model_type": "RadLIF", "nb_hiddens": 32, "nb_layers": 2, "pdrop": 0.0}, {"model_type": "GRU", "nb_hiddens": 8, "pdrop": 0.0}],
}
"""Model type -> small configurations (without the type)."""

CASES = [pytest.param({"type": t, **c}, id=f"{t}-{i}") for t in MODEL_TYPES for i, c in enumerate(CONFIGS.get(t, [{}]))]
PRESETS = wavespike.presets()


def make(config: dict[str, Any], seed: int = 0) -> Model[Any]:
    torch.manual_seed(seed)
    return build(config)


def signal(model: Any, batch: int = 2) -> Tensor:
    """What the model eats first: features of a vocoder, audio of a codec or a classifier."""
    generator = torch.Generator().manual_seed(1)
    if model.kind == "vocoder":
        return torch.randn(batch, model.feature_channels, 24, generator=generator)
    if model.kind == "codec":
        return 0.3 * torch.randn(batch, model.channels, 12 * model.hop, generator=generator)
    assert model.kind == "classifier", f"a new kind {model.kind!r}: say here how it is run"
    return 0.3 * torch.randn(batch, model.sample_rate // 2, generator=generator)


def run(model: Any, x: Tensor) -> Tensor:
    out: Tensor = model.decode(x) if model.kind == "vocoder" else model(x)
    return out


def same(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and float((a - b).detach().abs().max()) <= tolerance * float(b.detach().abs().max().clamp_min(1e-9))


@pytest.mark.parametrize("config", CASES)
def test_build_and_forward(config: dict[str, Any]) -> None:
    model = make(config).eval()
    assert type(model) is model_class(config["type"])
    assert model.sample_rate > 0
    x = signal(model)
    with torch.no_grad():
        out = run(model, x)
    assert out.shape[0] == x.shape[0]
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("config", CASES)
def test_gradient_reaches_the_parameters(config: dict[str, Any]) -> None:
    model = make(config).train()
    if not any(p.requires_grad for p in model.parameters()):
        assert not list(model.parameters())  # nothing learned at all
        return
    run(model, signal(model)).square().mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert sum(bool(g.abs().max() > 0) for g in gradients) >= len(list(model.parameters())) // 3  # codes stop the gradient of a codec: its encoder has none here


@pytest.mark.parametrize("config", CASES)
def test_the_same_seed_gives_the_same_output(config: dict[str, Any]) -> None:
    one, two, other = (make(config, seed).eval() for seed in (0, 0, 1))
    x = signal(one)
    with torch.no_grad():
        assert torch.equal(run(one, x), run(two, x))
        if list(one.parameters()):
            assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("config", CASES)
def test_an_item_does_not_see_its_batch(config: dict[str, Any]) -> None:
    model = make(config).double().eval()
    x = signal(model).double()
    with torch.no_grad():
        assert same(run(model, x[1:]), run(model, x)[1:], 1e-9)


@pytest.mark.parametrize("config", CASES)
def test_saved_and_loaded_it_is_bit_equal(config: dict[str, Any], tmp_path: Path) -> None:
    model = make(config).eval()
    again = wavespike.load(wavespike.save(model, tmp_path / "model", card="a card"))
    assert to_dict(again.config) == to_dict(model.config)
    assert (tmp_path / "model" / "README.md").read_text() == "a card"
    x = signal(model)
    with torch.no_grad():
        assert torch.equal(run(model, x), run(again, x))


@pytest.mark.parametrize("config", CASES)
def test_a_stream_equals_the_whole(config: dict[str, Any]) -> None:
    model: Any = make(config).double().eval()
    x = signal(model).double()
    try:
        session = model.stream(batch_size=2)
    except UsageError as error:  # a model that says why it cannot
        pytest.skip(f"{config['type']} does not stream: {error}")
    size = 5 if model.kind == "vocoder" else 1000
    out = [session.push(chunk) for chunk in torch.split(x, size, -1)] + [session.flush()]
    with torch.no_grad():
        want = run(model, x)
    got = out[-1] if model.kind == "classifier" else torch.cat(out, -1)
    assert same(got.to(want), want, 1e-6)


def test_every_configured_type_is_spelt_as_registered() -> None:
    known_elsewhere = {"spiking-vocos", "hifigan", "audiodec", "sparch"}
    assert set(CONFIGS) - known_elsewhere <= set(MODEL_TYPES)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_runs_and_has_a_complete_card(name: str) -> None:
    model = wavespike.load(name)
    folder = Path(wavespike.__file__).parent / "hub" / "presets" / name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["format"], config["kind"]) == ("wavespike-1", model.kind)
    assert config["model"]["type"] == model.config.type_name
    card = (folder / "README.md").read_text(encoding="utf-8").lower()
    for item in (name, "data", "licence", "intended use"):
        assert item in card, f"the card of {name} says nothing about: {item}"
    assert not model.training
    with torch.no_grad():
        out = run(model, signal(model))
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_streams_like_the_whole(name: str) -> None:
    model: Any = wavespike.load(name).double()
    if model.kind != "vocoder":
        pytest.skip(f"{name} is a {model.kind}; its type's streaming law is tested above")
    x = signal(model, 1).double()
    session = model.stream()
    with torch.no_grad():
        got = torch.cat([*(session.push(chunk) for chunk in torch.split(x, 7, -1)), session.flush()], -1)
        assert same(got, model.decode(x), 1e-6)


@pytest.mark.parametrize("config", CASES)
def test_eval_takes_every_model_that_gives_speech_back_and_counts_its_energy(config: dict[str, Any]) -> None:
    from wavespike.metrics.systems import ModelSystem

    model = make(config)
    if model.kind == "classifier":
        with pytest.raises(UsageError, match="eval judges models that give speech back"):
            ModelSystem("name", model)
        return
    learned = config["type"] == "hifigan" or config.get("features", {}).get("type") == "encodec"  # their features come from another network
    audio = (0.1 * torch.randn(model.sample_rate // 4, generator=torch.Generator().manual_seed(0))).numpy()
    system = ModelSystem("name", model)
    try:
        made = system.make(audio, model.sample_rate, Path("x.wav"))
    except WavespikeError:
        assert learned
        return
    assert made.audio.shape[0] >= audio.size - getattr(model, "hop_length", 0)
    assert made.audio.ndim == 1
    assert (made.bytes is not None) == (model.kind == "codec")
    energy = system.energy(audio, model.sample_rate)
    assert energy is not None
    assert energy["millijoules_per_second"] > 0
    assert energy["uncounted"] == {}
    assert system.identity() == ModelSystem("other name", model).identity()
