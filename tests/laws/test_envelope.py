"""Laws of the spectral envelope and the noise filter: an inverse that inverts, noise with the envelope's spectrum, variances that add up."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wavespike.nn.priors import EnergyPriorConfig, IsotropicPriorConfig, Prior, SpectralPriorConfig
from wavespike.signal.envelope import cepstral_envelope, mel_magnitude, shape_noise, shaping_filter, whiten, window_energy
from wavespike.signal.mel import MelConfig, log_mel, mel_filterbank
from wavespike.signal.noise import counter_gaussian
from wavespike.signal.stft import stft

MEL = MelConfig()
CONVENTIONS = [pytest.param(MelConfig(), id="vocos"), pytest.param(MelConfig.named("specgrad"), id="specgrad"),
               pytest.param(MelConfig.named("hifigan", f_max=None), id="hifigan")]


def formants(mel: MelConfig, frames: int = 120, sway: float = 0.0) -> Tensor:
    """A vowel's magnitudes [F, L]: four resonances on a slope of 12 dB an octave, swaying `sway` of their frequency once in 120 frames, level of speech."""
    hertz = torch.linspace(0, mel.sample_rate / 2, mel.n_fft // 2 + 1, dtype=torch.float64)[:, None]
    move = 1 + sway * torch.sin(2 * math.pi * torch.arange(frames) / 120.0)[None]
    gain = torch.zeros(hertz.shape[0], frames, dtype=torch.float64)
    for f, width in ((700, 300), (1200, 350), (2600, 500), (3800, 700)):
        gain += 1 / (1 + ((hertz - f * move) / width).square())
    slope = 1 / (1 + (hertz / 800.0).square())
    return 0.05 * (gain * slope + 1e-2) * math.sqrt(window_energy(mel.n_fft, mel.win_length))


def mel_of(magnitude: Tensor, mel: MelConfig) -> Tensor:
    """Log-mel [1, n_mels, L] of magnitudes [F, L]."""
    power = magnitude if mel.power == 1 else magnitude.square()
    return torch.log((mel_filterbank(mel).double() @ power).clamp_min(mel.clip))[None]


def white(mel: MelConfig, frames: int, seed: int = 0, items: int = 1) -> Tensor:
    length = (frames - (mel.padding == "center")) * mel.hop_length
    return torch.stack([counter_gaussian(seed, i, 0, length, dtype=torch.float64) for i in range(items)])


@pytest.mark.parametrize("mel", CONVENTIONS)
@pytest.mark.parametrize("phase", ["zero", "minimum"])
def test_whitening_shaped_noise_gives_the_noise_back(mel: MelConfig, phase: str) -> None:
    features = mel_of(formants(mel, sway=0.1), mel)
    response = shaping_filter(features, mel, phase=phase)  # type: ignore[arg-type]
    noise = white(mel, 120)
    back = whiten(shape_noise(noise, response, mel), response, mel)
    assert float((back - noise).square().sum() / noise.square().sum()) < 1e-3


def test_a_refinement_brings_the_inverse_nearer() -> None:
    features = mel_of(formants(MEL, sway=0.3) * (1 + 3 * (torch.arange(120) % 20 < 10)), MEL)  # abrupt changes of level
    response = shaping_filter(features, MEL)
    shaped = shape_noise(white(MEL, 120), response, MEL)

    def left(refinements: int) -> float:
        rest = shaped - shape_noise(whiten(shaped, response, MEL, refinements), response, MEL)
        return float(rest.square().sum() / shaped.square().sum())

    assert left(1) < 0.5 * left(0)


def long_term_db(noise: Tensor, mel: MelConfig) -> Tensor:
    """Power spectrum of noise [B, T] over time and items, smoothed over nine bins, in decibels [F - 8]."""
    return smooth_db(stft(noise, mel.n_fft, mel.hop_length, mel.win_length, mel.padding)[..., 8:-8].abs().square().mean((0, 2)))


def smooth_db(power: Tensor) -> Tensor:
    return 10 * torch.log10(power.unfold(0, 9, 1).mean(-1))


@pytest.mark.parametrize("mel", CONVENTIONS)
@pytest.mark.parametrize("phase", ["zero", "minimum"])
def test_shaped_noise_has_the_envelope_as_its_long_term_spectrum(mel: MelConfig, phase: str) -> None:
    response = shaping_filter(mel_of(formants(mel), mel), mel, phase=phase)  # type: ignore[arg-type]
    noise = shape_noise(white(mel, 120, items=24), response, mel)
    envelope = response[0, :, 0].abs().square() * window_energy(mel.n_fft, mel.win_length)
    assert float(smooth_db(envelope).max() - smooth_db(envelope).min()) > 20  # a spectrum worth following
    assert float((long_term_db(noise, mel) - smooth_db(envelope)).abs().max()) < 1.0


@pytest.mark.parametrize("mel", CONVENTIONS[:2])
def test_from_the_mel_alone_the_noise_has_the_spectrum_of_the_speech(mel: MelConfig) -> None:
    speech = cepstral_envelope(formants(mel), mel.n_fft, order=16)  # what a lifter of order 24 can follow
    response = shaping_filter(mel_of(speech, mel), mel, floor=1e-9)
    noise = shape_noise(white(mel, 120, items=24), response, mel)
    inside = slice(round(300 / mel.sample_rate * mel.n_fft), round(0.45 * mel.n_fft))
    difference = long_term_db(noise, mel) - smooth_db(speech[:, 0].square())
    assert float(difference[inside].abs().max()) < 1.0


def test_zero_and_minimum_phase_have_the_same_modulus() -> None:
    features = mel_of(formants(MEL, sway=0.1), MEL)
    zero, minimum = (shaping_filter(features, MEL, phase=phase) for phase in ("zero", "minimum"))  # type: ignore[arg-type]
    assert not zero.is_complex()
    assert minimum.is_complex()
    assert torch.allclose(minimum.abs(), zero, rtol=1e-9)


def test_a_minimum_phase_filter_has_its_energy_in_the_beginning() -> None:
    response = shaping_filter(mel_of(formants(MEL), MEL), MEL, phase="minimum")[0, :, 0]
    pulse = torch.fft.irfft(response)
    assert float(pulse[: MEL.n_fft // 8].square().sum() / pulse.square().sum()) > 0.999


def test_an_envelope_that_the_lifter_can_hold_comes_back_exactly() -> None:
    bins = torch.arange(513, dtype=torch.float64)
    magnitude = torch.exp(torch.cos(2 * math.pi * bins * 24 / 1024) - 0.5 * torch.cos(2 * math.pi * bins * 3 / 1024))[:, None]
    assert torch.allclose(cepstral_envelope(magnitude, 1024, order=24), magnitude, rtol=1e-9)
    assert not torch.allclose(cepstral_envelope(magnitude, 1024, order=23), magnitude, rtol=1e-2)


def test_the_mel_of_silence_gives_a_finite_filter_and_the_floor_holds() -> None:
    features = torch.full((1, 100, 5), math.log(MEL.clip))
    response = shaping_filter(features, MEL, floor=1e-3)
    assert bool(torch.isfinite(response).all())
    assert float(response.min()) >= 1e-3
    assert bool((mel_magnitude(features, MEL) > 0).all())


def test_the_filter_has_a_gradient() -> None:
    features = mel_of(formants(MEL, frames=12), MEL).requires_grad_()
    noise = white(MEL, 12).requires_grad_()
    response = shaping_filter(features, MEL)
    whiten(shape_noise(noise, response, MEL).square(), response, MEL).sum().backward()  # type: ignore[no-untyped-call]
    for grad in (features.grad, noise.grad):
        assert grad is not None
        assert bool(torch.isfinite(grad).all())
        assert float(grad.abs().max()) > 0


@pytest.mark.parametrize("config", [IsotropicPriorConfig(), EnergyPriorConfig(energy_max=30.0), SpectralPriorConfig()], ids=lambda c: c.type_name)
def test_every_prior_is_linear_unit_in_unit_out_and_inverted(config: IsotropicPriorConfig | EnergyPriorConfig | SpectralPriorConfig) -> None:
    features = mel_of(formants(MEL, sway=0.1), MEL).repeat(2, 1, 1)
    prior = Prior(config, features, MEL)
    one, two = white(MEL, 120, items=2), white(MEL, 120, seed=1, items=2)
    assert torch.allclose(prior.shape(2 * one - two), 2 * prior.shape(one) - prior.shape(two), atol=1e-9)  # nothing is renormalised
    back = prior.whiten(prior.shape(one))
    assert float((back - one).square().mean()) < 1e-3
    assert float(back.var()) == pytest.approx(1.0, abs=0.05)


def test_speech_like_noise_has_unit_variance_in_the_whitened_space() -> None:
    magnitude = formants(MEL, sway=0.1)
    exact = magnitude / math.sqrt(window_energy(1024))
    speech = shape_noise(white(MEL, 120, items=4), exact[None], MEL).float()  # noise whose spectrum is the vowel's
    prior = Prior(SpectralPriorConfig(), log_mel(speech, MEL), MEL)
    assert 0.7 < float(prior.whiten(speech).var()) < 2.0  # the mel hears one draw, its logarithm lies a little low


def test_counter_noise_is_gaussian_white_and_knows_its_place() -> None:
    x = counter_gaussian(3, 1, 0, 100_000, dtype=torch.float64)
    assert abs(float(x.mean())) < 0.02
    assert float(x.var()) == pytest.approx(1.0, abs=0.02)
    assert float((x**4).mean()) == pytest.approx(3.0, abs=0.15)
    for lag in (1, 2, 256):
        assert abs(float((x[lag:] * x[:-lag]).mean())) < 0.02
    assert torch.equal(counter_gaussian(3, 1, 500, 100, dtype=torch.float64), x[500:600])
    for seed, channel in ((3, 2), (4, 1)):
        assert abs(float((counter_gaussian(seed, channel, 0, 100_000, dtype=torch.float64) * x).mean())) < 0.02
