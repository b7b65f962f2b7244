"""Laws of AudioDec's streaming: any chunking equals the offline pass, the past never changes, sessions do not disturb one another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavespike.errors import AudioError, ConfigError, FeatureError, UsageError
from wavespike.models.audiodec import AudioDec, AudioDecConfig, DecoderConfig, EncoderConfig
from wavespike.models.hifigan import HiFiGAN, HiFiGANConfig
from wavespike.nn.conv import Conv1d, ConvTranspose1d, with_weight_norm, without_weight_norm
from wavespike.nn.rvq import RVQConfig
from wavespike.signal.mel import MelConfig

VOCODER = HiFiGANConfig(in_channels=8, channels=8, upsample_scales=(4, 3), resblock_kernel_sizes=(3, 5), resblock_dilations=((1, 2), (1,)), groups=1)
GROUPED = HiFiGANConfig(in_channels=8, channels=8, upsample_scales=(4, 3), resblock_kernel_sizes=(3,), groups=3)


def tiny(decoder=None, **options) -> AudioDec:
    torch.manual_seed(0)
    options.setdefault("quantizer", RVQConfig(dim=8, num_codebooks=3, codebook_size=16))
    config = AudioDecConfig(
        encoder=EncoderConfig(channels=3, ratios=(2, 4), strides=(3, 4), dilations=(1, 3)),
        decoder=decoder or DecoderConfig(channels=3, ratios=(4, 2), strides=(4, 3), dilations=(1, 3)), **options)
    return AudioDec(config).eval()


MODELS = {
    "symAD": {},
    "symAAD": {"activate": True, "weight_norm": True},
    "batch norm": {"projector": "conv1d_bn"},
    "stereo": {"input_channels": 2, "output_channels": 2},
    "vocoder v0": {"decoder": VOCODER},
    "vocoder v1": {"decoder": GROUPED},
}
LOOK_AHEADS = {"within the hop": 5, "the hop": 11, "the hop and the next": 23, "three hops": 36}


def cut(x: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(x[..., at : at + size])
        at += size
    return [*chunks, x[..., at:]]


@pytest.mark.parametrize("options", MODELS.values(), ids=list(MODELS))
@given(length=st.integers(1, 200), sizes=st.lists(st.integers(0, 60), max_size=8))
@settings(max_examples=12, deadline=None)
def test_any_chunking_equals_the_offline_pass(options, length, sizes):
    codec = tiny(**options)
    audio = torch.randn(2, codec.channels, length, generator=torch.Generator().manual_seed(length)) * 0.3
    with torch.no_grad():
        codes, offline = codec.encode(audio), codec(audio)
    with codec.stream(batch_size=2) as session:
        outputs = [session.push(chunk) for chunk in cut(audio, sizes)]
        assert [y.shape[-1] for y in outputs] == [c.shape[-1] for c in cut(audio, sizes)]  # as much out as in
        streamed = torch.cat([*outputs, session.flush()], -1)
    assert torch.allclose(streamed, offline, atol=1e-5)
    with codec.stream(batch_size=2) as session:
        assert torch.equal(torch.cat([session.encode(chunk) for chunk in cut(audio, sizes)], -1), codes)
    with codec.stream(batch_size=2) as session:
        decoded = torch.cat([session.decode(c) for c in cut(codes, sizes)], -1)
    with torch.no_grad():
        assert torch.allclose(decoded, codec.decode(codes), atol=1e-5)


@pytest.mark.parametrize("options", MODELS.values(), ids=list(MODELS))
def test_a_sample_changes_nothing_before_it(options):
    """The stated delay is zero: measured with an impulse at every phase of the hop."""
    codec = tiny(**options)
    assert codec.delay == 0
    audio = torch.randn(1, codec.channels, 60) * 0.3
    with torch.no_grad():
        before = codec(audio)
        for at in range(24, 38):
            changed = audio.clone()
            changed[..., at] += 1
            assert torch.equal(codec(changed)[..., :at], before[..., :at])


@pytest.mark.parametrize("look_ahead", LOOK_AHEADS.values(), ids=list(LOOK_AHEADS))
@given(length=st.integers(1, 200), sizes=st.lists(st.integers(0, 60), max_size=8))
@settings(max_examples=12, deadline=None)
def test_any_chunking_equals_the_offline_pass_with_look_ahead(look_ahead, length, sizes):
    codec = tiny(look_ahead=look_ahead)
    audio = torch.randn(2, 1, length, generator=torch.Generator().manual_seed(length)) * 0.3
    with torch.no_grad():
        codes, offline = codec.encode(audio), codec(audio)
    assert codes.shape[-1] == -(-length // codec.hop)
    with codec.stream(batch_size=2) as session:
        outputs, heard = [], 0
        for chunk in cut(audio, sizes):
            outputs.append(session.push(chunk))
            heard += chunk.shape[-1]
            final = -(-(heard - look_ahead) // codec.hop) * codec.hop  # whole hops whose code is complete
            assert sum(y.shape[-1] for y in outputs) == max(0, min(heard, final))
        streamed = torch.cat([*outputs, session.flush()], -1)
    assert torch.allclose(streamed, offline, atol=1e-5)
    with codec.stream(batch_size=2) as session:
        streamed_codes = [session.encode(chunk) for chunk in cut(audio, sizes)]
        assert torch.equal(torch.cat([*streamed_codes, session.flush_codes()], -1), codes)


@pytest.mark.parametrize("look_ahead", LOOK_AHEADS.values(), ids=list(LOOK_AHEADS))
def test_the_look_ahead_is_the_stated_delay(look_ahead):
    """A sample changes the output from `delay` samples before it at the earliest, and at some phase of the hop that early."""
    codec = tiny(look_ahead=look_ahead)
    assert codec.delay == look_ahead
    audio, earliest = torch.randn(1, 1, 120) * 0.3, []
    with torch.no_grad():
        before = codec.synthesise(codec.latents(audio))
        for at in range(60, 72):
            changed = audio.clone()
            changed[..., at] += 1
            earliest.append(at - int((codec.synthesise(codec.latents(changed)) != before).nonzero()[0, -1]))
    assert max(earliest) == look_ahead
    # what a caller that gathers whole frames waits for: counted over the frames themselves
    for frame in (1, 5, 12, 24):
        waits = [-(-(code * 12 + look_ahead + 1) // frame) * frame - code * 12 for code in range(60)]
        assert codec.delay_with(frame) == max(waits)


def test_look_ahead_is_refused_where_it_means_nothing():
    with pytest.raises(ConfigError, match="look_ahead"):
        AudioDecConfig(look_ahead=-1)
    with pytest.raises(ConfigError, match="centred"):
        AudioDecConfig(look_ahead=1, causal=False)
    codec = tiny(look_ahead=5)
    for start in ("zeros", "warm"):
        with pytest.raises(UsageError, match="look-ahead"):
            codec.stream(start=start)
    session = codec.stream()
    session.push(torch.zeros(1, 1, 12))
    session.flush()
    with pytest.raises(UsageError, match="after the end"):
        session.push(torch.zeros(1, 1, 12))


def test_a_code_leaves_with_the_first_sample_of_its_hop():
    codec = tiny()
    with codec.stream() as session:
        assert [session.encode(torch.zeros(1, 1, 1)).shape[-1] for _ in range(25)] == [1, *[0] * 11, 1, *[0] * 11, 1]


@pytest.mark.parametrize("options", [{}, {"decoder": HiFiGANConfig(**{**GROUPED.__dict__, "causal": False})}], ids=["symmetric", "vocoder"])
def test_a_centred_codec_keeps_the_length_states_its_look_ahead_and_refuses_to_stream(options):
    codec = tiny(causal=False, **options)
    audio = torch.randn(1, 1, 1200)
    with torch.no_grad():
        before = codec(audio)
        assert before.shape == audio.shape
        changed = audio.clone()
        changed[..., 600 + codec.delay + 1 :] = torch.randn(1, 1, 1200 - 600 - codec.delay - 1)
        assert 0 < codec.delay < 400
        assert torch.allclose(codec(changed)[..., :600], before[..., :600], atol=1e-6)
        changed[..., 601:] = 20 * torch.randn(1, 1, 599)
        assert not torch.allclose(codec(changed)[..., :600], before[..., :600], atol=1e-6)
    with pytest.raises(UsageError, match="causal"):
        codec.stream()


def test_sessions_do_not_disturb_one_another():
    codec = tiny()
    a, b = torch.randn(1, 1, 100), torch.randn(1, 1, 100)
    first, second = codec.stream(), codec.stream()
    ya, yb = [], []
    for x, y in zip(a.split(17, -1), b.split(17, -1), strict=True):
        ya.append(first.push(x))
        yb.append(second.push(y))
    with torch.no_grad():
        assert torch.allclose(torch.cat(ya, -1), codec(a), atol=1e-5)
        assert torch.allclose(torch.cat(yb, -1), codec(b), atol=1e-5)


def test_any_prefix_of_the_codebooks_decodes():
    codec = tiny()
    audio = torch.randn(1, 1, 240)
    codes = codec.encode(audio)
    for k in (1, 2, 3):
        assert torch.equal(codec.encode(audio, num_codebooks=k), codes[:, :k])
        assert codec.decode(codes[:, :k]).shape == audio.shape
    assert codec.bitrate == 3 * 4 * 48000 / 12
    assert codec.codebooks_for(2 * 16000) == 2
    with pytest.raises(UsageError, match="bitrate"):
        codec.codebooks_for(100)


def test_a_huge_chunk_goes_through_in_parts():
    codec = tiny()
    codec_stream = codec.stream()
    codec_stream.max_frames = 5
    audio = torch.randn(1, 1, 1234)
    with torch.no_grad():
        assert torch.allclose(codec_stream.push(audio), codec(audio), atol=1e-5)


class TestBadInput:
    @pytest.mark.parametrize(("audio", "error", "message"), [
        (torch.zeros(1, 2, 100), AudioError, r"expected audio \[batch, 1, samples\]"),
        (torch.zeros(100), AudioError, "expected audio"),
        (torch.zeros(1, 1, 0), AudioError, "at least one sample"),
        (torch.full((1, 1, 9), float("nan")), AudioError, "NaN"),
        (torch.zeros(1, 1, 9, dtype=torch.int16), AudioError, "floating-point"),
    ])
    def test_audio(self, audio, error, message):
        with pytest.raises(error, match=message):
            tiny().encode(audio)

    @pytest.mark.parametrize(("codes", "message"), [
        (torch.full((1, 3, 4), 16), "0..15"),
        (torch.full((1, 3, 4), -1), "0..15"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), r"1\.\.3"),
        (torch.zeros(1, 3, 4), "integer"),
        (torch.zeros(1, 3, 0, dtype=torch.int64), "at least one frame"),
        (torch.zeros(3, 4, dtype=torch.int64), "codes"),
    ])
    def test_codes(self, codes, message):
        with pytest.raises(FeatureError, match=message):
            tiny().decode(codes)

    def test_a_session_refuses_another_number_of_streams(self):
        with pytest.raises(AudioError, match="2 streams"):
            tiny().stream(batch_size=2).push(torch.zeros(1, 1, 10))

    def test_empty_chunks_give_empty_output(self):
        session = tiny().stream()
        assert session.push(torch.zeros(1, 1, 0)).shape == (1, 1, 0)
        assert session.encode(torch.zeros(1, 1, 0)).shape == (1, 3, 0)

    def test_parts_that_do_not_fit_are_refused(self):
        with pytest.raises(ConfigError, match="product 12"):
            tiny(decoder=DecoderConfig(strides=(4, 4), ratios=(4, 2)))
        with pytest.raises(ConfigError, match="in_channels"):
            tiny(decoder=HiFiGANConfig(in_channels=9, channels=8, upsample_scales=(4, 3)))

    def test_a_latent_vocoder_has_no_features_of_its_own(self):
        with pytest.raises(UsageError, match="join it with its codec"):
            HiFiGAN(VOCODER)(torch.zeros(1, 100))


def test_the_same_generator_is_a_mel_vocoder():
    mel = MelConfig(sample_rate=24000, n_fft=64, hop_length=12, n_mels=8)
    vocoder = HiFiGAN(HiFiGANConfig(**{**GROUPED.__dict__, "sample_rate": 24000, "features": mel})).eval()
    audio = torch.randn(2, 1200)
    with torch.no_grad():
        features = vocoder.features(audio)
        offline = vocoder.decode(features)
    with vocoder.stream(batch_size=2) as session:
        streamed = torch.cat([session.push(c) for c in features.split(7, -1)], -1)
    assert offline.shape == (2, features.shape[-1] * 12)
    assert torch.allclose(streamed, offline, atol=1e-5)


@given(stride=st.integers(1, 5), kernel=st.integers(5, 9), length=st.integers(1, 40), sizes=st.lists(st.integers(0, 12), max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_strided_causal_convolution_streams_in_any_chunks(stride, kernel, length, sizes):
    conv = Conv1d(2, 3, kernel, stride=stride, causal=True)
    x = torch.randn(1, 2, length)
    state, out = conv.initial_state(1), []
    for chunk in cut(x, sizes):
        y, state = conv.step(chunk, state)
        out.append(y)
    assert torch.allclose(torch.cat(out, -1), conv(x), atol=1e-5)
    assert conv(x).shape[-1] == -(-length // stride)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("stride", [2, 3, 4, 5])
def test_a_transposed_convolution_multiplies_the_length(stride, causal):
    x = torch.randn(1, 2, 7)
    assert ConvTranspose1d(2, 3, stride, causal=causal)(x).shape[-1] == 7 * stride


def test_computing_weight_norm_once_leaves_the_function_and_the_original_alone():
    conv = with_weight_norm(Conv1d(2, 3, 5))
    other = with_weight_norm(Conv1d(2, 3, 5))
    x = torch.randn(1, 2, 9)
    fused = without_weight_norm(torch.nn.Sequential(conv, torch.nn.ELU()))
    assert torch.allclose(fused(x), torch.nn.functional.elu(conv(x)), atol=1e-6)
    assert "parametrizations.weight.original0" in conv.state_dict()
    assert "weight" in fused[0].state_dict()
    assert other(x).shape == conv(x).shape
