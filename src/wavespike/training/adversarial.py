"""Adversarial training of a vocoder as published with Vocos (Siuzdak, 2023).

L_D = hinge(MPD) + r hinge(MRD); L_G = adv(MPD) + r adv(MRD) + fm(MPD) + r fm(MRD) + m mel. Every step: discriminator first, then generator.
Departures: conditions (EnCodec's bandwidth) are drawn per item and all are validated; the mel loss follows the sampling rate; lengths may differ by a
frame; a step is an update of the generator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wavespike.errors import ConfigError
from wavespike.models.base import Model
from wavespike.training.adversarial_losses import (
    AdversarialLoss,
    cosine_weight,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    mel_loss,
    mel_loss_config,
    same_length,
)
from wavespike.training.config import OptimizerConfig, TaskConfig, TrainConfig
from wavespike.training.discriminators import MultiPeriodConfig, MultiResolutionConfig, make_discriminator
from wavespike.training.task import Batch, Figures
from wavespike.training.vocoder import VocoderTask, VocoderTaskConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialConfig(VocoderTaskConfig):
    """The published objective.

    multi_period, multi_resolution   discriminators; None leaves one out
    resolution_weight   r: 0.1 for mel features, 1.0 for EnCodec tokens
    mel_weight          m; with `mel_weight_decay` it falls along a cosine to 0 at the last step
    pretrain_mel_steps  steps with the mel loss alone, before the discriminators start
    discriminator_optimizer   None is the generator's
    """

    type_name: ClassVar[str] = "adversarial"

    multi_period: MultiPeriodConfig | None = MultiPeriodConfig()
    multi_resolution: MultiResolutionConfig | None = MultiResolutionConfig()
    resolution_weight: float = 0.1
    adversarial_loss: AdversarialLoss = "hinge"
    mel_weight: float = 45.0
    mel_weight_decay: bool = False
    pretrain_mel_steps: int = 0
    discriminator_optimizer: OptimizerConfig | None = None

    def __post_init__(self) -> None:
        if self.multi_period is None and self.multi_resolution is None:
            raise ConfigError("recipe.task: expected a multi_period or a multi_resolution discriminator, got neither; use the reconstruction task")


class AdversarialTask(VocoderTask):
    """Batches {"audio": [B, T]}. Phases: discriminator, generator (generator alone while pretraining)."""

    config_class: ClassVar[type[TaskConfig]] = AdversarialConfig

    def __init__(self, model: Model[Any], config: TrainConfig):
        super().__init__(model, config)
        assert isinstance(config.task, AdversarialConfig)
        self.config = config.task
        groups: dict[str, nn.Module] = {}
        if self.config.multi_period is not None:
            groups["period"] = make_discriminator(self.config.multi_period, self.num_conditions)
        if self.config.multi_resolution is not None:
            groups["resolution"] = make_discriminator(self.config.multi_resolution, self.num_conditions)
        self.discriminators = nn.ModuleDict(groups)
        self.weights = {"period": 1.0, "resolution": self.config.resolution_weight}
        self.mel_config = mel_loss_config(model.sample_rate)

    def all_phases(self) -> tuple[str, ...]:
        return ("discriminator", "generator")

    def phases(self, step: int) -> tuple[str, ...]:
        return self.all_phases() if step >= self.config.pretrain_mel_steps else ("generator",)

    def parameters_of(self, phase: str) -> Iterator[nn.Parameter]:
        return self.discriminators.parameters() if phase == "discriminator" else super().parameters_of(phase)

    def optimizer_of(self, phase: str) -> OptimizerConfig:
        own = self.config.discriminator_optimizer
        return own if phase == "discriminator" and own is not None else self.train_config.optimizer

    @property
    def mel_weight(self) -> float:
        c = self.config
        if not c.mel_weight_decay:
            return c.mel_weight
        return cosine_weight(c.mel_weight, self.steps_done, self.train_config.trainer.steps, c.pretrain_mel_steps)

    def generate(self, batch: Batch, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Output of the model and its target, [B, T] each."""
        audio = batch["audio"]
        more = {} if condition is None else {"bandwidth_id": condition}
        return same_length(self.model.decode(self.model.features(audio, **more), **more), audio)

    def loss(self, phase: str, batch: Batch) -> tuple[Tensor, Figures]:
        condition = self.draw_condition(batch["audio"])
        figures: Figures = {}
        if phase == "discriminator":
            with torch.no_grad():
                fake, real = self.generate(batch, condition)
            total = real.new_zeros(())
            for name, group in self.discriminators.items():
                value = discriminator_loss(self.discriminate(group, real, condition)[0], self.discriminate(group, fake, condition)[0], self.config.adversarial_loss)
                figures[f"discriminator/{name}"] = value.detach()
                total = total + self.weights[name] * value
            return total, figures
        fake, real = self.generate(batch, condition)
        mel = mel_loss(fake, real, self.mel_config)
        total = self.mel_weight * mel
        figures["generator/mel"] = mel.detach()
        if self.steps_done >= self.config.pretrain_mel_steps:
            for name, group in self.discriminators.items():
                with torch.no_grad():
                    real_maps = self.discriminate(group, real, condition)[1]
                scores, fake_maps = self.discriminate(group, fake, condition)
                adversarial, matching = generator_loss(scores, self.config.adversarial_loss), feature_matching_loss(real_maps, fake_maps)
                figures[f"generator/{name}"] = adversarial.detach()
                figures[f"generator/matching_{name}"] = matching.detach()
                total = total + self.weights[name] * (adversarial + matching)
        figures["generator/total"] = total.detach()
        return total, figures
