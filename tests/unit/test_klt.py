"""Laws of the Karhunen-Loeve start of AudioDec: a codec before its first step, the same from the same speech, and the best that so many numbers allow."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from wavespike.errors import ConfigError
from wavespike.models.audiodec import AudioDec, AudioDecConfig, DecoderConfig, EncoderConfig
from wavespike.models.hifigan import HiFiGANConfig
from wavespike.nn.rvq import RVQConfig
from wavespike.signal.mdct import imdct, mdct
from wavespike.training.klt import klt_start, principal_components

HOP = 24
CONFIG = AudioDecConfig(sample_rate=8000, look_ahead=2 * HOP - 1, encoder=EncoderConfig(channels=2, ratios=(2, 4, 16), strides=(2, 3, 4), dilations=(1, 3)),
                        decoder=DecoderConfig(channels=2, ratios=(16, 4, 2), strides=(4, 3, 2), dilations=(1, 3)), quantizer=RVQConfig(dim=8, num_codebooks=2, codebook_size=16))


def low_passed(seconds: float, seed: int) -> torch.Tensor:
    """Noise of a falling spectrum [T]: nearly all of its energy in the lowest quarter of the band, as speech."""
    noise = torch.randn(int(8000 * seconds), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    spectrum = torch.fft.rfft(noise)
    band = torch.linspace(0, 1, len(spectrum), dtype=torch.float64)
    shaped = torch.fft.irfft(spectrum * torch.exp(-((band / 0.15) ** 2)), n=len(noise))
    return (0.1 * shaped / shaped.std()).float()


def started(config: AudioDecConfig = CONFIG, seed: int = 0, **options: float) -> AudioDec:
    torch.manual_seed(seed)
    model = AudioDec(config).eval()
    klt_start(model, [low_passed(1.0, i)[None, None] for i in range(4)], **options)
    return model


def reconstruction(model: AudioDec, audio: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.synthesise(model.latents(audio[None, None]))[0, 0, : len(audio)]


def snr_db(audio: torch.Tensor, output: torch.Tensor) -> float:
    inner = slice(4 * HOP, -4 * HOP)  # the first frames stand on a copy of the first latent
    return 10 * math.log10(float(audio[inner].square().sum() / (audio - output)[inner].square().sum()))


def test_the_waveform_passes_before_the_first_step_and_as_well_as_by_an_mdct_of_the_same_size():
    model, audio = started(), low_passed(1.0, 99)
    coefficients = mdct(audio, 2 * HOP)
    coefficients[8:] = 0
    known = snr_db(audio, imdct(coefficients, 2 * HOP)[: len(audio)])
    ours = snr_db(audio, reconstruction(model, audio))
    assert ours > 15
    assert ours > known - 0.1  # components of the signal are never worse than fixed ones, but for the estimate
    torch.manual_seed(0)
    assert snr_db(audio, reconstruction(AudioDec(CONFIG).eval(), audio)) < 1  # the random start


def test_with_as_many_numbers_as_samples_nothing_is_lost():
    wide = dataclasses.replace(CONFIG, quantizer=RVQConfig(dim=HOP, num_codebooks=1, codebook_size=4))
    model, noise = started(wide), torch.randn(1200, generator=torch.Generator().manual_seed(1))
    assert snr_db(noise, reconstruction(model, noise)) > 80  # white noise too: the transform is a basis


def test_the_start_is_finite_and_a_function_of_the_speech_alone_where_components_flow():
    one, other = started(seed=0), started(seed=0)
    assert all(torch.equal(a, b) and bool(torch.isfinite(a).all()) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    audio = low_passed(0.5, 5)
    assert torch.allclose(reconstruction(one, audio), reconstruction(started(seed=1), audio), atol=1e-6)


def test_latents_have_unit_power_and_noise_shaping_makes_their_energies_more_alike():
    audio = torch.cat([low_passed(1.0, i) for i in range(4)])[None, None]
    spread = {}
    with torch.no_grad():
        for shaping in (0.0, 0.25, 0.5):
            power = started(noise_shaping=shaping).latents(audio)[0].square().mean(1)
            assert float(power.mean()) == pytest.approx(1, rel=0.05)
            spread[shaping] = float(power.max() / power.min())
    assert spread[0.0] > 2 * spread[0.25] > 4 * spread[0.5]
    assert spread[0.5] < 2


def test_every_weight_can_learn_from_the_start():
    """Only first convolutions of residual units wait for the second ones, which start at 0."""
    model, audio = started(), low_passed(0.48, 3)[None, None]  # whole hops
    torch.nn.functional.l1_loss(model.synthesise(model.latents(audio)), 0.5 * audio).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())}
    assert silent == {name for name, _ in model.named_parameters() if "res_units" in name and "conv1" in name}


def test_principal_components_are_those_of_the_second_moments():
    x = torch.randn(500, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5, 2, 0.1, 3]) + torch.tensor([0.0, 0, 0, 4, 0])
    basis, energy = principal_components(x, 3)
    moments = x.double().t() @ x.double() / 500
    assert torch.allclose(moments @ basis.t(), basis.t() * energy, atol=1e-9)
    assert torch.allclose(basis @ basis.t(), torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert energy[0] > energy[1] > energy[2] > torch.linalg.eigvalsh(moments)[1]


@pytest.mark.parametrize("change", [{"activate": True}, {"weight_norm": True}, {"projector": "conv1d_bn"}, {"look_ahead": 0}, {"causal": False, "look_ahead": 0},
                                    {"decoder": DecoderConfig(channels=2, ratios=(16, 4, 2), strides=(3, 4, 2))}, {"input_channels": 2},
                                    {"decoder": HiFiGANConfig(sample_rate=8000, in_channels=8, channels=8, upsample_scales=(4, 3, 2))}], ids=lambda change: next(iter(change)))
def test_models_whose_path_is_not_the_transform_are_refused(change):
    with pytest.raises(ConfigError, match="klt"):
        klt_start(AudioDec(dataclasses.replace(CONFIG, **change)), [low_passed(1.0, 0)[None, None]])


def test_too_little_speech_is_refused():
    with pytest.raises(ConfigError, match="48 hops"):
        klt_start(AudioDec(CONFIG), [low_passed(0.1, 0)[None, None]])
