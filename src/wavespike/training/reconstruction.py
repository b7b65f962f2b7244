"""Training a vocoder without a large discriminator, in minutes on a CPU: the loss says what the waveform should be, in spectrum, phase and pitch.

L = m mel(5 resolutions) + p phase + for a source-filter head: q cross entropy of the pitch + v binary cross entropy of the voicing
+ from a chosen step on: a (adversarial + f feature matching) of a light discriminator.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wavespike.errors import ConfigError
from wavespike.models.base import Model
from wavespike.nn.heads import SourceFilterHead, SourceFilterHeadConfig
from wavespike.training.adversarial_losses import AdversarialLoss, discriminator_loss, feature_matching_loss, generator_loss, same_length
from wavespike.training.alignment import aligned_pulses
from wavespike.training.config import OptimizerConfig, TaskConfig, TrainConfig
from wavespike.training.discriminators import DiscriminatorGroup, MultiPeriodConfig, MultiResolutionConfig, make_discriminator
from wavespike.training.losses import MultiScaleMelLoss, pitch_losses, waveform_phase_loss
from wavespike.training.task import Batch, Figures
from wavespike.training.vocoder import VocoderTask, VocoderTaskConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(VocoderTaskConfig):
    """Weights of the terms.

    align_source        the harmonic source of a source-filter head starts in phase with the target (its network then learns what is left)
    discriminator       a light one: {type: multi-resolution, windows: [1024, 512, 256], channels: 16, bands: [0, 1]}; None trains without
    discriminator_from  the first step with it
    """

    type_name: ClassVar[str] = "reconstruction"

    mel_weight: float = 9.0
    phase_weight: float = 0.0
    pitch_weight: float = 0.5
    voicing_weight: float = 1.0
    align_source: bool = False
    discriminator: MultiResolutionConfig | MultiPeriodConfig | None = None
    discriminator_from: int = 0
    adversarial_loss: AdversarialLoss = "hinge"
    adversarial_weight: float = 1.0
    matching_weight: float = 1.0
    discriminator_optimizer: OptimizerConfig | None = None


class ReconstructionTask(VocoderTask):
    """Batches {"audio": [B, T]}; where pitch or voicing is learnt or the source aligned, also {"f0_hz": [B, L], "voiced": [B, L]} at samples 0, hop, 2 hop, ...

    A source-filter head whose pitch network is fixed (`pitch_weight` and `voicing_weight` 0) needs no labels: it hears its own pitch, as in use.
    """

    config_class: ClassVar[type[TaskConfig]] = ReconstructionConfig

    def __init__(self, model: Model[Any], config: TrainConfig):
        super().__init__(model, config)
        assert isinstance(config.task, ReconstructionConfig)
        self.config = config.task
        self.spectral = MultiScaleMelLoss(model.sample_rate)
        self.discriminator: DiscriminatorGroup | None = None
        if self.config.discriminator is not None:
            self.discriminator = make_discriminator(self.config.discriminator)
        if self.config.align_source and not isinstance(self.head, SourceFilterHead):
            raise ConfigError("recipe.task.align_source: expected a model with a source-filter head, got another; set it to false")

    @classmethod
    def needs_pitch(cls, config: TrainConfig) -> bool:
        task = config.task
        assert isinstance(task, ReconstructionConfig)
        learns = task.pitch_weight > 0 or task.voicing_weight > 0 or task.align_source
        return learns and isinstance(getattr(config.model, "head", None), SourceFilterHeadConfig)

    @property
    def backbone(self) -> Any:
        return getattr(self.model, "backbone", None)

    @property
    def head(self) -> Any:
        return getattr(self.model, "head", None)

    def all_phases(self) -> tuple[str, ...]:
        return ("model",) if self.discriminator is None else ("discriminator", "model")

    def phases(self, step: int) -> tuple[str, ...]:
        return self.all_phases() if step >= self.config.discriminator_from else ("model",)

    def parameters_of(self, phase: str) -> Iterator[nn.Parameter]:
        if phase == "discriminator":
            assert self.discriminator is not None
            return self.discriminator.parameters()
        return super().parameters_of(phase)

    def optimizer_of(self, phase: str) -> OptimizerConfig:
        own = self.config.discriminator_optimizer
        return own if phase == "discriminator" and own is not None else self.train_config.optimizer

    def generate(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Output, target [B, T] and the losses of pitch and voicing where there are labels."""
        audio = batch["audio"]
        condition = self.draw_condition(audio)
        more = {} if condition is None else {"bandwidth_id": condition}
        features = self.model.features(audio, **more)
        if not isinstance(self.head, SourceFilterHead):
            return *same_length(self.model.decode(features, **more), audio), {}
        head: SourceFilterHead = self.head
        with self.mixed():
            hidden = self.backbone(features)
        hidden = hidden.float()
        size, losses = audio.shape[0], {}
        if "f0_hz" in batch:
            f0, voiced = frame_labels(batch["f0_hz"], batch["voiced"], features.shape[-1])
            logits, voicing = head.hear(hidden, features)
            losses = dict(zip(("pitch", "voicing"), pitch_losses(logits, voicing, f0, voiced), strict=True))
        else:
            f0, voiced = self.heard_pitch(hidden, features)
        pulses = None
        if self.config.align_source:
            pulses = aligned_pulses(audio, batch["f0_hz"], batch["voiced"], self.model.hop_length, self.model.sample_rate)
        output = head(hidden, features, f0, voiced, start_phase=2 * math.pi * torch.rand(size, device=audio.device),
                      offset_samples=torch.randint(0, 2**31, (size,), device=audio.device), pulses=pulses)
        return *same_length(output, audio), losses

    @torch.no_grad()
    def heard_pitch(self, hidden: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Pitch in hertz and voicing [B, L] that the source is made of where there are no labels: the head's own."""
        heard: tuple[Tensor, Tensor] = self.head.pitch.decode(*self.head.hear(hidden, features))
        return heard

    def loss(self, phase: str, batch: Batch) -> tuple[Tensor, Figures]:
        c = self.config
        if phase == "discriminator":
            assert self.discriminator is not None
            with torch.no_grad():
                fake, real, _ = self.generate(batch)
            return discriminator_loss(self.discriminate(self.discriminator, real)[0], self.discriminate(self.discriminator, fake)[0], c.adversarial_loss), {}
        fake, real, more = self.generate(batch)
        spectral = self.spectral(fake, real)
        terms: dict[str, Tensor] = {"spectral": spectral, **more}
        total = c.mel_weight * spectral
        if c.phase_weight:
            terms["phase"] = waveform_phase_loss(fake, real)
            total = total + c.phase_weight * terms["phase"]
        if more:
            total = total + c.pitch_weight * more["pitch"] + c.voicing_weight * more["voicing"]
        if self.discriminator is not None and self.steps_done >= c.discriminator_from:
            with torch.no_grad():
                real_maps = self.discriminate(self.discriminator, real)[1]
            scores, maps = self.discriminate(self.discriminator, fake)
            terms["adversarial"], terms["matching"] = generator_loss(scores, c.adversarial_loss), feature_matching_loss(real_maps, maps)
            total = total + c.adversarial_weight * terms["adversarial"] + c.matching_weight * terms["matching"]
        return total, {name: value.detach() for name, value in terms.items()}


def frame_labels(f0_hz: Tensor, voiced: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Labels [B, L + 1] at multiples of the hop -> labels at the features' frames: as they are (`center`) or half a hop later (`same`, L frames)."""
    if f0_hz.shape[1] == frames:
        return f0_hz, voiced
    if f0_hz.shape[1] == frames + 1:
        return 0.5 * (f0_hz[:, 1:] + f0_hz[:, :-1]), 0.5 * (voiced[:, 1:] + voiced[:, :-1])
    raise ConfigError(f"expected pitch labels for {frames} frames, got {f0_hz.shape[1]}; make data.crop_samples a multiple of the model's hop_length")
