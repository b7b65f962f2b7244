"""SpecGrad (Koizumi et al., "SpecGrad: diffusion probabilistic model based neural vocoder with adaptive noise spectral shaping", 2022), and with other priors
and networks DiffWave (Kong et al., 2021), WaveGrad (Chen et al., 2021) and PriorGrad (Lee et al., 2022).

Equation: x_a = a x_0 + s L e, e ~ N(0, I); a network F predicts the noise (or x_0, or the velocity) and minimises the mean of |L^-1 (target - F)|^2; speech is sampled
from L e by the steps of `nn.diffusion`. L is the prior's: see `nn.priors`.
Departures: the diffusion may run in the whitened space (`space: whitened`), where the network sees y = L^-1 x and only the result is shaped: the same
Gaussians, and noise-like speech is white there whatever its spectrum. A denoiser on STFT frames and a harmonic first guess (`source`) make it learn and
run on a CPU; Griffin-Lim projections on the mel's own magnitude may follow the last step (`consistency_steps`). Noise depends on seed and position only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from wavespike.config import Config
from wavespike.errors import ConfigError, FeatureError, UsageError, nearest
from wavespike.models.base import MelVocoder, Stream
from wavespike.nn.diffusion import (
    COSINE,
    SAMPLERS,
    Prediction,
    Sampler,
    Schedule,
    betas_of,
    diffuse,
    estimates,
    fractional_step,
    sampler_step,
    sampling_levels,
    schedule_levels,
)
from wavespike.nn.diffwave import DiffWaveConfig, DiffWaveDenoiser
from wavespike.nn.excitation import Excitation, ExcitationConfig
from wavespike.nn.frame_denoiser import FrameDenoiser, FrameDenoiserConfig
from wavespike.nn.priors import EnergyPriorConfig, IsotropicPriorConfig, Prior, SpectralPriorConfig
from wavespike.nn.wavegrad import WaveGradConfig, WaveGradDenoiser
from wavespike.signal.griffin_lim import Frames, griffin_lim
from wavespike.signal.mel import MelConfig, magnitude_from_mel
from wavespike.signal.noise import counter_gaussian
from wavespike.signal.stft import stft

Progress = Callable[[int, int], None]
"""Called after every sampling step with its number, 1..steps, and the samples that it moved on (a stream does each step piece by piece)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecGradConfig(Config):
    """The diffusion and its network.

    schedule           of training: "cosine", a name of `nn.diffusion.SCHEDULES`, or increasing variances
    continuous         training draws levels between the schedule's steps too (WaveGrad); a cosine schedule is continuous anyway
    prediction         what the network is asked for
    space              where it looks: "signal" (as published) or "whitened"
    steps, sampler, seed  what `decode` does unless told otherwise
    clip_sample        the waveform is clipped to this after every step (PriorGrad: 1.0; `space: signal` only)
    shallow            sampling starts at this level from the first guess, a G + s L e, instead of from noise alone (the shallow diffusion of DiffSinger, Liu
                       et al., 2022); training then draws no lower levels. Needs a source; None starts from noise
    consistency_steps  Griffin-Lim projections on the mel's magnitude after the last step
    """

    type_name: ClassVar[str] = "specgrad"

    features: MelConfig = MelConfig()
    prior: IsotropicPriorConfig | EnergyPriorConfig | SpectralPriorConfig = SpectralPriorConfig()
    denoiser: FrameDenoiserConfig | DiffWaveConfig | WaveGradConfig = FrameDenoiserConfig()
    source: ExcitationConfig | None = None
    schedule: str | tuple[float, ...] = COSINE
    continuous: bool = True
    prediction: Prediction = "velocity"
    space: Literal["whitened", "signal"] = "whitened"
    steps: int = 6
    sampler: Sampler = "ddim"
    seed: int = 0
    clip_sample: float | None = None
    shallow: float | None = None
    consistency_steps: int = 0

    def __post_init__(self) -> None:
        d, m = self.denoiser, self.features
        if self.schedule != COSINE:
            betas_of(self.schedule)
        elif self.prediction == "noise":
            raise ConfigError("prediction: expected velocity or signal with the cosine schedule, which starts from pure noise, got noise")
        top = len(schedule_levels(self.schedule))
        if not 1 <= self.steps <= top:
            raise ConfigError(f"steps: expected 1..{top} for this schedule, got {self.steps}")
        if isinstance(d, DiffWaveConfig) and self.schedule == COSINE:
            raise ConfigError("schedule: expected a list of variances for a DiffWave denoiser, which is told the step's number, got cosine")
        if isinstance(d, (DiffWaveConfig, WaveGradConfig)):
            if d.hop_length != m.hop_length:
                raise ConfigError(f"denoiser: expected to upsample by the features' hop_length {m.hop_length}, got {d.hop_length}")
            if d.n_mels != m.n_mels:
                raise ConfigError(f"denoiser.n_mels: expected the features' {m.n_mels}, got {d.n_mels}")
            if self.source is not None:
                raise ConfigError("source: expected none with a DiffWave or WaveGrad denoiser, which has no input for it; use a frames denoiser")
        if self.shallow is not None and (self.source is None or not 0 < self.shallow < float(schedule_levels(self.schedule)[0])):
            raise ConfigError(f"shallow: expected a level between 0 and the schedule's first, and a source to start from, got {self.shallow}")
        if isinstance(d, DiffWaveConfig) and d.max_timesteps < top:
            raise ConfigError(f"denoiser.max_timesteps: expected at least the schedule's {top} steps, got {d.max_timesteps}")
        if self.clip_sample is not None and (self.space != "signal" or not self.clip_sample > 0):
            raise ConfigError(f"clip_sample: expected a limit above 0 and space: signal, got {self.clip_sample} and {self.space}; the whitened signal has no full scale")
        if self.consistency_steps < 0 or (self.consistency_steps and m.win_length not in (None, m.n_fft)):
            raise ConfigError("consistency_steps: expected 0 or more, and a mel whose window is as long as its n_fft")


class SpecGrad(MelVocoder[SpecGradConfig]):
    """A diffusion vocoder of any configuration.

        audio = model.decode(features, steps=6, sampler="dpm2", seed=1)

    `steps`, `sampler`, `seed` and `schedule` (a name or increasing variances to sample by) may be given to `decode`, `stream` and to the model itself.
    """

    config_class: ClassVar[type[Config]] = SpecGradConfig

    def __init__(self, config: SpecGradConfig):
        super().__init__(config)
        d = config.denoiser
        self.denoiser: FrameDenoiser | DiffWaveDenoiser | WaveGradDenoiser
        if isinstance(d, DiffWaveConfig):
            self.denoiser = DiffWaveDenoiser(d)
        elif isinstance(d, WaveGradConfig):
            self.denoiser = WaveGradDenoiser(d)
        else:
            self.denoiser = FrameDenoiser(d, config.features)
        self.source = None if config.source is None else Excitation(config.source, config.features)

    def samples(self, frames: int) -> int:
        """Samples T of L frames."""
        return (frames - (self.config.features.padding == "center")) * self.hop_length

    def check_features(self, features: Tensor, convention: MelConfig | None = None) -> None:
        """Raises FeatureError for features that are not this model's, naming both conventions where they can be told."""
        own = self.config.features
        if convention is not None and convention != own:
            raise FeatureError(f"expected a mel of {convention_text(own)}, got one of {convention_text(convention)}; compute it with model.features(audio)")
        if features.ndim == 3 and features.shape[1] != own.n_mels:
            raise FeatureError(self.other_bands(features.shape[1]))
        super().check_features(features)

    def other_bands(self, bands: int) -> str:
        """What is wrong with features of so many bands."""
        own = self.config.features
        known = [name for name in ("vocos", "hifigan", "specgrad") if MelConfig.named(name).n_mels == bands]
        hint = f" (as in the convention {known[0]!r}: {convention_text(MelConfig.named(known[0]))})" if known else ""
        return f"expected a mel of {convention_text(own)}, got {bands} bands{hint}; compute it with model.features(audio)"

    def network(self, x: Tensor, features: Tensor, level: Tensor, source: Tensor | None = None) -> Tensor:
        """What the network predicts at x [B, T], which lies in the configured space, and level a [B]: [B, T]."""
        if isinstance(self.denoiser, DiffWaveDenoiser):
            return self.denoiser(x, features, fractional_step(level, self.config.schedule))  # type: ignore[no-any-return]
        if isinstance(self.denoiser, WaveGradDenoiser):
            return self.denoiser(x, features, level)  # type: ignore[no-any-return]
        return self.denoiser(x, features, level, source)  # type: ignore[no-any-return]

    def prior(self, features: Tensor) -> Prior:
        """L and its inverse for these features."""
        return Prior(self.config.prior, features, self.config.features)

    def guess(self, features: Tensor, prior: Prior, **more: Any) -> Tensor | None:
        """The first guess in the space where the network looks, [B, T]; None for a model without a source. `more` goes to `Excitation`."""
        if self.source is None:
            return None
        made: Tensor = self.source(features, **more)
        return prior.whiten(made) if self.config.space == "whitened" else made

    def to_space(self, noise: Tensor, prior: Prior) -> Tensor:
        """White noise as it is drawn -> noise in the space where the network looks."""
        return noise if self.config.space == "whitened" else prior.shape(noise)

    def begin(self, level: float, noise: Tensor, source: Tensor | None, prior: Prior) -> Tensor:
        """Where sampling starts, at the first level: white noise [B, T] as it is drawn, and for a shallow diffusion the guess -> x."""
        x = self.to_space(noise, prior)
        return x if self.config.shallow is None or source is None else diffuse(source, x, level)

    def to_audio(self, x: Tensor, prior: Prior) -> Tensor:
        """x_0 in the network's space -> waveform, without projections."""
        return prior.shape(x) if self.config.space == "whitened" else x

    def finish(self, x: Tensor, features: Tensor, prior: Prior) -> Tensor:
        """The sampled x_0 -> waveform."""
        c, m = self.config, self.config.features
        audio = self.to_audio(x, prior)
        if not c.consistency_steps or audio.shape[-1] == 0:
            return audio
        spectrum = stft(audio, m.n_fft, m.hop_length, m.win_length, m.padding).transpose(1, 2)
        magnitude = magnitude_from_mel(features, m).transpose(1, 2)
        return griffin_lim(Frames.of(magnitude, spectrum), c.consistency_steps, m.n_fft, m.hop_length, momentum=0.0, padding=m.padding)

    def advance(self, plan: Plan, number: int, x: Tensor, features: Tensor, prior: Prior, source: Tensor | None, fresh: Callable[[int], Tensor],
                signal_before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Step `number` of a plan: x and the signal estimate of the step before -> x and the signal estimate of this one. `fresh(channel)` draws white noise."""
        level, after = plan.levels[number], (*plan.levels[1:], 1.0)[number]
        output = self.network(x, features, torch.full((x.shape[0],), level, dtype=torch.float64, device=x.device), source)
        signal, noise = estimates(self.config.prediction, output, x, level)
        drawn = self.to_space(fresh(1 + number), prior) if plan.sampler == "ddpm" and after < 1.0 else None
        x = sampler_step(plan.sampler, x, signal, noise, level, after, fresh=drawn, before=plan.levels[number - 1] if number else None, signal_before=signal_before)
        if self.config.clip_sample is not None:
            x = x.clamp(-self.config.clip_sample, self.config.clip_sample)
        return x, signal

    def plan(self, steps: int | None = None, sampler: str | None = None, seed: int | None = None, schedule: Schedule | None = None,
             progress: Progress | None = None, convention: MelConfig | None = None, **unknown: Any) -> Plan:
        """What a call is to do, with the configuration's values where none are given. Raises UsageError."""
        for name in unknown:
            known = ("steps", "sampler", "seed", "schedule", "progress", "convention")
            raise UsageError(f"expected a condition of {', '.join(known)}, got {name!r}{nearest(name, known)}")
        c = self.config
        if schedule is not None:
            levels = [a for a in schedule_levels(schedule).flip(0).tolist() if a >= (c.shallow or 0.0)]
            if steps is not None and steps != len(levels):
                raise UsageError(f"--steps: expected {len(levels)}, the length of the schedule, or none, got {steps}")
        else:
            levels = sampling_levels(c.schedule, c.steps if steps is None else steps, c.shallow or 0.0)
        sampler = c.sampler if sampler is None else sampler
        if sampler not in SAMPLERS:
            raise UsageError(f"--sampler: expected one of {', '.join(SAMPLERS)}, got {sampler!r}{nearest(sampler, SAMPLERS)}")
        return Plan(levels=tuple(levels), sampler=sampler, seed=c.seed if seed is None else seed, progress=progress, convention=convention)

    def decode(self, features: Tensor, **condition: Any) -> Tensor:
        """Features [B, C, L] -> waveform [B, T]. Keeps a gradient only in training mode."""
        plan = self.plan(**condition)
        self.check_features(features, plan.convention)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self.training or features.requires_grad)):
            return self._sample(plan, features)

    def _sample(self, plan: Plan, features: Tensor) -> Tensor:
        length = self.samples(features.shape[-1])
        if length == 0:  # one centred frame spans no samples
            return features.new_zeros(features.shape[0], 0)

        def fresh(channel: int) -> Tensor:
            return counter_gaussian(plan.seed, channel, 0, length, dtype=features.dtype, device=features.device).expand(features.shape[0], -1)

        prior = self.prior(features)
        source = self.guess(features, prior)
        x, signal = self.begin(plan.levels[0], fresh(0), source, prior), None
        for number in range(len(plan.levels)):
            x, signal = self.advance(plan, number, x, features, prior, source, fresh, signal)
            if plan.progress is not None:
                plan.progress(number + 1, length)
        return self.finish(x, features, prior)

    def stream(self, batch_size: int = 1, **condition: Any) -> Stream:
        """A session that decodes chunks of features; a chain of the sampler's steps, each of which computes every frame about once."""
        from wavespike.models.specgrad_stream import SpecGradStream

        return SpecGradStream(self, self.plan(**condition), batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One call's levels from noise to speech, sampler and seed."""

    levels: tuple[float, ...]
    sampler: str
    seed: int
    progress: Progress | None = None
    convention: MelConfig | None = None


def convention_text(mel: MelConfig) -> str:
    """A mel convention in a line."""
    top = mel.f_max if mel.f_max is not None else mel.sample_rate / 2
    kind = {1.0: "magnitude", 2.0: "power"}.get(mel.power, f"power {mel.power}")
    return (f"{mel.n_mels} {mel.mel_scale} bands {mel.f_min:g}-{top:g} Hz, {mel.sample_rate} Hz, {mel.n_fft}/{mel.win_length or mel.n_fft}/{mel.hop_length}, "
            f"log {mel.log_base} of {kind}, norm {mel.norm or 'none'}, clip {mel.clip:g}, {mel.padding}")
