"""Augmentation does what its numbers say, and is a function of its generator."""

import pytest
import torch

from wavespike.errors import ConfigError
from wavespike.training.augmentation import (
    AugmentConfig,
    add_noise,
    augment_audio,
    change_speed,
    pad_batch,
    reverberate,
    shift,
    shift_bands,
    spec_augment,
)


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def test_noise_has_the_ratio_asked_for():
    audio, noise = torch.randn(3, 4000, generator=g()), torch.randn(3, 4000, generator=g(1))
    snr = torch.tensor([0.0, 10.0, 20.0])
    added = add_noise(audio, noise, snr) - audio
    measured = 10 * torch.log10(audio.square().mean(-1) / added.square().mean(-1))
    torch.testing.assert_close(measured, snr, atol=1e-3, rtol=0)


def test_shift_moves_and_fills_with_silence():
    assert shift(torch.tensor([[1.0, 2, 3], [1, 2, 3]]), torch.tensor([1, -2])).tolist() == [[0, 1, 2], [3, 0, 0]]


def test_speed_raises_the_pitch_by_its_factor():
    t = torch.arange(8000) / 8000
    tone = torch.sin(2 * torch.pi * 500 * t)[None]
    faster = change_speed(tone, torch.tensor([1.1]))[0, 1000:7000]
    peak = torch.fft.rfft(faster * torch.hann_window(6000)).abs().argmax() * 8000 / 6000
    assert peak.item() == pytest.approx(550, abs=2)
    torch.testing.assert_close(change_speed(tone, torch.tensor([1.0])), tone)


def test_reverberation_keeps_the_direct_sound_and_decays():
    click = torch.zeros(1, 4000)
    click[0, 100] = 1
    wet = reverberate(click, torch.tensor([1600.0]), torch.tensor([0.25]), g())[0]
    assert wet[100].item() == pytest.approx(1, abs=1e-3)
    assert wet[:99].abs().max() < 1e-4
    assert wet[101:].square().sum().item() == pytest.approx(0.25, rel=0.01)
    assert wet[1400:1700].square().sum() < 1e-3 * wet[101:400].square().sum()


def test_bands_move_by_whole_and_half_steps():
    x = torch.arange(5.0)[None, :, None]
    assert shift_bands(x, torch.tensor([1.0]))[0, :, 0].tolist() == [0, 0, 1, 2, 3]
    assert shift_bands(x, torch.tensor([-0.5]))[0, :, 0].tolist() == [0.5, 1.5, 2.5, 3.5, 4]


def test_masks_are_no_wider_than_told_and_keep_the_rest():
    x = torch.randn(20, 30, 50, generator=g())
    y = spec_augment(x, AugmentConfig(frequency_masks=1, frequency_bands=4, time_masks=1, time_frames=5), g())
    changed = x != y
    bands = (changed.float().mean(2) > 0.9).sum(1)
    frames = (changed.float().mean(1) > 0.9).sum(1)
    assert bands.max() <= 4
    assert frames.max() <= 5
    assert bands.max() >= 2
    assert frames.max() >= 2
    assert changed.float().mean() < 0.25


def test_the_same_generator_gives_the_same_audio_and_off_is_off():
    audio = 0.1 * torch.randn(4, 2000, generator=g())
    config = AugmentConfig(p_noise=1, p_gain=1, p_polarity=0.5, p_reverb=1, p_shift=1, p_speed=1)
    once, again = (augment_audio(audio, 8000, config, g(3)) for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(once, augment_audio(audio, 8000, config, g(4)))
    assert once.abs().max() <= 1
    off = AugmentConfig(p_noise=0, p_gain=0, p_polarity=0, p_reverb=0)
    assert torch.equal(augment_audio(audio, 8000, off, g()), audio)
    assert torch.equal(augment_audio(audio, 8000, dataclass_polarity(), g()), -audio)


def dataclass_polarity():
    return AugmentConfig(p_noise=0, p_gain=0, p_polarity=1, p_reverb=0)


def test_padding_keeps_lengths():
    x, lengths = pad_batch([torch.ones(3), torch.ones(5)])
    assert lengths.tolist() == [3, 5]
    assert x.sum(1).tolist() == [3, 5]


def test_ranges_are_checked():
    with pytest.raises(ConfigError, match="p_noise"):
        AugmentConfig(p_noise=1.5)
    with pytest.raises(ConfigError, match="snr_db"):
        AugmentConfig(snr_db=(10.0, 0.0))
