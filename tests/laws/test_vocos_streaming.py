"""Laws of streaming: any chunking of any batch equals the offline output; `delay` is what it says; blocks of audio equal the whole.

In float64 the equality shows that the algorithm is exact (1e-8), in float32 that rounding does not spoil it (1e-4; a source-filter head is judged
against its own sensitivity to rounding).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wavespike.errors import FeatureError, UsageError
from wavespike.models.base import Vocoder
from wavespike.models.registry import build
from wavespike.models.streaming import WindowStream
from wavespike.runtime.streaming import decode_long, resynthesise_blocks

MEL = {"type": "mel", "n_fft": 64, "hop_length": 16, "n_mels": 12}


def vocos(padding: str, head: dict[str, Any], backbone: dict[str, Any] | None = None, **mel: Any) -> dict[str, Any]:
    body = {"type": "convnext", "dim": 8, "intermediate_dim": 16, "num_layers": 2, "input_channels": 12, **(backbone or {})}
    return {"type": "vocos", "features": {**MEL, "padding": padding, **mel}, "backbone": body, "head": {"dim": 8, "padding": padding, **head}}


def istft(**options: Any) -> dict[str, Any]:
    return {"type": "istft", "n_fft": 64, "hop_length": 16, **options}


def source_filter(**options: Any) -> dict[str, Any]:
    return {"type": "source-filter", "n_fft": 64, "hop_length": 16, "pitch_dim": 8, "pitch_layers": 1, **options}


CONFIGS: dict[str, dict[str, Any]] = {
    "istft-center": vocos("center", istft()),
    "istft-same": vocos("same", istft()),
    "istft-same-odd": vocos("same", istft(hop_length=15), hop_length=15),
    "istft-hop-equals-window": vocos("same", istft(hop_length=64), hop_length=64),
    "istft-half-overlap": vocos("center", istft(hop_length=32), hop_length=32),
    "istft-prior-projected": vocos("center", istft(mel_prior=True, consistency_steps=2)),
    "istft-causal": vocos("same", istft(), {"causal": True}),
    "imdct-symexp": vocos("center", {"type": "imdct-symexp", "mdct_frame_len": 32}),
    "imdct-cos": vocos("same", {"type": "imdct-cos", "mdct_frame_len": 32, "clip_audio": True}),
    "resnet": {**vocos("center", istft()), "backbone": {"type": "resnet", "dim": 8, "num_blocks": 2, "input_channels": 12}},
    "resnet-causal": {**vocos("center", istft()), "backbone": {"type": "resnet", "dim": 8, "num_blocks": 1, "input_channels": 12, "causal": True}},
    "source-filter-center": vocos("center", source_filter()),
    "source-filter-same": vocos("same", source_filter(consistency_steps=1)),
    "source-filter-eighth": vocos("same", source_filter(hop_length=8, consistency_steps=3), hop_length=8),
    "source-filter-uneven": vocos("center", source_filter(hop_length=24), hop_length=24),
    "source-filter-causal": vocos("center", source_filter(causal=True), {"causal": True}),
    "source-filter-hidden": vocos("center", source_filter(pitch="hidden", consistency_steps=1)),
    "source-filter-hidden-causal": vocos("same", source_filter(pitch="hidden", consistency_steps=1, causal=True), {"causal": True}),
    "source-filter-spikes": {
        **vocos("center", source_filter(pitch="hidden", dim=32, consistency_steps=1)), "type": "spiking-vocos",
        "backbone": {"type": "spiking-convnext", "dim": 16, "intermediate_dim": 24, "num_layers": 2, "input_channels": 12, "time_steps": 2, "readout": "spikes",
                     "expansion_init_std": 0.4}},
    "griffin-lim": {"type": "griffin-lim", "iterations": 5, "features": MEL},
    "griffin-lim-same": {"type": "griffin-lim", "iterations": 3, "features": {**MEL, "padding": "same"}, "seed": 3},
}


def model_of(name: str, dtype: torch.dtype = torch.float64) -> Vocoder[Any]:
    torch.manual_seed(0)
    model = build(CONFIGS[name]).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)  # so that every frame matters
    assert isinstance(model, Vocoder)
    return model


def stream(model: Vocoder[Any], features: Tensor, chunks: list[int], **condition: Any) -> Tensor:
    with model.stream(batch_size=features.shape[0], **condition) as session:
        out = [session.push(features[..., a : a + n]) for a, n in zip([sum(chunks[:i]) for i in range(len(chunks))], chunks, strict=True)]
        out.append(session.push(features[..., sum(chunks) :]))
        out.append(session.flush())
    return torch.cat(out, 1)


def error(ours: Tensor, want: Tensor) -> float:
    assert ours.shape == want.shape
    return float((ours - want).detach().abs().max() / want.abs().max()) if want.numel() else 0.0


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_stream_equals_offline_for_any_chunking(name: str, data: st.DataObject) -> None:
    model = model_of(name)
    frames, batch = data.draw(st.integers(2, 120)), data.draw(st.integers(1, 3))
    chunks = data.draw(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 60)), max_size=40))
    while sum(chunks) > frames:
        chunks.pop()
    features = torch.randn(batch, 12, frames, dtype=torch.float64, generator=torch.Generator().manual_seed(frames))
    assert error(stream(model, features, chunks), model.decode(features)) <= 1e-8


@pytest.mark.parametrize("name", [n for n in CONFIGS if not n.startswith("source")])
def test_stream_equals_offline_in_single_precision(name: str) -> None:
    model = model_of(name, torch.float32)
    features = torch.randn(2, 12, 150)
    assert error(stream(model, features, [1] * 100), model.decode(features)) <= 1e-4


def test_a_source_filter_stream_is_as_near_as_single_precision_lets_it() -> None:
    """A pitch track is integrated, so the last bit of a feature moves the phase of all later pulses: the offline output itself is no better defined."""
    model = model_of("source-filter-center", torch.float32)
    features = torch.randn(2, 12, 300)
    want = model.decode(features)

    def distance(audio: Tensor) -> float:
        return float((audio - want).detach().square().mean().sqrt() / want.detach().square().mean().sqrt())

    last_bit = max(distance(model.decode(torch.where(torch.rand_like(features) < 0.5, features, features.nextafter(features + 1)))) for _ in range(5))
    assert distance(stream(model, features, [1] * 200)) <= max(1e-4, 2 * last_bit)
    assert last_bit < 0.03


@pytest.mark.parametrize("name", CONFIGS)
def test_delay_is_what_it_says(name: str) -> None:
    model = model_of(name)
    session = model.stream(batch_size=1)
    features = torch.randn(1, 12, 220, dtype=torch.float64)
    got = 0
    for frame in range(220):
        got += session.push(features[..., frame : frame + 1]).shape[1]
        if frame >= 150:
            assert (frame + 1) * model.hop_length - got == session.delay


def test_a_causal_model_waits_for_its_head_only() -> None:
    assert model_of("istft-causal").stream().delay == (64 - 16) // 2
    assert model_of("istft-same").stream().delay == (64 - 16) // 2 + 16 * 3 * (1 + 2)


def test_more_input_never_changes_the_past() -> None:
    model = model_of("source-filter-center")
    features = torch.randn(1, 12, 200, dtype=torch.float64)
    other = torch.cat([features[..., :100], torch.randn(1, 12, 100, dtype=torch.float64)], -1)
    a, b = (model.stream().push(x[..., :100]) for x in (features, other))
    assert a.shape[1] > 0
    assert torch.equal(a, b)
    assert error(a, model.decode(other)[:, : a.shape[1]]) <= 1e-8


def test_sessions_do_not_touch_each_other() -> None:
    model = model_of("istft-center")
    features = torch.randn(2, 12, 60, dtype=torch.float64)
    one, two = model.stream(), model.stream()
    out: list[list[Tensor]] = [[], []]
    for chunk in features.split(5, -1):
        out[0].append(one.push(chunk[:1]))
        out[1].append(two.push(chunk[1:]))
    out[0].append(one.flush())
    out[1].append(two.flush())
    assert error(torch.cat([torch.cat(o, 1) for o in out]), model.decode(features)) <= 1e-8


def test_conditions_are_per_item_in_a_stream() -> None:
    config = vocos("same", istft(), {"adanorm_num_embeddings": 3})
    torch.manual_seed(0)
    model = build(config).double().eval()
    assert isinstance(model, Vocoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    features, condition = torch.randn(2, 12, 40, dtype=torch.float64), torch.tensor([0, 2])
    assert error(stream(model, features, [3] * 10, bandwidth_id=condition), model.decode(features, bandwidth_id=condition)) <= 1e-8


@pytest.mark.parametrize("name", ["istft-center", "istft-same-odd", "source-filter-center", "griffin-lim", "imdct-cos"])
@settings(max_examples=10, deadline=None)
@given(samples=st.integers(64, 3000), block=st.integers(1, 1500))
def test_resynthesis_by_blocks_equals_the_whole(name: str, samples: int, block: int) -> None:
    model = model_of(name)
    audio = torch.randn(2, samples, dtype=torch.float64, generator=torch.Generator().manual_seed(samples)) * 0.1
    audio = audio if block > 50 else audio[:, :400]
    out = torch.cat(list(resynthesise_blocks(model, audio.split(block, 1))), 1)
    assert error(out, model(audio)) <= 1e-8


def test_long_features_are_decoded_piece_by_piece() -> None:
    model = model_of("source-filter-same")
    features = torch.randn(1, 12, 700, dtype=torch.float64)  # more than one window
    pieces = list(decode_long(model, features, chunk_frames=600))
    assert len(pieces) > 1
    assert error(torch.cat(pieces, 1), model.decode(features)) <= 1e-8


def test_windows_of_any_decoder_equal_the_whole() -> None:
    model = model_of("istft-center")
    features = torch.randn(1, 12, 130, dtype=torch.float64)
    session = WindowStream(model.decode, model.context_frames, model.hop_length, 12)
    out = torch.cat([*(session.push(c) for c in features.split(9, -1)), session.flush()], 1)
    assert error(out, model.decode(features)) <= 1e-8


def test_an_empty_stream_gives_nothing() -> None:
    assert model_of("istft-center").stream(batch_size=3).flush().shape == (3, 0)


def test_wrong_chunks_are_refused() -> None:
    session = model_of("istft-center").stream(batch_size=2)
    with pytest.raises(FeatureError, match=r"\[2, 12, frames\]"):
        session.push(torch.zeros(1, 12, 3))
    with pytest.raises(FeatureError, match="finite"):
        session.push(torch.full((2, 12, 3), float("nan")))
    session.flush()
    with pytest.raises(UsageError, match="after flush"):
        session.push(torch.zeros(2, 12, 1))
