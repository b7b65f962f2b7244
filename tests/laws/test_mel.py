"""Laws of mel spectrograms: every convention is librosa's to 1e-5, and the way back is a true pseudo-inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavespike.errors import ConfigError
from wavespike.signal.mel import MelConfig, log_mel, magnitude_from_mel, mel_filterbank

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
CONVENTIONS: list[dict[str, Any]] = [
    {"convention": "vocos"},
    {"convention": "hifigan"},
    {"convention": "librosa"},
    {"convention": "vocos", "n_fft": 512, "hop_length": 128, "win_length": 400, "n_mels": 40},
    {"convention": "hifigan", "f_max": None, "f_min": 50.0, "log_base": "10"},
    {"convention": "vocos", "norm": "slaney", "power": 2.0, "log_base": "2", "sample_rate": 16000, "f_min": 20.0, "f_max": 7600.0, "n_mels": 64},
]


@pytest.mark.parametrize("options", CONVENTIONS)
def test_log_mel_agrees_with_librosa(options: dict[str, Any]) -> None:
    librosa = pytest.importorskip("librosa")
    c = MelConfig.named(**options)
    x = torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
    ours = log_mel(x, c)
    pad = (c.n_fft - c.hop_length) // 2
    audio = x.double().numpy() if c.padding == "center" else np.pad(x.double().numpy(), ((0, 0), (pad, pad)), mode="reflect")
    theirs = librosa.feature.melspectrogram(
        y=audio, sr=c.sample_rate, n_fft=c.n_fft, hop_length=c.hop_length, win_length=c.win_length, center=c.padding == "center", pad_mode="reflect",
        power=c.power, n_mels=c.n_mels, fmin=c.f_min, fmax=c.f_max, htk=c.mel_scale == "htk", norm=c.norm, dtype=np.float64)
    scale = {"e": 1.0, "10": np.log(10.0), "2": np.log(2.0)}[c.log_base]
    expected = np.log(np.maximum(theirs, c.clip)) / scale
    assert ours.shape == expected.shape
    floor = np.exp(expected * scale) < 1e-3 * theirs.max()  # far below the loudest point, float32 has fewer digits left
    error = np.abs(ours.numpy() - expected)
    assert error[~floor].max() / np.abs(expected).max() < 1e-5
    assert error.max() < 1e-3


@SETTINGS
@given(st.sampled_from([8000, 16000, 22050, 24000, 44100, 48000]), st.sampled_from([256, 400, 512, 1024, 2048]), st.integers(1, 128),
       st.floats(0, 500), st.floats(0.3, 1.0), st.sampled_from([None, "slaney"]), st.sampled_from(["htk", "slaney"]))
def test_the_filterbank_is_librosas(rate: int, n_fft: int, n_mels: int, f_min: float, top: float, norm: Any, scale: Any) -> None:
    librosa = pytest.importorskip("librosa")
    f_max = rate / 2 * top
    ours = mel_filterbank(MelConfig(sample_rate=rate, n_fft=n_fft, hop_length=n_fft // 4, n_mels=n_mels, f_min=f_min, f_max=f_max, norm=norm, mel_scale=scale))
    theirs = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=f_min, fmax=f_max, htk=scale == "htk", norm=norm, dtype=np.float64)
    assert np.abs(ours.numpy() - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_features_of_vocos_have_its_shape_and_floor() -> None:
    c = MelConfig()
    features = log_mel(torch.zeros(3, 24000), c)
    assert features.shape == (3, 100, 94)
    torch.testing.assert_close(features, torch.full_like(features, float(np.log(1e-7))))


@SETTINGS
@given(st.floats(-40, 0), st.integers(0, 9))
def test_a_gain_adds_its_nepers(gain_db: float, seed: int) -> None:
    x = torch.randn(1, 4000, generator=torch.Generator().manual_seed(seed))
    gain = 10 ** (gain_db / 20)
    c = MelConfig()
    torch.testing.assert_close(log_mel(gain * x, c), log_mel(x, c) + float(np.log(gain)), atol=2e-4, rtol=0)


@pytest.mark.parametrize("options", CONVENTIONS)
def test_magnitude_from_mel_is_exact_on_what_the_filters_can_express(options: dict[str, Any]) -> None:
    """Spectra that are sums of filters come back; others come back as their least-squares projection on those, floored."""
    c = MelConfig.named(**options)
    bank = mel_filterbank(c).double()
    weights = torch.rand(1, 12, c.n_mels, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    spectrum = 1e3 * weights @ bank  # magnitude to the power of the convention, [1, 12, F]
    scale = {"e": 1.0, "10": np.log(10.0), "2": np.log(2.0)}[c.log_base]
    features = (torch.log(spectrum @ bank.T) / scale).transpose(1, 2).float()
    back = magnitude_from_mel(features, c)
    expected = (spectrum ** (1 / c.power)).transpose(1, 2).clamp_min(1e-4).float()
    loud = expected > 1e-2 * expected.max()
    assert back.shape == expected.shape
    assert bool(loud.any())
    assert float(((back - expected).abs() / expected)[loud].max()) < 2e-3
    assert float(back.min()) >= 0.9999e-4


def test_magnitude_from_mel_is_the_least_squares_answer() -> None:
    c = MelConfig()
    bank = mel_filterbank(c).double().numpy()
    features = log_mel(torch.randn(1, 6000, generator=torch.Generator().manual_seed(1)), c)
    expected, *_ = np.linalg.lstsq(bank, np.exp(features[0].double().numpy()), rcond=None)
    np.testing.assert_allclose(magnitude_from_mel(features, c)[0].numpy(), np.maximum(expected, 1e-4), atol=1e-4 * np.abs(expected).max())


def test_mel_and_its_inverse_train() -> None:
    x = torch.randn(1, 3000, generator=torch.Generator().manual_seed(2)).requires_grad_()
    magnitude_from_mel(log_mel(x, MelConfig()), MelConfig()).square().mean().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())
    assert float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize(("change", "message"), [
    ({"n_mels": 0}, "n_mels above 0"), ({"hop_length": 2000}, "hop_length <= n_fft"), ({"win_length": 2048}, "win_length"),
    ({"f_max": 13000.0}, "f_max"), ({"f_min": 9000.0, "f_max": 8000.0}, "f_min"), ({"clip": 0.0}, "clip"), ({"sample_rate": 0}, "sample_rate"),
])
def test_an_impossible_convention_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MelConfig(**change)


def test_an_unknown_convention_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'hifigan'"):
        MelConfig.named("hifi-gan")
