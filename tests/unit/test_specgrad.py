"""Laws of the diffusion vocoder: seed and noise, streams, conventions, bad input, what a step costs, training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import wavespike
from training_helpers import RECIPES, make_corpus, rows
from wavespike.errors import AudioError, ConfigError, FeatureError, UsageError
from wavespike.models import specgrad_stream
from wavespike.models.registry import build
from wavespike.models.specgrad import SpecGrad, SpecGradConfig
from wavespike.nn.diffwave import DiffWaveConfig
from wavespike.nn.excitation import ExcitationConfig
from wavespike.nn.frame_denoiser import FrameDenoiserConfig
from wavespike.nn.priors import EnergyPriorConfig, IsotropicPriorConfig
from wavespike.nn.wavegrad import WaveGradConfig, WaveGradDenoiser
from wavespike.signal.mel import MelConfig

FRAMES = {"features": {"type": "mel", "n_fft": 64, "hop_length": 16, "n_mels": 12},
          "denoiser": {"type": "frames", "backbone": {"type": "convnext", "input_channels": 8, "dim": 8, "intermediate_dim": 16, "num_layers": 1}}}
SOURCE = {"type": "excitation", "pitch_dim": 8, "pitch_layers": 1}
UNET = {"type": "wavegrad", "n_mels": 12, "mel_channels": 8, "factors": [4, 4], "channels": [8, 8], "down_channels": [8], "first_channels": 4}
WAVE = {"type": "diffwave", "n_mels": 12, "residual_channels": 4, "num_residual_layers": 4, "dilation_cycle_length": 3, "max_timesteps": 50,
        "diffusion_embedding_dim": 8, "diffusion_projection_dim": 8, "spec_upsample_strides": [4, 4]}
SIGNAL = {"schedule": "linear-50", "prediction": "noise", "space": "signal", "sampler": "ddpm"}


def make(seed: int = 0, **changes: Any) -> SpecGrad:
    torch.manual_seed(seed)
    model = build({"type": "specgrad", **FRAMES, "steps": 3, **changes})
    assert isinstance(model, SpecGrad)
    for p in model.parameters():  # a network that says nothing would make every law hold
        if p.requires_grad and float(p.detach().abs().max()) == 0.0:
            torch.nn.init.normal_(p, std=0.1)
    return model.eval()


def mel(frames: int = 20, batch: int = 1, channels: int = 12) -> Tensor:
    return torch.randn(batch, channels, frames, generator=torch.Generator().manual_seed(3)) - 1


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm2"])
def test_the_same_seed_gives_the_same_audio_and_another_seed_other_audio(sampler: str) -> None:
    model = make()
    one = model.decode(mel(), sampler=sampler, seed=5)
    assert torch.equal(one, model.decode(mel(), sampler=sampler, seed=5))
    assert not torch.allclose(one, model.decode(mel(), sampler=sampler, seed=6))
    assert torch.equal(model.decode(mel(), sampler=sampler), model.decode(mel(), sampler=sampler, seed=model.config.seed))


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("padding", ["center", "same"])
def test_a_mel_of_any_length_gives_its_samples(frames: int, padding: str) -> None:
    model = make(features={**FRAMES["features"], "padding": padding}, source=SOURCE, shallow=0.5)
    out = model.decode(mel(frames, 2))
    assert out.shape == (2, (frames - (padding == "center")) * 16)
    assert bool(torch.isfinite(out).all())


STREAMS = {
    "frames": {},
    "source": {"source": SOURCE, "shallow": 0.4, "sampler": "dpm2", "consistency_steps": 1},
    "same": {"features": {**FRAMES["features"], "padding": "same"}, "source": SOURCE, "sampler": "ddpm"},
    "energy": {"prior": {"type": "energy"}, "prediction": "signal"},
    "signal space": {"space": "signal", "prior": {"type": "spectral", "phase": "minimum"}, "sampler": "ddpm"},
    "wavegrad": {"denoiser": UNET, **SIGNAL},
    "diffwave": {"denoiser": WAVE, **SIGNAL, "clip_sample": 1.0},
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("size", [1, 17, 90])
def test_a_stream_in_blocks_equals_the_whole(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specgrad_stream, "BLOCK_FRAMES", 5)
    model = make(**STREAMS[name]).double()
    features = mel(90, 2).double()
    whole = model.decode(features, seed=2)
    session = model.stream(batch_size=2, seed=2)
    pieces = [session.push(chunk) for chunk in features.split(size, -1)]
    before_the_end = sum(p.shape[-1] for p in pieces)
    got = torch.cat([*pieces, session.flush()], -1)
    assert got.shape == whole.shape
    assert float((got - whole).abs().max() / whole.abs().max()) < 1e-6
    if name == "frames" and size == 1:  # it does not wait for the end
        assert before_the_end > 0
        assert before_the_end >= features.shape[-1] * 16 - session.delay - 5 * 16 * (len(session.stages))  # type: ignore[attr-defined]


def test_progress_tells_every_step() -> None:
    seen: list[tuple[int, int]] = []
    make().decode(mel(), steps=4, progress=lambda step, samples: seen.append((step, samples)))
    assert seen == [(i, 19 * 16) for i in (1, 2, 3, 4)]
    seen.clear()
    session = make().stream(steps=2, progress=lambda step, samples: seen.append((step, samples)))
    session.push(mel())
    session.flush()
    assert sum(samples for step, samples in seen if step == 2) == 20 * 16


def test_bad_calls_are_refused_in_one_line() -> None:
    model = make(denoiser=WAVE, **SIGNAL)
    for steps in (0, 51):
        with pytest.raises(UsageError, match=r"--steps: expected 1\.\.50"):
            model.decode(mel(), steps=steps)
    with pytest.raises(UsageError, match="did you mean 'ddpm'"):
        model.decode(mel(), sampler="ddp")
    with pytest.raises(UsageError, match="did you mean 'steps'"):
        model.decode(mel(), step=3)
    with pytest.raises(ConfigError, match="increasing"):
        model.decode(mel(), schedule=(0.5, 0.1))
    with pytest.raises(UsageError, match="length of the schedule"):
        model.decode(mel(), schedule="wg-6", steps=5)
    with pytest.raises(FeatureError, match="NaN"):
        model.decode(torch.full((1, 12, 4), float("nan")))
    with pytest.raises(AudioError, match="NaN"):
        model.features(torch.full((1, 400), float("nan")))
    assert model.decode(mel(), schedule="wg-6").shape == model.decode(mel(), schedule=(0.01, 0.2)).shape


def test_a_mel_of_another_convention_is_refused_with_both_named() -> None:
    model = SpecGrad(SpecGradConfig(denoiser=FrameDenoiserConfig(backbone=dataclasses.replace(FrameDenoiserConfig().backbone, num_layers=1)))).eval()
    with pytest.raises(FeatureError, match=r"100 htk bands.*got 80 bands.*'hifigan': 80 slaney bands 0-8000 Hz, 22050 Hz"):
        model.decode(mel(channels=80))
    with pytest.raises(FeatureError, match=r"100 htk bands.*2048/1200/300"):
        model.decode(mel(channels=100), convention=MelConfig.named("specgrad"))
    assert model.decode(mel(4, channels=100), convention=MelConfig.named("vocos")).shape == (1, 3 * 256)


@pytest.mark.parametrize("prior", ["isotropic", "energy", "spectral"])
@pytest.mark.parametrize("audio", [torch.zeros(1, 800), torch.sign(torch.sin(torch.arange(800.0)))[None], torch.full((1, 800), 100.0)],
                         ids=["silence", "clipping", "far beyond full scale"])
def test_silence_and_clipping_give_finite_audio(prior: str, audio: Tensor) -> None:
    out = make(prior={"type": prior}, source=SOURCE, shallow=0.3)(audio)
    assert out.shape == audio.shape
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("changes", [
    {"steps": 0}, {"steps": 1001}, {"prediction": "noise"}, {"schedule": (0.2, 0.1)}, {"shallow": 0.5}, {"shallow": 1.0, "source": SOURCE}, {"clip_sample": 1.0},
    {"denoiser": {**UNET, "n_mels": 11}, **SIGNAL}, {"denoiser": {**UNET, "factors": [4, 2]}, **SIGNAL}, {"denoiser": WAVE}, {"denoiser": UNET, "source": SOURCE, **SIGNAL},
    {"denoiser": {**WAVE, "max_timesteps": 20}, **SIGNAL}, {"prior": {"type": "spectral", "frames": 2}}, {"prior": {"type": "energy", "energy_max": 0.0}},
    {"prior": {"type": "isotropic", "scale": 0.0}}, {"features": {**FRAMES["features"], "win_length": 48}, "source": SOURCE},
], ids=str)
def test_configurations_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        make(**changes)


def flops_a_second(model: SpecGrad, frames: int) -> float:
    """Floating-point operations of one call of the network for a second of audio (products only, as torch counts)."""
    features = torch.zeros(1, model.feature_channels, frames)
    samples = model.samples(frames)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.network(torch.randn(1, samples), features, torch.tensor([0.9], dtype=torch.float64), torch.randn(1, samples))
    return counter.get_total_flops() / samples * model.sample_rate


def test_a_step_of_the_frame_denoiser_costs_at_least_twenty_times_fewer_operations_than_one_of_diffwave() -> None:
    published = MelConfig.named("specgrad")
    diffwave = SpecGrad(SpecGradConfig(features=published, denoiser=DiffWaveConfig(), schedule="linear-50", prediction="noise", space="signal"))
    ours = SpecGrad(SpecGradConfig(source=ExcitationConfig()))
    assert flops_a_second(diffwave, 4) > 20 * flops_a_second(ours, 9)


def test_the_published_networks_have_the_published_sizes() -> None:
    wavegrad = sum(p.numel() for p in WaveGradDenoiser(WaveGradConfig()).parameters())
    assert 14.5e6 < wavegrad < 16.5e6  # WaveGrad Base: 15 M
    model = SpecGrad(SpecGradConfig(features=MelConfig.named("specgrad"), denoiser=DiffWaveConfig(), schedule="linear-50", prediction="noise", space="signal"))
    assert 2.5e6 < model.parameter_count() < 3.0e6  # DiffWave Base: 2.64 M at 80 bands


def test_a_prior_shapes_the_start_and_the_network_sees_it_white_in_the_whitened_space() -> None:
    quiet = torch.full((1, 12, 20), -8.0)
    whitened, signal = make(), make(space="signal")
    for model in (whitened, signal):
        prior = model.prior(quiet)
        noise = torch.randn(1, 19 * 16)
        x = model.begin(0.0, noise, None, prior)
        assert float(x.std()) == pytest.approx(1.0, abs=0.15) if model is whitened else float(x.std()) < 0.01


# training

TINY = ("trainer.threads=1", "trainer.accelerator=cpu", "trainer.log_every=1", "task.metrics=[]", "data.batch_size=2", "data.num_workers=0", "trainer.validate_every=1000",
        "data.valid_samples=4096")
NETWORKS = {
    "specgrad-24k": ("model.denoiser.backbone.dim=16", "model.denoiser.backbone.input_channels=16", "model.denoiser.backbone.intermediate_dim=32",
                     "model.denoiser.backbone.num_layers=1", "data.crop_samples=4096"),
    "specgrad/published": ("model.denoiser.channels=[8,8,8,8,8]", "model.denoiser.down_channels=[4,4,8,8]", "model.denoiser.mel_channels=8",
                           "model.denoiser.first_channels=4", "data.crop_samples=6000", "trainer.accumulate=1", "model.steps=3"),
    "specgrad/public": ("model.denoiser.residual_channels=4", "model.denoiser.num_residual_layers=3", "model.denoiser.diffusion_projection_dim=8",
                        "data.crop_samples=6000", "trainer.accumulate=1", "model.steps=3"),
    "specgrad/priorgrad": ("model.denoiser.residual_channels=4", "model.denoiser.num_residual_layers=3", "model.denoiser.diffusion_projection_dim=8",
                           "data.crop_samples=5120", "model.steps=3"),
}
NETWORKS["specgrad/priors"] = NETWORKS["specgrad-24k"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    pytest.importorskip("lightning", reason="training needs the package lightning")
    pytest.importorskip("tensorboard", reason="training logs need the package tensorboard")
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def train(folder: Path, recipe: str, words: list[str]) -> Path:
    from wavespike.training.config import train_config
    from wavespike.training.recipe import load_recipe
    from wavespike.training.run import new_folder, start

    config = train_config(load_recipe(RECIPES / f"{recipe}.yaml", words))
    return start(config, new_folder("run", folder), report=lambda line: None)


@pytest.mark.parametrize("recipe", NETWORKS)
def test_every_recipe_trains_two_steps_and_its_model_speaks(recipe: str, corpus: list[str], tmp_path: Path) -> None:
    run = train(tmp_path / "run", recipe, [*TINY, *NETWORKS[recipe], *corpus, "trainer.steps=2", "trainer.ema_decay=0.5", "trainer.monitor=mel"])
    assert [row["step"] for row in rows(run)] == [1, 2]
    assert all(np.isfinite(row["denoising"]) for row in rows(run))
    valid = rows(run, "valid")[-1]
    assert np.isfinite(valid["mel"])
    assert np.isfinite(valid["ls_mae"])
    model: Any = wavespike.load(str(run / "last"))
    assert bool(torch.isfinite(model(0.1 * torch.randn(1, 6000), steps=2)).all())


def test_training_learns_to_denoise(corpus: list[str], tmp_path: Path) -> None:
    words = [*TINY, *NETWORKS["specgrad/priors"], *corpus, "trainer.steps=60", "data.batch_size=4", "optimizer.warmup_steps=0", "optimizer.learning_rate=5e-3",
             "task.mel_weight=0.1", "trainer.monitor=mel"]
    losses = [row["denoising"] for row in rows(train(tmp_path / "run", "specgrad/priors", words))]
    assert sum(losses[-15:]) < 0.8 * sum(losses[:15])


def test_the_pitch_of_a_trained_model_is_taken_and_kept(corpus: list[str], tmp_path: Path) -> None:
    run = train(tmp_path / "run", "specgrad-24k", [*TINY, *NETWORKS["specgrad-24k"], *corpus, "trainer.steps=3", "trainer.monitor=mel"])
    ours: Any = wavespike.load(str(run / "last"))
    donor: Any = wavespike.load("vocos-24k")
    for a, b in zip(ours.source.pitch.parameters(), donor.head.pitch.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ConfigError, match="another size"):
        train(tmp_path / "other", "specgrad-24k", [*TINY, *NETWORKS["specgrad-24k"], *corpus, "trainer.steps=1", "model.source.pitch_dim=8"])
    with pytest.raises(ConfigError, match="without a pitch estimator"):
        train(tmp_path / "none", "specgrad-24k", [*TINY, *NETWORKS["specgrad-24k"], *corpus, "trainer.steps=1", "task.pitch_from=griffin-lim-24k"])


def test_pitch_is_learnt_from_labels_where_no_model_gives_it(corpus: list[str], tmp_path: Path) -> None:
    pytest.importorskip("pyworld", reason="pitch labels need the package pyworld")
    words = [*TINY, *NETWORKS["specgrad-24k"], *corpus, "trainer.steps=2", "task.pitch_from=null", "model.source.pitch_dim=8", "model.source.pitch_layers=1", "trainer.monitor=mel"]
    done = rows(train(tmp_path / "run", "specgrad-24k", words))
    assert all({"pitch", "voicing", "denoising"} <= row.keys() for row in done)


def test_half_precision_learns_the_same_at_first(corpus: list[str], tmp_path: Path) -> None:
    words = [*TINY, *NETWORKS["specgrad/priors"], *corpus, "trainer.steps=4", "trainer.monitor=mel"]
    full, half = (rows(train(tmp_path / p, "specgrad/priors", [*words, f"trainer.precision={p}"])) for p in ("32-true", "bf16-mixed"))
    for a, b in zip(full, half, strict=True):
        assert a["denoising"] == pytest.approx(b["denoising"], rel=0.03)
    assert [r["denoising"] for r in full] != [r["denoising"] for r in half]


def test_another_model_cannot_be_trained_by_diffusion(corpus: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a specgrad model"):
        train(tmp_path / "run", "vocos-24k", [*corpus, "task.type=diffusion", "trainer.steps=1", "trainer.accelerator=cpu"])


def test_priors_without_a_scale_are_as_published() -> None:
    assert IsotropicPriorConfig().scale == 1.0
    assert (EnergyPriorConfig().energy_max, EnergyPriorConfig().floor, EnergyPriorConfig().scale) == (4.0, 0.1, 1.0)
