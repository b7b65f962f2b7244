"""Training a codec in AudioDec's stages (Wu et al., 2023). One task; what distinguishes the stages are its options:

    stage 1     metric losses:            adversarial_from beyond the last step
    stage 2     adversarial, "efficient": encoder_until = adversarial_from (encoder, projector and quantiser rest), or None: joint
    vocoder     trained: decoder, analyzer: the stage-1 run; its code statistics are computed first and kept as statistics.npy in the run folder
    denoise     trained: encoder, init: the stage-1 run, data of noisy-clean pairs

L_G = m mel + s stft + w shape + c commitment (+ our multi-scale mel, phase, complex spectrum and loudness terms) + a adversarial + f feature matching; sums over
discriminators. Any codec learns by it. Ours, all optional: the quantiser comes in at a later step, its codebooks started by k-means on the latents of
the steps before; a share of the items is decoded with lost frames, single ones and bursts.
Departures: parameters that rest are in no optimiser of that phase (upstream's Adam keeps nudging them); generator-only checkpoints initialise any stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wavespike.errors import CheckpointError, ConfigError
from wavespike.models.audiodec import AudioDec, ResidualUnit
from wavespike.models.base import Codec, Model
from wavespike.models.hifigan import HiFiGANGenerator, read_statistics
from wavespike.models.source_filter_codec import SourceFilterCodec, SourceFilterCodecConfig
from wavespike.nn.rvq import Quantized
from wavespike.training.adversarial_losses import AdversarialLoss, discriminator_loss, feature_matching_loss, generator_loss, mel_loss, same_length
from wavespike.training.codec_discriminators import MultiScaleConfig, MultiSpectralConfig, make_codec_discriminator
from wavespike.training.codec_losses import (
    codec_mel_config,
    compressed_spectrum_loss,
    loudness_loss,
    multi_resolution_stft_loss,
    spectra,
    waveform_shape_loss,
)
from wavespike.training.config import OptimizerConfig, TaskConfig, TrainConfig
from wavespike.training.discriminators import MultiPeriodConfig, MultiResolutionConfig, make_discriminator
from wavespike.training.judge import VALIDATED, Judge
from wavespike.training.klt import check_startable, klt_start
from wavespike.training.losses import MultiScaleMelLoss, pitch_losses, waveform_phase_loss
from wavespike.training.task import Batch, Figures, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecTaskConfig(TaskConfig):
    """Weights of the terms and what learns when.

    trained            "all", "decoder" (the rest is fixed) or "encoder" (encoder and projector learn, quantiser and decoder are fixed)
    encoder_until      step from which only the decoder learns; None: never
    adversarial_from   step from which the discriminators play
    period, scale, spectral, resolution   discriminators; without any, training is by the metric losses alone
    analyzer           a run folder, preset or checkpoint whose encoder, projector and quantiser are taken over
    start              "klt": weights from the principal components of speech, `start_items` training crops (AudioDec with a linear path; training.klt)
    path_share         share of the learning rate for all that is no residual unit of an AudioDec: what klt set is sensitive, and nearly right
    noise_shaping      with klt: the exponent w of the latents' scales, energy^-w; quantising noise follows the spectrum to the power 2 w
    pitch_weight, voicing_weight   of a codec that transmits its pitch: cross entropies of its classes
    own_pitch_from     step from which its decoder hears the pitch that its encoder found; before it the true one. None: always the true one
    quantize_from      step from which latents are quantised; before it they go to the decoder as they are
    kmeans_steps       steps before `quantize_from` whose latents start the codebooks
    lost_share         share of the items that lose frames, for a codec that conceals; each draws its rate of 0..`lost_rate` and a mean length of 1..`lost_burst` frames
    statistics         `.npy` of code statistics for a HiFi-GAN decoder; None: computed from `statistics_items` training crops at the start
    """

    type_name: ClassVar[str] = "codec"

    metrics: tuple[str, ...] = VALIDATED
    trained: Literal["all", "decoder", "encoder"] = "all"
    encoder_until: int | None = None
    adversarial_from: int = 0
    period: MultiPeriodConfig | None = None
    scale: MultiScaleConfig | None = None
    spectral: MultiSpectralConfig | None = None
    resolution: MultiResolutionConfig | None = None
    adversarial_loss: AdversarialLoss = "lsgan"
    adversarial_weight: float = 1.0
    matching_weight: float = 2.0
    discriminator_optimizer: OptimizerConfig | None = None
    mel_weight: float = 45.0
    stft_weight: float = 0.0
    shape_weight: float = 0.0
    shape_window: int = 300
    multi_scale_mel_weight: float = 0.0
    phase_weight: float = 0.0
    complex_weight: float = 0.0
    loudness_weight: float = 0.0
    start: Literal["random", "klt"] = "random"
    start_items: int = 400
    path_share: float = 1.0
    noise_shaping: float = 0.25
    pitch_weight: float = 0.5
    voicing_weight: float = 1.0
    own_pitch_from: int | None = None
    quantize_from: int = 0
    kmeans_steps: int = 16
    lost_share: float = 0.0
    lost_rate: float = 0.3
    lost_burst: float = 6.0
    commitment_weight: float = 1.0
    analyzer: str | None = None
    statistics: str | None = None
    statistics_items: int = 200

    def __post_init__(self) -> None:
        if self.trained != "all" and self.encoder_until is not None:
            raise ConfigError(f"recipe.task.encoder_until: expected none with trained: {self.trained}, got {self.encoder_until}; it is for trained: all")
        if min(self.statistics_items, self.start_items, self.kmeans_steps, self.shape_window) < 1:
            raise ConfigError("recipe.task: expected statistics_items, start_items, kmeans_steps and shape_window of 1 or more, got less")
        if not (0 <= self.lost_share <= 1 and 0 <= self.lost_rate < 1 and self.lost_burst >= 1):
            raise ConfigError(f"recipe.task: expected lost_share in 0..1, lost_rate in 0..1, below 1, and lost_burst of 1 or more, got {self.lost_share}, "
                              f"{self.lost_rate} and {self.lost_burst}")


class CodecTask(Task):
    """Batches {"audio": [B, T]}, and {"noisy": [B, T]} where the encoder hears something else than the target. Phases: discriminator, then model or decoder."""

    config_class: ClassVar[type[TaskConfig]] = CodecTaskConfig
    SHOWN = 3

    model: Codec[Any]

    def __init__(self, model: Model[Any], config: TrainConfig):
        if not isinstance(model, Codec):
            raise ConfigError(f"recipe.task: expected a codec to train, got a {type(model).__name__}; choose another task")
        if model.channels != 1 or model.output_channels != 1:
            raise ConfigError(f"recipe.model: expected one channel to train on crops of speech, got {model.channels} and {model.output_channels}")
        assert isinstance(config.task, CodecTaskConfig)
        self_config = config.task
        if self_config.lost_share and not model.conceals:
            raise ConfigError(f"recipe.task.lost_share: expected 0 for a {type(model).__name__}, got {self_config.lost_share}; it does not conceal lost frames")
        if self_config.analyzer is not None:
            take_analyzer(model, self_config.analyzer)
        if self_config.start == "klt":
            if not isinstance(model, AudioDec):
                raise ConfigError(f"recipe.task.start: expected an audiodec model for klt, got a {type(model).__name__}; leave start out")
            if config.init is not None or self_config.analyzer is not None:
                raise ConfigError("recipe.task.start: expected random with init or analyzer, got klt, which would write over their weights; give one of them")
            check_startable(model)
        if self_config.statistics is not None:
            _vocoder_of(model).set_statistics(*read_statistics(self_config.statistics))
        super().__init__(model, config)
        self.config = self_config
        groups: dict[str, nn.Module] = {}
        for name, part in (("period", self.config.period), ("resolution", self.config.resolution)):
            if part is not None:
                groups[name] = make_discriminator(part)
        for name, sizes in (("scale", self.config.scale), ("spectral", self.config.spectral)):
            if sizes is not None:
                groups[name] = make_codec_discriminator(sizes)
        self.discriminators = nn.ModuleDict(groups)
        self.mel_config = codec_mel_config(model.sample_rate)
        self.multi_scale = MultiScaleMelLoss(model.sample_rate)
        self.judge = Judge(model.sample_rate, self.config.metrics)
        self.shown: dict[str, tuple[Tensor, Tensor]] = {}
        self.recent: list[Tensor] = []

    # which parameters learn when

    @property
    def adversarial(self) -> bool:
        return bool(self.discriminators) and self.steps_done >= self.config.adversarial_from

    def all_phases(self) -> tuple[str, ...]:
        later = ("decoder",) if self.config.encoder_until is not None else ()
        return (*(("discriminator",) if self.discriminators else ()), *later, "model")

    def phases(self, step: int) -> tuple[str, ...]:
        c = self.config
        last = "decoder" if c.encoder_until is not None and step >= c.encoder_until else "model"
        return ("discriminator", last) if self.discriminators and step >= c.adversarial_from else (last,)

    def parameters_of(self, phase: str) -> Iterator[nn.Parameter]:
        if phase == "discriminator":
            return self.discriminators.parameters()
        if phase == "decoder" or self.config.trained == "decoder":
            return self.model.synthesis.parameters()
        if self.config.trained == "encoder":
            return (p for part in self.model.analysis for p in part.parameters())
        return self.model.parameters()

    def optimizer_of(self, phase: str) -> OptimizerConfig:
        own = self.config.discriminator_optimizer
        return own if phase == "discriminator" and own is not None else self.train_config.optimizer

    def shares_of(self, phase: str, parameters: list[nn.Parameter]) -> dict[float, list[nn.Parameter]]:
        share = self.config.path_share
        if phase == "discriminator" or share == 1:
            return super().shares_of(phase, parameters)
        units = {id(p) for part in self.model.modules() if isinstance(part, ResidualUnit) for p in part.parameters()}
        both = {1.0: [p for p in parameters if id(p) in units], share: [p for p in parameters if id(p) not in units]}
        return {key: held for key, held in both.items() if held}

    # before the first step: weights from the data, code statistics

    def on_train_start(self) -> None:
        c = self.config
        if self.steps_done == 0 and c.start == "klt":
            assert isinstance(self.model, AudioDec)
            items = self.trainer.datamodule.train_items()  # type: ignore[attr-defined]
            crops = torch.stack([items[i]["audio"] for i in range(c.start_items)])[:, None].to(self.device)
            klt_start(self.model, crops, c.noise_shaping)
            if c.quantize_from == 0:
                with torch.no_grad():
                    self.model.quantizer.start(torch.cat([self.model.latents(part) for part in torch.split(crops, 8)]))
            if self.average is not None:
                self.average.load_state_dict(self.model.state_dict())
        if self.steps_done or c.statistics is not None or not isinstance(self.model, AudioDec) or not isinstance(self.model.decoder, HiFiGANGenerator):
            return
        items = self.trainer.datamodule.train_items()  # type: ignore[attr-defined]
        heard = (items[i]["audio"][None, None].to(self.device) for i in range(c.statistics_items))
        mean, scale = code_statistics(self.model, heard)
        self.model.decoder.set_statistics(mean, scale)
        if self.average is not None:
            _vocoder_of(self.average).set_statistics(mean, scale)
        if self.trainer.is_global_zero:
            np.save(Path(self.trainer.default_root_dir) / "statistics.npy", torch.stack([mean, scale]).cpu().numpy())

    # the losses

    @classmethod
    def needs_pitch(cls, config: TrainConfig) -> bool:
        return isinstance(config.model, SourceFilterCodecConfig)

    def latents(self, heard: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents of audio [B, T] and, of a codec with a pitch code, the losses of pitch and voicing; where there are labels their pitch takes the place of the code."""
        model = self.model
        if not isinstance(model, SourceFilterCodec) or "f0_hz" not in batch:
            with self.mixed():
                latents: Tensor = model.latents(heard[:, None])
            return latents.float(), {}
        with self.mixed():
            latents, logits, voicing = model.analyse(heard[:, None])
        if batch["f0_hz"].shape[1] != latents.shape[-1] + 1:
            raise ConfigError(f"expected pitch labels for {latents.shape[-1]} hops, got {batch['f0_hz'].shape[1] - 1}; make data.crop_samples a multiple of the codec's hop")
        f0, voiced = hop_labels(batch["f0_hz"], batch["voiced"], model.hop, model.config.behind)
        losses = dict(zip(("pitch", "voicing"), pitch_losses(logits.float(), voicing.float(), f0, voiced), strict=True))
        index = model.encoder.scale.index(f0, voiced > 0.5)
        if (own := self.config.own_pitch_from) is not None and self.steps_done >= own:
            return latents.float(), losses
        return torch.cat([index[:, None].float(), latents[:, 1:].float()], 1), losses

    def generate(self, batch: Batch, phase: str) -> tuple[Tensor, Tensor, Quantized | None, dict[str, Tensor]]:
        """Output and target [B, T], what the quantiser said, None before its time, and the losses of the pitch."""
        audio, heard = batch["audio"], batch.get("noisy", batch["audio"])
        learns = phase == "model" and self.config.trained != "decoder"
        self.model.quantizer_module.frozen = not (learns and self.config.trained == "all")
        for part in self.model.analysis:
            for layer in part.modules():
                if isinstance(layer, nn.BatchNorm1d):
                    layer.train(self.training and learns)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            values, more = self.latents(heard, batch)
            quantized = None
            if self.steps_done >= self.config.quantize_from:
                self._start_codebooks()
                quantized = self.model.quantizer_module(values)
                values = quantized.values
            elif self.training and self.steps_done >= self.config.quantize_from - self.config.kmeans_steps:
                self.recent.append(values.detach())
        with self.mixed():
            output: Tensor = self.model.synthesise(values, self.lost_frames(values) if self.config.lost_share else None)[:, 0]
        output, audio = same_length(output.float(), audio)
        settled = audio.shape[-1] - self.model.edge
        return output[:, :settled], audio[:, :settled], quantized, more

    def _start_codebooks(self) -> None:
        """k-means of the latents of the steps before, level after level (without such steps each level starts on its first batch)."""
        if self.recent and self.training:
            self.model.quantizer_module.start(torch.cat(self.recent))
        self.recent = []

    def lost_frames(self, latents: Tensor) -> Tensor:
        """Frames [B, L] that a channel with memory loses (Gilbert, 1960): it turns bad and good again at rates that give each item's share and burst length."""
        c, (batch, _, frames) = self.config, latents.shape
        def draw() -> Tensor:
            return torch.rand(batch, device=latents.device)

        chosen = draw() < c.lost_share
        rate, burst = c.lost_rate * draw(), 1 + (c.lost_burst - 1) * draw()
        recover = 1 / burst
        fail = (recover * rate / (1 - rate)).clamp(max=1.0)
        bad = draw() < rate
        out = []
        for _ in range(frames):
            out.append(bad & chosen)
            bad = torch.where(bad, draw() >= recover, draw() < fail)
        return torch.stack(out, 1)

    def loss(self, phase: str, batch: Batch) -> tuple[Tensor, Figures]:
        c = self.config
        if phase == "discriminator":
            with torch.no_grad():
                fake, real, _, _ = self.generate(batch, phase)
            total, figures = real.new_zeros(()), Figures()
            for name, group in self.discriminators.items():
                scores = group(real)[0]
                value = len(scores) * discriminator_loss(scores, group(fake)[0], c.adversarial_loss)
                figures[f"discriminator/{name}"] = value.detach()
                total = total + value
            return total, figures
        fake, real, quantized, more = self.generate(batch, phase)
        terms: dict[str, tuple[float, Tensor]] = {}
        if more:
            terms = {"pitch": (c.pitch_weight, more["pitch"]), "voicing": (c.voicing_weight, more["voicing"])}
        if quantized is not None:
            terms["commitment"] = c.commitment_weight, quantized.commitment
        if c.mel_weight:
            terms["mel"] = c.mel_weight, mel_loss(fake, real, self.mel_config)
        if c.stft_weight:
            terms["stft"] = c.stft_weight, multi_resolution_stft_loss(fake, real)
        if c.shape_weight:
            terms["shape"] = c.shape_weight, waveform_shape_loss(fake, real, c.shape_window)
        if c.multi_scale_mel_weight:
            terms["multi_scale_mel"] = c.multi_scale_mel_weight, self.multi_scale(fake, real)
        if c.phase_weight:
            terms["phase"] = c.phase_weight, waveform_phase_loss(fake, real)
        if c.complex_weight or c.loudness_weight:
            ours, theirs = spectra(fake), spectra(real)
            if c.complex_weight:
                terms["complex"] = c.complex_weight, compressed_spectrum_loss(ours, theirs)
            if c.loudness_weight:
                terms["loudness"] = c.loudness_weight, loudness_loss(ours, theirs, self.model.sample_rate)
        if self.adversarial:
            for name, group in self.discriminators.items():
                with torch.no_grad():
                    real_maps = [maps[:-1] for maps in group(real)[1]]  # the scores themselves are not matched
                scores, maps = group(fake)
                terms[f"adversarial_{name}"] = c.adversarial_weight, len(scores) * generator_loss(scores, c.adversarial_loss)
                terms[f"matching_{name}"] = c.matching_weight, len(scores) * feature_matching_loss(real_maps, [m[:-1] for m in maps])
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        figures = {f"generator/{name}": value.detach() for name, (_, value) in terms.items()}
        for k in range(self.model.num_codebooks if quantized is not None else 0):
            assert quantized is not None
            figures[f"perplexity/{k}"] = quantized.perplexity[k]
            figures[f"usage/{k}"] = quantized.usage[k]
        return total, figures

    # validation

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.shown = {}

    def validate(self, batch: Batch, index: int) -> dict[str, float | None]:
        """Reconstruction of one item through all codebooks, or around them before their time."""
        audio, heard = batch["audio"], batch.get("noisy", batch["audio"])
        model = self.judged
        assert isinstance(model, Codec)
        if self.steps_done > self.config.quantize_from:
            output = model(heard[:, None])[:, 0]
        else:  # the codebooks mean nothing yet
            output = model.synthesise(model.latents(heard[:, None]))[:, 0, : audio.shape[-1]]
        if index < self.SHOWN:
            self.shown[f"{index}"] = (audio[0].float().cpu(), output[0].float().cpu())
        return self.judge(audio[0], output[0])


def hop_labels(f0_hz: Tensor, voiced: Tensor, hop_length: int, behind: int) -> tuple[Tensor, Tensor]:
    """Labels [B, L + 1] at the samples 0, hop, 2 hop, ... -> pitch `behind` samples before the end of each of the L hops and voicing at either of its ends, [B, L]."""
    at = torch.arange(f0_hz.shape[1] - 1, dtype=f0_hz.dtype, device=f0_hz.device) + (1 - behind / hop_length)
    at = at.clamp_min(0)
    first = at.floor().long().clamp_max(f0_hz.shape[1] - 2)
    share = at - first
    return (1 - share) * f0_hz[:, first] + share * f0_hz[:, first + 1], torch.maximum(voiced[:, :-1], voiced[:, 1:])


def _vocoder_of(model: Model[Any]) -> HiFiGANGenerator:
    decoder = getattr(model, "decoder", None)
    if not isinstance(decoder, HiFiGANGenerator):
        raise ConfigError("recipe.task.statistics: expected a model with a hifigan decoder, got a symmetric one; leave statistics out")
    return decoder


def take_analyzer(model: Codec[Any], source: str) -> None:
    """Copy encoder, projector and quantiser from a run folder (its `best`), a preset or a checkpoint. Raises CheckpointError when they do not fit."""
    from wavespike.hub.load import load

    best = Path(source) / "best"
    analyzer = load(best if (best / "config.json").is_file() else source)
    if type(analyzer) is not type(model):
        raise CheckpointError(f"recipe.task.analyzer: expected a {type(model).__name__} in {source}, got a {type(analyzer).__name__}; give the run of the first stage")
    for name in (name for name in ("encoder", "projector", "quantizer") if hasattr(model, name)):
        try:
            getattr(model, name).load_state_dict(getattr(analyzer, name).state_dict())
        except RuntimeError as error:
            raise CheckpointError(f"recipe.task.analyzer: expected the {name} of {source} to fit the recipe's model, got other sizes; copy its configuration") from error


@torch.no_grad()
def code_statistics(codec: AudioDec, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D] of the quantised latents over audio [B, 1, T]; a dimension that never varies gets scale 1."""
    was_training = codec.training
    codec.eval()
    count, total, squares = 0, torch.zeros(codec.config.quantizer.dim, dtype=torch.float64), torch.zeros(codec.config.quantizer.dim, dtype=torch.float64)
    for audio in batches:
        values = codec.quantizer.decode(codec.encode(audio)).double().cpu()  # [B, D, L]
        count += values.shape[0] * values.shape[2]
        total += values.sum((0, 2))
        squares += values.square().sum((0, 2))
    codec.train(was_training)
    if count == 0:
        raise ConfigError("code statistics: expected at least one crop of audio, got none")
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0)
    device = codec.quantizer.get_buffer("levels.0.codebook").device
    scale = torch.where(variance > 1e-12, variance.sqrt(), torch.ones_like(variance))
    return mean.float().to(device), scale.float().to(device)
