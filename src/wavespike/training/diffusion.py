"""Learning to denoise: SpecGrad's loss, and with other priors DiffWave's, WaveGrad's and PriorGrad's.

L = mean |L^-1 (target - F(x_a, c, a))|^2, the target (noise, velocity or signal) being the model's `prediction` and a drawn from its schedule.
Departures, all off at weight 0: `mel_weight` adds the L1 of log-mels of the signal estimate, for `guess_share` of the items of one that starts from the guess; pitch and voicing of a model with a source are learnt from labels,
or taken from a model that knows them (`pitch_from`) and kept.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wavespike.errors import ConfigError
from wavespike.models.base import Model
from wavespike.models.specgrad import SpecGrad, SpecGradConfig
from wavespike.nn.diffusion import diffuse, draw_levels, estimates, target
from wavespike.nn.pitch import PitchEstimator
from wavespike.nn.priors import Prior
from wavespike.training.alignment import aligned_pulses
from wavespike.training.config import TaskConfig, TrainConfig
from wavespike.training.losses import MultiScaleMelLoss, pitch_losses
from wavespike.training.reconstruction import frame_labels
from wavespike.training.task import Batch, Figures
from wavespike.training.vocoder import VocoderTask, VocoderTaskConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionConfig(VocoderTaskConfig):
    """Weights of the terms.

    mel_weight     of the multi-scale mel distance between the signal estimate, before any projection, and the target
    guess_share    share of the items that are made from the first guess, a G + s L e, as a shallow sampling starts; the mel distance alone judges them, because
                   the guess has a phase of its own
    align_source   the harmonic source of a model with one is in phase with the target's fundamental while training
    pitch_from     a model (name or folder) with the same pitch estimator, whose weights are taken and kept; None learns them from labels
    """

    type_name: ClassVar[str] = "diffusion"

    mel_weight: float = 0.0
    guess_share: float = 0.0
    align_source: bool = True
    pitch_from: str | None = None
    pitch_weight: float = 0.5
    voicing_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.guess_share < 1 or (self.guess_share and not self.mel_weight):
            raise ConfigError(f"task.guess_share: expected 0 <= guess_share < 1, and mel_weight above 0 where it is not 0, got {self.guess_share}")


class DiffusionTask(VocoderTask):
    """Batches {"audio": [B, T]}; where pitch is learnt also {"f0_hz": [B, L], "voiced": [B, L]}."""

    config_class: ClassVar[type[TaskConfig]] = DiffusionConfig
    model: SpecGrad

    def __init__(self, model: Model[Any], config: TrainConfig):
        if not isinstance(model, SpecGrad):
            raise ConfigError(f"recipe.task: expected a specgrad model for the task 'diffusion', got {type(model).__name__}; choose another task")
        assert isinstance(config.task, DiffusionConfig)
        if config.task.pitch_from is not None:
            take_pitch(model, config.task.pitch_from)
            if config.task.align_source and model.config.features.padding != "center":
                raise ConfigError("recipe.task.align_source: expected centred frames with pitch_from, got padding same; set align_source to false or leave pitch_from out")
        if config.task.guess_share and model.source is None:
            raise ConfigError("recipe.task.guess_share: expected a model with a source, got one without; set it to 0")
        super().__init__(model, config)
        self.config = config.task
        self.spectral = MultiScaleMelLoss(model.sample_rate)

    @classmethod
    def needs_pitch(cls, config: TrainConfig) -> bool:
        task, model = config.task, config.model
        assert isinstance(task, DiffusionConfig)
        return isinstance(model, SpecGradConfig) and model.source is not None and task.pitch_from is None

    def guess(self, batch: Batch, features: Tensor, prior: Prior, length: int) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The first guess [B, T], as in use or in phase with the target, and the losses of pitch and voicing where they are learnt."""
        source, audio = self.model.source, batch["audio"]
        if source is None:
            return None, {}
        losses: dict[str, Tensor] = {}
        pulses = None
        rate, hop = self.model.sample_rate, self.model.hop_length
        if self.config.pitch_from is None:
            f0, voiced = frame_labels(batch["f0_hz"], batch["voiced"], features.shape[-1])
            logits, voicing = source.pitch(features)
            losses = dict(zip(("pitch", "voicing"), pitch_losses(logits, voicing, f0, voiced), strict=True))
            if self.config.align_source:
                pulses = aligned_pulses(audio, batch["f0_hz"], batch["voiced"], hop, rate)[:, :length]
        else:
            with torch.no_grad():
                f0, voiced = source.pitch.decode(*source.pitch(features))
            if self.config.align_source:  # centred frames: pitch at the samples 0, hop, 2 hop, ...
                pulses = aligned_pulses(audio[:, :length], f0.to(audio.dtype), voiced.to(audio.dtype), hop, rate)
        size = audio.shape[0]
        with torch.no_grad():
            made = self.model.guess(features, prior, f0_hz=f0, voiced=voiced, start_phase=2 * math.pi * torch.rand(size, device=audio.device),
                                    offset_samples=torch.randint(0, 2**31, (size,), device=audio.device), pulses=pulses)
        return made, losses

    def validate(self, batch: Batch, index: int) -> dict[str, float | None]:
        """Sampled audio of one item: the judge's figures and LS-MAE, the mean absolute error of the model's own log-mel."""
        audio = batch["audio"]
        output = self.judged(audio)
        self._show(f"{index}", audio, output, index)
        model = self.judged
        assert isinstance(model, SpecGrad)
        heard, wanted = model.features(output), model.features(audio[:, : output.shape[-1]])
        return {**self.judge(audio[0], output[0]), "ls_mae": float((heard - wanted).abs().mean())}

    def lower_is_better(self, figure: str) -> bool:
        return figure == "ls_mae" or super().lower_is_better(figure)

    def loss(self, phase: str, batch: Batch) -> tuple[Tensor, Figures]:
        c, m = self.config, self.model.config
        features = self.model.features(batch["audio"])
        length = self.model.samples(features.shape[-1])
        audio = batch["audio"][:, :length]
        with torch.no_grad():
            prior = self.model.prior(features)
        source, terms = self.guess(batch, features, prior, length)
        with torch.no_grad():
            level = draw_levels(m.schedule, audio.shape[0], m.continuous, audio.device, m.shallow or 0.0)
            signal = prior.whiten(audio) if m.space == "whitened" else audio
            noise = self.model.to_space(torch.randn_like(audio), prior)
            x = diffuse(signal, noise, level)
            wanted = target(m.prediction, signal, noise, level)
            guessed = 0 if source is None else round(c.guess_share * len(audio))
            if source is not None and guessed:
                x = torch.cat([diffuse(source[:guessed], noise[:guessed], level[:guessed]), x[guessed:]])
        with self.mixed():
            output = self.model.network(x, features, level, source)
        output = output.float()
        error = output - wanted if m.space == "whitened" else prior.whiten(output - wanted)
        denoising = error[guessed:].square().mean()
        total = denoising
        if c.mel_weight:
            estimate = estimates(m.prediction, output, x, level)[0]
            terms["mel"] = self.spectral(self.model.to_audio(estimate, prior), audio)
            total = total + c.mel_weight * terms["mel"]
        if "pitch" in terms:
            total = total + c.pitch_weight * terms["pitch"] + c.voicing_weight * terms["voicing"]
        return total, {"denoising": denoising.detach(), **{name: value.detach() for name, value in terms.items()}}


def take_pitch(model: SpecGrad, name: str) -> None:
    """Copy the pitch estimator of another model into the source of this one and fix it. Raises ConfigError when there is none of the same size."""
    if model.source is None:
        raise ConfigError("recipe.task.pitch_from: expected a model with a source, got one without; leave pitch_from out")
    hub = importlib.import_module("wavespike.hub.load")
    donor = next((part for part in hub.load(name).modules() if isinstance(part, PitchEstimator)), None)
    own: nn.Module = model.source.pitch
    shapes = {k: v.shape for k, v in own.state_dict().items()}
    if donor is None or {k: v.shape for k, v in donor.state_dict().items()} != shapes:
        what = "one without a pitch estimator" if donor is None else "a pitch estimator of another size"
        raise ConfigError(f"recipe.task.pitch_from: expected a model with the pitch estimator of model.source, got {what}; set pitch_dim and pitch_layers to its")
    own.load_state_dict(donor.state_dict())
    own.requires_grad_(False)
