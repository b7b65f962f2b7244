"""Laws of codec training: every published recipe builds, every stage runs and feeds the next, and what should rest does not move."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("lightning", reason="needs the package lightning (extra train)")
pytest.importorskip("tensorboard", reason="needs the package tensorboard (extra train)")

import wavespike
from wavespike.config import to_dict
from wavespike.errors import CheckpointError, ConfigError, TrainingError
from wavespike.models.registry import build
from wavespike.nn.rvq import ResidualVQ, RVQConfig
from wavespike.training.adversarial_losses import mel_loss
from wavespike.training.codec import CodecTask, code_statistics, hop_labels
from wavespike.training.codec_discriminators import MultiScaleConfig, MultiSpectralConfig, make_codec_discriminator
from wavespike.training.codec_losses import (
    codec_mel_config,
    compressed_spectrum_loss,
    loudness_loss,
    multi_resolution_stft_loss,
    spectra,
    waveform_shape_loss,
)
from wavespike.training.config import train_config
from wavespike.training.noisy_data import mix
from wavespike.training.recipe import load_recipe
from wavespike.training.run import new_folder, resume, start

RECIPES = Path(__file__).parents[2] / "recipes" / "codec"
RATE = 24000
TINY = ["trainer.steps=2", "trainer.validate_every=2", "trainer.log_every=1", "trainer.threads=1", "trainer.accelerator=cpu", "data.batch_size=2", "data.crop_samples=3000",
        "data.valid_files=1", "data.valid_samples=6000", "data.num_workers=0", "task.metrics=[]", "model.quantizer.codebook_size=16", "model.quantizer.kmeans_iterations=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("codec-training")
    rng = np.random.default_rng(0)
    for kind in ("clean", "noisy", "noise"):
        (folder / kind).mkdir()
    for i in range(3):
        time = np.arange(RATE) / RATE
        tone = 0.3 * np.sin(2 * np.pi * (150 + 50 * i) * time) * np.sin(2 * np.pi * 3 * time)
        soundfile.write(folder / "clean" / f"{i}.wav", tone, RATE)
        soundfile.write(folder / "noisy" / f"{i}.wav", tone + 0.05 * rng.standard_normal(RATE), RATE)
        soundfile.write(folder / "noise" / f"{i}.wav", 0.1 * rng.standard_normal(RATE // 4), RATE)
    return folder


def train(place: Path, recipe: str, run: str, *overrides: str) -> Path:
    data = [f"data.train={place / 'clean'}", f"data.valid={place / 'clean'}"]
    config = train_config(load_recipe(RECIPES / f"{recipe}.yaml", [*TINY, *data, *overrides]))
    return start(config, new_folder(config.name, place / run), report=lambda line: None)


def parts(model) -> dict[str, dict[str, torch.Tensor]]:
    return {name: getattr(model, name).state_dict() for name in ("encoder", "projector", "quantizer", "decoder")}


def moved(before, after) -> set[str]:
    a, b = parts(before), parts(after)
    return {name for name in a if any(not torch.equal(v, b[name][k]) for k, v in a[name].items())}


@pytest.fixture(scope="module")
def first(place) -> Path:
    return train(place, "small-1-autoencoder", "stage1")


def test_stage_1_learns_everything_and_logs_usage_a_level(place, first):
    model = wavespike.load(first / "best")
    assert moved(build(to_dict(model.config)), model) == {"encoder", "projector", "quantizer", "decoder"}
    log = (first / "log.jsonl").read_text()
    assert '"perplexity/7"' in log
    assert '"usage/0"' in log
    assert wavespike.load(first / "last").encode(torch.zeros(1, 1, 3000)).shape == (1, 8, 10)


def test_stage_2_with_a_resting_encoder_moves_the_decoder_alone(place, first):
    run = train(place, "small-2-adversarial", "stage2", f"init={first}")
    assert moved(wavespike.load(first / "best"), wavespike.load(run / "last")) == {"decoder"}
    log = (run / "log.jsonl").read_text()
    assert "generator/matching_scale" in log
    assert "discriminator/resolution" in log


def test_the_encoder_rests_from_the_step_that_is_asked_for_and_joint_training_moves_all(place, first):
    switch = train(place, "small-2-adversarial", "switch", f"init={first}", "task.encoder_until=1", "task.adversarial_from=1", "trainer.checkpoint_every=1")
    assert moved(wavespike.load(first / "best"), wavespike.load(switch / "last")) == {"encoder", "projector", "quantizer", "decoder"}
    joint = train(place, "small-2-adversarial", "joint", f"init={first}", "task.encoder_until=null")
    assert moved(wavespike.load(first / "best"), wavespike.load(joint / "last")) == {"encoder", "projector", "quantizer", "decoder"}


def test_the_vocoder_stage_takes_the_analyser_and_normalises_by_its_code_statistics(place, first):
    run = train(place, "small-3-vocoder", "stage3", f"task.analyzer={first}", "task.statistics_items=5")
    analyzer, codec = wavespike.load(first / "best"), wavespike.load(run / "last")
    for name in ("encoder", "projector", "quantizer"):
        assert all(torch.equal(v, getattr(codec, name).state_dict()[k]) for k, v in getattr(analyzer, name).state_dict().items())
    mean, scale = np.load(run / "statistics.npy")
    assert np.array_equal(codec.decoder.mean.numpy(), mean)
    assert np.array_equal(codec.decoder.scale.numpy(), scale)
    assert mean.std() > 0
    again = train(place, "small-3-vocoder", "stage3b", f"task.analyzer={first}", f"task.statistics={run / 'statistics.npy'}")
    assert np.array_equal(wavespike.load(again / "last").decoder.mean.numpy(), mean)


@pytest.mark.parametrize("paired", [False, True])
def test_denoising_moves_encoder_and_projector_alone(place, first, paired):
    data = [f"data.noisy_train={place / 'noisy'}", f"data.noisy_valid={place / 'noisy'}"] if paired else [f"data.noise={place / 'noise'}"]
    run = train(place, "small-4-denoise", f"stage4-{paired}", f"init={first}", *data)
    assert moved(wavespike.load(first / "best"), wavespike.load(run / "last")) == {"encoder", "projector"}


@pytest.mark.parametrize(("overrides", "tolerance"), [(["task.scale=null", "task.resolution=null"], 0.0), ([], 1e-5)], ids=["metric losses", "discriminators"])
def test_a_resumed_run_is_the_unbroken_one_with_its_codebooks(place, first, overrides, tolerance):
    words = ["optimizer.schedule=constant", "trainer.validate_every=100", "task.encoder_until=null", f"init={first}", *overrides]
    whole = train(place, "small-2-adversarial", f"whole{tolerance}", *words, "trainer.steps=3")
    part = train(place, "small-2-adversarial", f"part{tolerance}", *words, "trainer.steps=2")
    config = part / "config.yaml"
    config.write_text(config.read_text().replace("  steps: 2\n", "  steps: 3\n"))
    resume(part, report=lambda line: None)
    a, b = wavespike.load(whole / "last").state_dict(), wavespike.load(part / "last").state_dict()
    assert max(float((v.float() - b[k].float()).abs().max()) for k, v in a.items()) <= tolerance


@pytest.mark.parametrize("recipe", sorted(p.stem for p in RECIPES.glob("*.yaml")))
def test_every_recipe_is_a_valid_configuration_and_its_narrow_twin_has_a_loss(recipe):
    words = [] if "denoise" not in recipe else ["data.noise=noise"]
    config = train_config(load_recipe(RECIPES / f"{recipe}.yaml", [*words, "task.analyzer=null", "task.metrics=[]"]))
    data = to_dict(config.model)
    data["quantizer"] |= {"codebook_size": 8, "dim": 8}
    if data["type"] in ("fourier-codec", "source-filter-codec"):
        for part in ("encoder", "decoder"):
            data[part] |= {"dim": 32, "intermediate_dim": 32, "num_layers": 1}
        data["decoder"]["input_channels"] = 8 if data["type"] == "fourier-codec" else 11
    else:
        data["encoder"]["channels"] = 2
        data["decoder"] |= {"channels": 16, "in_channels": 8} if data["decoder"]["type"] == "hifigan" else {"channels": 2}
    narrow = {"period": {"channels": [2, 2]}, "scale": {"channels": 4, "max_channels": 8}, "spectral": {"channels": 2}, "resolution": {"channels": 2}}
    for name, sizes in narrow.items():
        plain = to_dict(getattr(config.task, name))
        if plain is not None:
            words += [f"task.{name}={ {**plain, **sizes} }"]
    small = train_config(load_recipe(RECIPES / f"{recipe}.yaml", [*words, "task.analyzer=null", "task.metrics=[]"]))
    task = CodecTask(build(data), small)
    torch.manual_seed(0)
    batch = {"audio": 0.1 * torch.randn(2, 9600), **({"noisy": 0.1 * torch.randn(2, 9600)} if "denoise" in recipe else {})}
    task.steps_done = 10**7
    for phase in task.phases(task.steps_done):
        value, _ = task.loss(phase, batch)
        value.backward()
        held = [p for p in task.parameters_of(phase) if p.requires_grad]
        assert torch.isfinite(value)
        assert any(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in held)
        task.zero_grad()


def test_published_discriminators_have_their_published_norms_and_sizes():
    scale = make_codec_discriminator(MultiScaleConfig())
    names = [type(m.parametrizations["weight"][0]).__name__ for m in (scale.members[0].layers[0], scale.members[1].layers[0], scale.members[2].post)]
    assert names == ["_SpectralNorm", "_WeightNorm", "_WeightNorm"]
    sizes = [(c.in_channels, c.out_channels, c.groups, c.stride[0]) for c in scale.members[1].layers]
    assert sizes == [(1, 128, 1, 1), (128, 128, 4, 4), (128, 256, 16, 4), (256, 512, 16, 4), (512, 1024, 16, 4), (1024, 1024, 16, 1), (1024, 1024, 1, 1)]
    spectral = make_codec_discriminator(MultiSpectralConfig(channels=4))
    scores, maps = spectral(torch.randn(2, 9600))
    assert len(scores) == 3
    assert [len(m) for m in maps] == [6, 6, 6]
    small = make_codec_discriminator(MultiScaleConfig(channels=8, max_channels=16))
    assert [s.shape[0] for s in small(torch.randn(2, 4800))[0]] == [2, 2, 2]


def test_losses_are_zero_for_the_same_signal_and_grow_with_the_error():
    torch.manual_seed(0)
    x = torch.randn(2, 9600) * 0.1
    for loss in (multi_resolution_stft_loss, waveform_shape_loss, lambda a, b: mel_loss(a, b, codec_mel_config(RATE))):
        assert float(loss(x, x)) < 1e-6
        assert float(loss(x + 0.1 * torch.randn_like(x), x)) > float(loss(x + 0.01 * torch.randn_like(x), x)) > 0
    with pytest.raises(ConfigError, match="crop_samples"):
        multi_resolution_stft_loss(x[:, :500], x[:, :500])


def test_the_mel_loss_is_librosas_slaney_mel():
    librosa = pytest.importorskip("librosa", reason="needs the package librosa")
    x = 0.1 * np.random.default_rng(0).standard_normal(24000).astype(np.float32)
    from wavespike.signal.mel import log_mel

    ours = log_mel(torch.from_numpy(x)[None], codec_mel_config(RATE))[0].numpy()
    theirs = np.log(np.maximum(librosa.feature.melspectrogram(y=x, sr=RATE, n_fft=2048, hop_length=300, n_mels=80, power=1.0, pad_mode="reflect"), 1e-10))
    assert np.abs(ours - theirs).max() < 1e-3


def test_noise_is_mixed_at_the_asked_ratio():
    rng = np.random.default_rng(0)
    speech, noise = rng.standard_normal(48000).astype(np.float32), rng.standard_normal(48000).astype(np.float32)
    for ratio in (-5.0, 0.0, 12.0):
        added = mix(speech, noise, ratio) - speech
        assert 10 * np.log10((speech**2).mean() / (added**2).mean()) == pytest.approx(ratio, abs=0.01)
    assert np.array_equal(mix(np.zeros(9, np.float32), noise[:9], 0.0), np.zeros(9))


def test_code_statistics_are_those_of_the_quantised_latents():
    config = train_config(load_recipe(RECIPES / "small-1-autoencoder.yaml", ["model.encoder.channels=2", "model.decoder.channels=2"])).model
    codec = build(to_dict(config)).eval()
    audio = [0.3 * torch.randn(1, 1, 6000) for _ in range(3)]
    mean, scale = code_statistics(codec, audio)
    values = torch.cat([codec.quantizer.decode(codec.encode(a)) for a in audio], -1)[0]
    assert torch.allclose(mean, values.mean(1), atol=1e-4)
    assert torch.allclose(scale, values.std(1, correction=0), atol=1e-4)


@pytest.mark.parametrize(("overrides", "error", "message"), [
    (["model.input_channels=2"], ConfigError, "one channel"),
    (["task.trained=decoder", "task.encoder_until=0"], ConfigError, "encoder_until"),
    (["task.statistics=nothing.npy"], (ConfigError, CheckpointError), "statistics"),
])
def test_settings_that_mean_nothing_are_refused(place, overrides, error, message):
    with pytest.raises(error, match=message):
        train(place, "small-1-autoencoder", f"bad{len(list(place.iterdir()))}", *overrides)


def test_a_missing_partner_is_named(place, first):
    with pytest.raises((ConfigError, TrainingError, CheckpointError), match=r"noisy partner|damaged files"):
        train(place, "small-4-denoise", "lonely", f"init={first}", f"data.noisy_train={place / 'noise' / '..'}")


FOURIER = ["model.encoder.dim=8", "model.encoder.intermediate_dim=16", "model.encoder.num_layers=1", "model.decoder.dim=8", "model.decoder.intermediate_dim=16",
           "model.decoder.num_layers=1", "trainer.steps=4", "trainer.validate_every=4", "task.quantize_from=2"]


@pytest.fixture(scope="module")
def fourier(place) -> Path:
    return train(place, "fourier-24k", "fourier", *FOURIER)


def test_the_quantiser_comes_in_at_its_step_with_started_codebooks(place, fourier):
    model = wavespike.load(fourier / "last")
    rows = [json.loads(line) for line in (fourier / "log.jsonl").read_text().splitlines()]
    steps = {row["step"]: row for row in rows if row["kind"] == "train"}
    assert "generator/commitment" not in steps[2]
    assert steps[3]["generator/commitment"] > 0
    assert all(bool(level.started) for level in model.quantizer.levels)
    assert float(model.quantizer.get_buffer("levels.0.codebook").abs().mean()) > 0


def test_a_fourier_codec_resumes_as_if_it_had_never_stopped(place, fourier):
    short = train(place, "fourier-24k", "fourier-short", *FOURIER, "optimizer.schedule=constant")
    whole = train(place, "fourier-24k", "fourier-whole", *FOURIER, "optimizer.schedule=constant", "trainer.steps=6", "trainer.validate_every=6")
    config = (short / "config.yaml").read_text().replace("steps: 4\n", "steps: 6\n").replace("validate_every: 4", "validate_every: 6")
    (short / "config.yaml").write_text(config)
    resume(short, report=lambda line: None)
    a, b = (wavespike.load(run / "last").state_dict() for run in (short, whole))
    assert all(torch.equal(a[name], b[name]) for name in a)


VOICE = [*FOURIER, "model.pitch_dim=8", "model.pitch_layers=1", "task.own_pitch_from=2"]


@pytest.fixture(scope="module")
def voice(place) -> Path:
    pytest.importorskip("pyworld", reason="pitch labels need the package pyworld")
    return train(place, "codec-24k", "voice", *VOICE)


def test_a_codec_of_envelope_and_pitch_learns_both(voice):
    rows = [json.loads(line) for line in (voice / "log.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if row["kind"] == "train")
    assert math.isfinite(last["generator/pitch"])
    assert last["generator/voicing"] > 0


def test_a_denoising_encoder_keeps_the_codebooks_and_the_decoder(place, voice):
    run = train(place, "codec-24k-denoise", "voice-denoise", *VOICE[:-1], "task.quantize_from=0", f"init={voice}", f"data.noise={place / 'noise'}")
    before, after = wavespike.load(voice / "best"), wavespike.load(run / "last")
    assert before.fingerprint() == after.fingerprint()
    assert all(torch.equal(v, after.decoder.state_dict()[k]) for k, v in before.decoder.state_dict().items())
    assert any(not torch.equal(v, after.encoder.state_dict()[k]) for k, v in before.encoder.state_dict().items())


def test_a_spiking_decoder_learns_on_the_codes_of_the_dense_codec(place, voice):
    sizes = ["model.decoder.dim=32", "model.decoder.intermediate_dim=32", "model.decoder.num_layers=1"]
    run = train(place, "codec-24k-spiking", "voice-spiking", *VOICE[:3], *VOICE[6:-1], *sizes, "task.quantize_from=0", f"task.analyzer={voice}")
    dense, spiking = wavespike.load(voice / "best"), wavespike.load(run / "last")
    assert spiking.config.decoder.type_name == "spiking-convnext"
    assert dense.fingerprint() == spiking.fingerprint()
    assert all(torch.equal(v, spiking.encoder.state_dict()[k]) for k, v in dense.encoder.state_dict().items())


def test_an_analyzer_of_another_kind_is_refused(place, fourier):
    with pytest.raises(CheckpointError, match="expected a AudioDec"):
        train(place, "small-3-vocoder", "stranger", f"task.analyzer={fourier}")


def test_the_pitch_is_asked_for_where_the_decoder_stands():
    f0, voiced = torch.tensor([[100.0, 104.0, 108.0, 112.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    at_end, v = hop_labels(f0, voiced, 300, 0)
    assert at_end.tolist() == [[104.0, 108.0, 112.0]]
    assert v.tolist() == [[1.0, 1.0, 0.0]]
    assert hop_labels(f0, voiced, 300, 225)[0].tolist() == [[101.0, 105.0, 109.0]]
    assert hop_labels(f0, voiced, 300, 450)[0].tolist() == [[100.0, 102.0, 106.0]]


def test_lost_frames_come_at_the_share_and_in_the_bursts_asked_for():
    config = train_config(load_recipe(RECIPES / "fourier-24k.yaml", [*TINY, *FOURIER, "task.lost_share=0.5", "task.lost_rate=0.4", "task.lost_burst=6.0"]))
    task = CodecTask(build(to_dict(config.model)), config)
    torch.manual_seed(0)
    lost = task.lost_frames(torch.zeros(400, 4, 300))
    losing = lost.any(1).float().mean()
    assert 0.4 < losing < 0.55
    assert abs(float(lost.float().mean()) - 0.5 * 0.4 / 2) < 0.02  # rates of 0 to 0.4 in half of the items
    bursts = (lost[:, 1:] & ~lost[:, :-1]).sum()
    assert 2.0 < float(lost[:, 1:].sum() / bursts) < 5.0  # mean lengths of 1 to 6


def test_losses_on_spectra_are_zero_for_equal_signals_and_loudness_forgets_the_level():
    x, y = 0.1 * torch.randn(2, 6000), 0.1 * torch.randn(2, 6000)
    assert float(compressed_spectrum_loss(spectra(x), spectra(x))) == 0
    assert float(loudness_loss(spectra(x), spectra(x), RATE)) == 0
    loud = loudness_loss(spectra(y), spectra(x), RATE)
    assert float(loudness_loss(spectra(0.1 * y), spectra(0.1 * x), RATE)) == pytest.approx(float(loud), rel=1e-2)
    assert compressed_spectrum_loss(spectra(-x), spectra(x)) > 0.1  # phase counts
    assert float(loudness_loss(spectra(-x), spectra(x), RATE)) == 0  # and here it does not
    silent = torch.zeros(1, 6000, requires_grad=True)
    (compressed_spectrum_loss(spectra(silent), spectra(x[:1])) + loudness_loss(spectra(silent), spectra(x[:1]), RATE)).backward()
    assert bool(torch.isfinite(silent.grad).all())


def test_codebooks_started_together_quantise_better_than_a_first_batch_can():
    torch.manual_seed(0)
    latents = torch.randn(4, 6, 200)
    config = RVQConfig(dim=6, num_codebooks=3, codebook_size=64, kmeans_iterations=10)
    few, many = ResidualVQ(config), ResidualVQ(config)
    few.start(latents[:1, :, :40])
    many.start(latents)
    error = [float((q.decode(q.encode(latents)) - latents).square().mean()) for q in (few, many)]
    assert error[1] < 0.7 * error[0] < float(latents.square().mean())


@pytest.mark.parametrize(("word", "message"), [
    ("task.lost_rate=1.0", "lost_rate"), ("task.lost_share=2.0", "lost_share"), ("task.lost_burst=0.5", "lost_burst"),
])
def test_wrong_losses_of_frames_are_refused(word, message):
    with pytest.raises(ConfigError, match=message):
        train_config(load_recipe(RECIPES / "fourier-24k.yaml", [word]))


def test_only_a_codec_that_conceals_trains_with_lost_frames():
    config = train_config(load_recipe(RECIPES / "small-1-autoencoder.yaml", [*TINY, "task.lost_share=0.5"]))
    with pytest.raises(ConfigError, match="does not conceal"):
        CodecTask(build(to_dict(config.model)), config)
