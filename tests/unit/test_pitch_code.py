"""A pitch that is sent as a number: classes are a logarithmic grid, the decoder speaks at the pitch that was sent, and a prefix without it is a whisper."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wavespike.errors import UsageError
from wavespike.models.source_filter_codec import SourceFilterCodec, SourceFilterCodecConfig
from wavespike.nn.pitch_code import NOT_SENT, PitchedRVQ, PitchScale
from wavespike.nn.rvq import RVQConfig
from wavespike.signal.source import PulseState, pulse_segments

RATE, HOP = 24000, 300
SCALE = PitchScale(1024)


@given(st.floats(55, 550))
def test_a_pitch_comes_back_within_half_a_class(f0_hz):
    scale = PitchScale(1024)
    index = scale.index(torch.tensor(f0_hz, dtype=torch.float64), torch.tensor(True))
    cents = 1200 * math.log2(float(scale.hertz(index)) / f0_hz)
    assert 1 <= int(index) < 1024
    assert abs(cents) <= 1200 * math.log2(10) / 1022 / 2 + 1e-6


def test_unvoiced_is_class_0_and_what_lies_outside_goes_to_the_ends():
    scale = PitchScale(16)
    f0 = torch.tensor([100.0, 20.0, 900.0])
    assert scale.index(f0, torch.tensor([False, True, True])).tolist() == [0, 1, 15]
    assert torch.allclose(scale.hertz(torch.tensor([1, 15])), torch.tensor([55.0, 550.0], dtype=torch.float64))


@pytest.mark.parametrize("place", [0, 1, 3])
def test_the_class_is_sent_as_it_is_at_its_place_and_prefixes_decode(place):
    torch.manual_seed(0)
    quantizer = PitchedRVQ(RVQConfig(dim=3, num_codebooks=4, codebook_size=32, beam=2), place).eval()
    x = torch.randn(2, 4, 9)
    x[:, 0] = torch.randint(32, (2, 9))
    codes = quantizer.encode(x)
    assert codes.shape == (2, 4, 9)
    assert torch.equal(codes[:, place], x[:, 0].long())
    assert torch.equal(quantizer(x).codes[:, place], codes[:, place])
    for k in range(1, 5):
        part = quantizer.encode(x, k)
        values = quantizer.decode(part)
        assert part.shape == (2, k, 9)
        assert values.shape == x.shape
        assert bool((values[:, 0] == (x[:, 0] if k > place else NOT_SENT)).all())
    with pytest.raises(UsageError, match=r"1\.\.4"):
        quantizer.encode(x, 5)


def test_dropout_of_codebooks_takes_the_pitch_from_some_items_and_never_all_of_the_envelope():
    torch.manual_seed(0)
    quantizer = PitchedRVQ(RVQConfig(dim=3, num_codebooks=4, codebook_size=8, codebook_dropout=1.0), 1).train()
    x = torch.randn(64, 4, 5)
    x[:, 0] = 3
    out = quantizer(x)
    sent = out.values[:, 0, 0] == 3
    assert 0 < int(sent.sum()) < 64
    assert bool((out.values[~sent, 0] == NOT_SENT).all())
    assert bool(out.values[:, 1:].abs().amax((1, 2)).gt(0).all())


def segments(index, state=None, scale=SCALE):
    index = torch.as_tensor(index)[None]
    state = PulseState.silent(1) if state is None else state
    return pulse_segments(scale.hertz(index), index > 0, state, HOP, RATE, torch.float64)[0]


def test_pulses_come_at_the_pitch_that_was_sent():
    index = int(PitchScale(1024).index(torch.tensor(200.0), torch.tensor(True)))
    f0 = float(PitchScale(1024).hertz(torch.tensor(index)))
    wave = segments([index] * 80)[HOP:]
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave), dtype=torch.float64)).abs()
    resolution = RATE / len(wave)
    assert abs(float(spectrum[: int(300 / resolution)].argmax()) * resolution - f0) <= resolution
    assert float(wave.square().mean()) == pytest.approx(1.0, rel=0.05)


def test_silence_between_voices_is_silent_and_their_edges_fade():
    wave = segments([0, 0, 500, 500, 0, 0]).view(6, HOP)
    assert not bool(wave[[0, 1, 5]].any())
    assert bool(wave[2:5].any(1).all())
    assert float(wave[2, :10].abs().max()) <= float(wave[3].abs().max()) / 20


def test_hop_by_hop_is_the_whole_train():
    index = [0, 400, 420, 440, 0, 0, 300, 310, 0, 500]
    state = PulseState.silent(1)
    parts = [segments([i], state) for i in index]
    assert torch.allclose(torch.cat(parts), segments(index), atol=1e-9)


def test_a_lost_pitch_is_the_last_that_was_heard():
    state = PulseState.silent(1)
    missing = torch.tensor([[True, False, True, True]])
    assert state.hold(torch.tensor([[7, 5, 9, 9]]), missing).tolist() == [[0, 5, 5, 5]]
    assert state.hold(torch.tensor([[8, 8]]), torch.tensor([[True, False]])).tolist() == [[5, 8]]


def test_without_the_pitch_the_codec_whispers():
    codec = SourceFilterCodec(SourceFilterCodecConfig()).eval()
    codes = torch.randint(1, 1024, (1, 8, 20))
    index = torch.full((1, 20), NOT_SENT)
    with torch.no_grad():
        pulses, noise = codec.decoder.excitation(index, codec.decoder.initial_state(1))
        assert not bool(pulses.any())
        assert bool(noise.any())
        assert codec.decode(codes[:, :1]).shape == (1, 1, 20 * HOP)
