"""Denoising diffusion (Ho, Jain and Abbeel, 2020) with levels instead of steps: schedules, what a network predicts, and one step of each sampler.

Equation: x_t = a x_0 + s e with a^2 + s^2 = 1 and e ~ N(0, I) in the whitened space of the prior; a is the level, 1 for speech and 0 for noise.
A schedule of variances beta has a_t = sqrt(prod (1 - beta)). All functions are pure and work on any shape [B, ...]; levels are [B] or floats.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from wavespike.errors import ConfigError, UsageError, nearest

Prediction = Literal["noise", "velocity", "signal"]
Sampler = Literal["ddpm", "ddim", "dpm2"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)


def _linear(first: float, last: float, steps: int) -> tuple[float, ...]:
    return tuple(first + (last - first) * i / (steps - 1) for i in range(steps))


SCHEDULES: dict[str, tuple[float, ...]] = {
    "linear-50": _linear(1e-4, 0.05, 50),
    "linear-1000": _linear(1e-6, 0.01, 1000),
    "wg-50": _linear(1e-4, 0.05, 50),
    "wg-6": (7e-6, 1.4e-4, 2.1e-3, 2.8e-2, 0.35, 0.7),
    "wg-3": (3e-4, 6e-2, 0.9),
    "priorgrad-6": (1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5),
    "priorgrad-4": (1e-3, 1e-2, 0.05, 0.2),
}
"""Published variances: DiffWave's T = 50, WaveGrad's T = 1000 and its WG-50, WG-6, WG-3, PriorGrad's fast ones."""
COSINE = "cosine"
"""The schedule without variances: a = cos(pi t / 2), t in 0..1, ending in pure noise."""
COSINE_STEPS = 1000
Schedule = str | tuple[float, ...]


def betas_of(schedule: Schedule) -> tuple[float, ...]:
    """The variances of a named or custom schedule, checked. Raises ConfigError."""
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            known = [COSINE, *SCHEDULES]
            raise ConfigError(f"schedule: expected one of {', '.join(known)} or a list of variances, got {schedule!r}{nearest(schedule, known)}")
        return SCHEDULES[schedule]
    if not schedule or not all(0 < b < 1 for b in schedule):
        raise ConfigError(f"schedule: expected one or more variances between 0 and 1, got {list(schedule)}")
    if any(b >= c for b, c in itertools.pairwise(schedule)):
        raise ConfigError(f"schedule: expected increasing variances, got {list(schedule)}; sort them, the smallest first")
    return tuple(schedule)


def schedule_levels(schedule: Schedule) -> Tensor:
    """Levels a_1 > a_2 > ... > a_T of a schedule, [T] float64."""
    if schedule == COSINE:
        return torch.cos(torch.arange(1, COSINE_STEPS + 1, dtype=torch.float64) * (math.pi / 2 / COSINE_STEPS)).clamp_min(0.0)
    return torch.cumprod(1 - torch.tensor(betas_of(schedule), dtype=torch.float64), 0).sqrt()


def sampling_levels(schedule: Schedule, steps: int, lowest: float = 0.0) -> list[float]:
    """The levels that `steps` sampling steps visit, from noise to speech (the last step ends at 1, which is not in the list).

    Trained on the cosine schedule: equal angles, the first level being `lowest`. Trained on another: all its levels, WaveGrad's list of 50, 6 or 3, or as
    many levels spread evenly, none below `lowest`. Raises UsageError for steps < 1 or above the schedule's T.
    """
    levels = schedule_levels(schedule)
    if schedule != COSINE and lowest > 0.0:
        levels = levels[levels >= lowest]
    if not 1 <= steps <= len(levels):
        raise UsageError(f"--steps: expected 1..{len(levels)} for this model's schedule, got {steps}")
    if schedule == COSINE:
        return [max(lowest, math.cos(math.acos(lowest) * i / steps)) for i in range(steps, 0, -1)]
    if steps != len(levels) and f"wg-{steps}" in SCHEDULES and lowest == 0.0:
        levels = schedule_levels(f"wg-{steps}")
    elif steps != len(levels):
        levels = levels[torch.tensor([round(len(levels) * i / steps) - 1 for i in range(1, steps + 1)])]
    return [float(a) for a in levels.flip(0)]


def draw_levels(schedule: Schedule, size: int, continuous: bool, device: torch.device | str = "cpu", lowest: float = 0.0) -> Tensor:
    """Random levels for training [size] float64: one of the schedule's, or with `continuous` one between two neighbours (WaveGrad, Chen et al., 2021).

    None is below `lowest`.
    """
    if schedule == COSINE and continuous:
        return torch.cos(math.acos(lowest) * torch.rand(size, device=device, dtype=torch.float64)).clamp_min(lowest)
    levels = torch.cat([torch.ones(1, dtype=torch.float64), schedule_levels(schedule)]).to(device)
    levels = levels[levels >= lowest]
    t = torch.randint(1, len(levels), (size,), device=device)
    if not continuous:
        return levels[t]
    share = torch.rand(size, device=device, dtype=torch.float64)
    return levels[t] + share * (levels[t - 1] - levels[t])


def fractional_step(level: Tensor, schedule: Schedule) -> Tensor:
    """Where a level [B] lies among the schedule's steps 0..T-1, linear in the level (PriorGrad's fast sampling); outside it the nearest end."""
    levels = schedule_levels(schedule).flip(0).to(level.device)  # increasing
    a = level.double().clamp(float(levels[0]), float(levels[-1]))
    right = torch.searchsorted(levels, a).clamp(1, max(1, len(levels) - 1))
    if len(levels) == 1:
        return torch.zeros_like(level, dtype=torch.float32)
    share = (a - levels[right - 1]) / (levels[right] - levels[right - 1])
    return (len(levels) - 1 - (right - 1 + share)).float()


def _shares(level: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Level a and noise share s = sqrt(1 - a^2) [B, 1, ...], computed in float64: a is next to 1 where it matters."""
    a = torch.as_tensor(level, dtype=torch.float64, device=like.device)
    a = a.reshape(-1, *[1] * (like.ndim - 1)) if a.ndim else a
    return a.to(like.dtype), (1 - a.square()).clamp_min(0.0).sqrt().to(like.dtype)


def diffuse(signal: Tensor, noise: Tensor, level: Tensor | float) -> Tensor:
    """x_t = a x_0 + s e."""
    a, s = _shares(level, signal)
    return a * signal + s * noise


def target(prediction: Prediction, signal: Tensor, noise: Tensor, level: Tensor | float) -> Tensor:
    """What a network is to predict: e, v = a e - s x_0 (Salimans and Ho, 2022) or x_0."""
    a, s = _shares(level, signal)
    if prediction == "velocity":
        return a * noise - s * signal
    return noise if prediction == "noise" else signal


def estimates(prediction: Prediction, output: Tensor, x: Tensor, level: Tensor | float) -> tuple[Tensor, Tensor]:
    """The signal x_0 and the noise e that a network's output at x_t stands for."""
    a, s = _shares(level, x)
    if prediction == "velocity":
        return a * x - s * output, s * x + a * output
    if prediction == "noise":
        return (x - s * output) / a, output
    return output, (x - a * output) / s.clamp_min(1e-6)


def sampler_step(sampler: str, x: Tensor, signal: Tensor, noise: Tensor, level: float, after: float, *, fresh: Tensor | None = None,
                 before: float | None = None, signal_before: Tensor | None = None) -> Tensor:
    """From x at `level` to x at the level `after`, given the estimates of signal and noise.

    ddpm  ancestral: the posterior q(x_after | x, x_0); `fresh` is its noise (unused when `after` is 1)
    ddim  deterministic (Song, Meng and Ermon, 2021): a' x_0 + s' e
    dpm2  second order (DPM-Solver++ 2M, Lu et al., 2022): x_0 is extrapolated in log(a / s) from the step before (`before`, `signal_before`)

    Raises UsageError for another name.
    """
    s, s_after = math.sqrt(max(0.0, 1 - level**2)), math.sqrt(max(0.0, 1 - after**2))
    if sampler == "ddpm":
        alpha = (level / after) ** 2
        mean = after * (1 - alpha) / s**2 * signal + math.sqrt(alpha) * (s_after / s) ** 2 * x
        return mean if fresh is None or s_after == 0.0 else mean + s_after / s * math.sqrt(1 - alpha) * fresh
    if sampler == "ddim":
        return after * signal + s_after * noise
    if sampler == "dpm2":
        if signal_before is not None and before is not None and before > 0.0 and s_after > 0.0 and level > 0.0:
            here, last, next_ = (math.log(a / math.sqrt(1 - a**2)) for a in (level, before, after))
            signal = signal + (next_ - here) / (2 * (here - last)) * (signal - signal_before)
        return s_after / s * (x - level * signal) + after * signal
    raise UsageError(f"--sampler: expected one of {', '.join(SAMPLERS)}, got {sampler!r}{nearest(sampler, SAMPLERS)}")
