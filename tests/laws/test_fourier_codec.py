"""Laws of the codecs of frames (Fourier and source-filter): lapped frames give the signal back, any chunking equals the offline pass, the stated delay holds, lost frames stay unseen."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavespike.errors import ConfigError, FeatureError, UsageError
from wavespike.models.audiodec import AudioDec, AudioDecConfig
from wavespike.models.fourier_codec import FourierCodec, FourierCodecConfig
from wavespike.models.source_filter_codec import SourceFilterCodec, SourceFilterCodecConfig
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.rvq import RVQConfig
from wavespike.nn.spiking import SpikingConvNeXtConfig
from wavespike.signal.lapped import lapped_frames, lapped_window, overlap_lapped
from wavespike.signal.mdct import imdct_frames, mdct_of_frames

HOP = 12
SIZE = {"dim": 8, "intermediate_dim": 16, "num_layers": 2, "causal": True}
DENSE = ConvNeXtConfig(input_channels=6, **SIZE)
SPIKING = SpikingConvNeXtConfig(input_channels=6, temporal_shift=True, shift_segments=4, shift_fold=1, expansion_init_std=0.4, **SIZE)


def tiny(transform="stft", frame_length=20, decoder=DENSE) -> FourierCodec:
    torch.manual_seed(0)
    features = frame_length + 2 if transform == "stft" else HOP
    return FourierCodec(FourierCodecConfig(
        transform=transform, hop_length=HOP, frame_length=frame_length, encoder=ConvNeXtConfig(input_channels=features, embed_kernel_size=1, **SIZE),
        quantizer=RVQConfig(dim=6, num_codebooks=3, codebook_size=16), decoder=decoder)).double().eval()


VOICE = ConvNeXtConfig(input_channels=9, **SIZE)


def voice(decoder=VOICE, **options) -> SourceFilterCodec:
    torch.manual_seed(0)
    codec = SourceFilterCodec(SourceFilterCodecConfig(**{
        "hop_length": HOP, "frame_length": 24, "subframes": 2, "crossfade": 3, "behind": 9, "filter_length": 42, "analysis_length": 48, "bands": 6, "low_bins": 5, "pitch_dim": 8, "pitch_layers": 1,
        "encoder": ConvNeXtConfig(input_channels=11, embed_kernel_size=1, **SIZE), "quantizer": RVQConfig(dim=6, num_codebooks=3, codebook_size=16), "decoder": decoder, **options,
    })).double().eval()
    for weight in (codec.encoder.pitch.out.weight, codec.encoder.project.weight, codec.decoder.out.weight):
        torch.nn.init.normal_(weight)
    torch.nn.init.normal_(codec.decoder.lost)
    return codec


MODELS = {
    "stft": tiny, "stft of two hops": functools.partial(tiny, frame_length=24), "mdct": functools.partial(tiny, transform="mdct", frame_length=24),
    "spiking decoder": functools.partial(tiny, decoder=SPIKING), "source-filter": voice,
    "source-filter, pitch first, one frame a hop": functools.partial(voice, pitch_level=0, subframes=1, behind=0, filter_length=36),
    "source-filter, correlations": functools.partial(voice, analysis_length=800, correlations=(40, 16), low_bins=5),
    "source-filter, spiking decoder": functools.partial(voice, decoder=dataclasses.replace(SPIKING, input_channels=9)),
}


def cut(x: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(x[..., at : at + size])
        at += size
    return [*chunks, x[..., at:]]


@pytest.mark.parametrize("frame_length", [14, 20, 24])
def test_windowing_twice_and_adding_gives_the_signal_back(frame_length):
    x = torch.randn(2, 100, dtype=torch.float64)
    window = lapped_window(frame_length, HOP, dtype=torch.float64)
    frames = lapped_frames(x, frame_length, HOP)
    assert frames.shape == (2, 9, frame_length)
    back = overlap_lapped(frames * window.square(), HOP)
    assert back.shape == (2, 108)
    settled = 108 - (frame_length - HOP)
    assert torch.allclose(back[:, : min(100, settled)], x[:, :settled], atol=1e-12)


def test_the_aliasing_of_mdct_frames_cancels():
    x = torch.randn(2, 120, dtype=torch.float64)
    back = overlap_lapped(imdct_frames(mdct_of_frames(lapped_frames(x, 24, HOP)), 24), HOP)
    assert torch.allclose(back[:, :-HOP], x[:, :-HOP], atol=1e-12)


@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
@given(length=st.integers(1, 200), sizes=st.lists(st.integers(0, 60), max_size=8))
@settings(max_examples=12, deadline=None)
def test_any_chunking_equals_the_offline_pass(make, length, sizes):
    codec = make()
    audio = 0.3 * torch.randn(2, 1, length, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        codes, offline = codec.encode(audio), codec(audio)
    assert codes.shape[-1] == -(-length // HOP)
    with codec.stream(batch_size=2) as session:
        assert torch.allclose(torch.cat([*map(session.push, cut(audio, sizes)), session.flush()], -1), offline, atol=1e-9)
    with codec.stream(batch_size=2) as session:
        assert torch.equal(torch.cat([*map(session.encode, cut(audio, sizes)), session.flush_codes()], -1), codes)
    missing = torch.rand(2, codes.shape[-1], generator=torch.Generator().manual_seed(1)) < 0.4
    with codec.stream(batch_size=2) as session:
        pairs = zip(cut(codes, sizes), cut(missing, sizes), strict=True)
        decoded = torch.cat([*(session.decode(c, m) for c, m in pairs), session.flush_audio()], -1)
    with torch.no_grad():
        assert torch.allclose(decoded, codec.decode(codes, missing), atol=1e-9)


@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
def test_the_stated_delay_is_what_an_impulse_needs(make):
    """With one sample given at a time; and the frame, not the frame and a hop, where whole hops are given in step."""
    codec = make()
    n, at = 20 * HOP, 10 * HOP
    x = torch.zeros(1, 1, n, dtype=torch.float64)
    assert max(lags(codec, x, 1)) == codec.delay
    assert max(lags(codec, x, HOP)) + HOP == codec.delay + 1 == codec.delay_with(HOP)
    assert max(lags(codec, x, 5)) + 5 <= codec.delay_with(5) <= codec.delay + 5
    audio = torch.randn(1, 1, n, dtype=torch.float64)
    changed = audio.clone()
    changed[..., at:] += 3 * torch.randn(1, 1, n - at, dtype=torch.float64)
    with torch.no_grad():
        reach = (codec(changed) - codec(audio))[0, 0].abs() > 1e-12
    assert not bool(reach[: at - codec.delay].any())
    if isinstance(codec, FourierCodec):  # the window of the other's encoder hardly hears its hop's end
        assert bool(reach[at - codec.delay : at].any())  # the look-ahead is used


def lags(codec, x, size):
    """Samples that are in and not yet out, after each chunk of `size`."""
    with codec.stream() as session:
        given = 0
        for number, chunk in enumerate(x.split(size, -1), 1):
            given += session.push(chunk).shape[-1]
            yield number * size - given


@pytest.mark.parametrize("make", [tiny, voice])
def test_what_was_lost_is_not_looked_at_and_only_the_past_bridges_it(make):
    codec = make()
    codes = torch.randint(16, (1, 3, 20))
    missing = torch.zeros(1, 20, dtype=torch.bool)
    missing[:, 8:11] = True
    other = codes.clone()
    other[..., 8:11] = (codes[..., 8:11] + 5) % 16
    with torch.no_grad():
        heard = codec.decode(codes, missing)
        assert torch.equal(heard, codec.decode(other, missing))
        whole = codec.decode(codes)
    assert torch.equal(heard[..., : 8 * HOP - codec.edge], whole[..., : 8 * HOP - codec.edge])
    assert not torch.allclose(heard[..., 8 * HOP : 11 * HOP], whole[..., 8 * HOP : 11 * HOP])


@pytest.mark.parametrize("make", [tiny, voice])
def test_any_prefix_of_the_codebooks_decodes(make):
    codec = make()
    audio = torch.randn(1, 1, 240, dtype=torch.float64)
    codes = codec.encode(audio)
    for k in (1, 2, 3):
        assert torch.equal(codec.encode(audio, num_codebooks=k), codes[:, :k])
        assert codec.decode(codes[:, :k]).shape == audio.shape


@pytest.mark.parametrize("make", [tiny, voice])
def test_a_huge_chunk_goes_through_in_parts(make):
    codec = make()
    session = codec.stream()
    session.max_frames = 5
    audio = torch.randn(1, 1, 1234, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(torch.cat([session.push(audio), session.flush()], -1), codec(audio), atol=1e-9)


@pytest.mark.parametrize("make", [tiny, voice])
def test_gradients_of_an_output_reach_codes_of_the_past_only(make):
    codec = make()
    latents = torch.randn(1, 6 + (make is voice), 20, dtype=torch.float64, requires_grad=True)
    codec.synthesise(latents)[..., : 10 * HOP - codec.edge].square().sum().backward()
    reached = latents.grad.abs().sum((0, 1)) > 0
    assert bool(reached[9])
    assert not bool(reached[10:].any())


class TestBadInput:
    @pytest.mark.parametrize(("options", "message"), [
        ({"frame_length": 12}, "frame_length"),
        ({"frame_length": 26}, "frame_length"),
        ({"transform": "mdct", "frame_length": 20}, "two hops"),
        ({"decoder": ConvNeXtConfig(input_channels=6, dim=8)}, "decoder.causal"),
        ({"decoder": ConvNeXtConfig(input_channels=7, **SIZE)}, "decoder.input_channels"),
    ])
    def test_a_configuration_that_does_not_fit_is_refused(self, options, message):
        with pytest.raises(ConfigError, match=message):
            tiny(**options)

    @pytest.mark.parametrize(("options", "message"), [
        ({"subframes": 5}, "subframes"), ({"frame_length": 11}, "frame_length"), ({"crossfade": 7}, "crossfade"), ({"behind": 40}, "behind"), ({"filter_length": 16}, "filter_length"), ({"analysis_length": 20}, "analysis_length"),
        ({"correlations": (240,)}, "correlations"), ({"low_bins": 25}, "low_bins"), ({"pitch_level": 3}, "pitch_level"), ({"bands": 7}, r"encoder.input_channels: expected 12 \(bands \+ low_bins\)"),
        ({"decoder": DENSE}, "decoder.input_channels"),
    ])
    def test_a_source_filter_codec_that_does_not_fit_is_refused(self, options, message):
        with pytest.raises(ConfigError, match=message):
            voice(**options)

    def test_missing_frames_have_the_shape_of_the_codes(self):
        codec = tiny()
        codes = torch.zeros(1, 3, 5, dtype=torch.int64)
        with pytest.raises(FeatureError, match=r"\[1, 5\]"):
            codec.decode(codes, torch.zeros(1, 4, dtype=torch.bool))

    def test_a_codec_that_does_not_conceal_says_so(self):
        codec = AudioDec(AudioDecConfig(quantizer=RVQConfig(num_codebooks=1, codebook_size=4)))
        with pytest.raises(UsageError, match="does not conceal"):
            codec.decode(torch.zeros(1, 1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.bool))

    def test_nothing_comes_after_the_end(self):
        session = tiny().stream()
        session.flush()
        with pytest.raises(UsageError, match="new stream"):
            session.push(torch.zeros(1, 1, 5, dtype=torch.float64))
