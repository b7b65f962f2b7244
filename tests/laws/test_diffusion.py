"""Laws of the diffusion: levels and variances agree, estimates invert targets, a perfect network is recovered by every sampler, published steps are reproduced."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wavespike.errors import ConfigError, UsageError
from wavespike.nn.diffusion import (
    COSINE,
    SAMPLERS,
    SCHEDULES,
    betas_of,
    diffuse,
    draw_levels,
    estimates,
    fractional_step,
    sampler_step,
    sampling_levels,
    schedule_levels,
    target,
)

PREDICTIONS = ("noise", "velocity", "signal")


@pytest.mark.parametrize("name", [COSINE, *SCHEDULES])
def test_levels_fall_from_speech_to_noise(name: str) -> None:
    levels = schedule_levels(name)
    assert bool((levels.diff() < 0).all())
    assert 0 <= float(levels[-1]) < float(levels[0]) < 1


def test_the_published_numbers() -> None:
    assert float(schedule_levels("linear-50")[-1] ** 2) == pytest.approx(0.28, abs=0.005)  # the signal that DiffWave's last step still holds
    assert betas_of("wg-6") == (7e-6, 1.4e-4, 2.1e-3, 2.8e-2, 0.35, 0.7)
    assert betas_of("priorgrad-6") == (1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5)
    assert betas_of("wg-50")[0] == 1e-4
    assert betas_of("wg-50")[-1] == pytest.approx(0.05)


def test_three_six_and_fifty_steps_of_a_published_model_are_wavegrads() -> None:
    for steps in (3, 6, 50):
        assert sampling_levels("linear-1000", steps) == pytest.approx(schedule_levels(f"wg-{steps}").flip(0).tolist())
    assert sampling_levels("linear-1000", 1000) == pytest.approx(schedule_levels("linear-1000").flip(0).tolist())
    assert len(sampling_levels("linear-1000", 17)) == 17


@given(st.integers(1, 60), st.sampled_from([0.0, 0.1, 0.7]))
@settings(max_examples=30, deadline=None)
def test_cosine_sampling_takes_equal_angles_from_the_lowest_level(steps: int, lowest: float) -> None:
    angles = [math.acos(a) for a in sampling_levels(COSINE, steps, lowest)] + [0.0]
    assert angles[0] == pytest.approx(math.acos(lowest))
    for a, b in itertools.pairwise(angles):
        assert a - b == pytest.approx(math.acos(lowest) / steps, abs=1e-6)


@pytest.mark.parametrize(("schedule", "lowest"), [(COSINE, 0.0), (COSINE, 0.4), ("linear-50", 0.0), ("linear-1000", 0.5), ((0.1, 0.5), 0.0)])
@pytest.mark.parametrize("continuous", [False, True])
def test_training_draws_levels_of_the_schedule_and_none_below(schedule: str | tuple[float, ...], lowest: float, continuous: bool) -> None:
    torch.manual_seed(0)
    drawn = draw_levels(schedule, 4000, continuous, lowest=lowest)
    levels = schedule_levels(schedule)
    assert float(drawn.min()) >= min(lowest, float(levels[-1])) - 1e-12
    assert float(drawn.min()) >= lowest or math.isclose(float(drawn.min()), lowest)
    assert float(drawn.max()) <= 1.0
    if not continuous:
        assert bool(torch.isin(drawn, levels).all())
    else:
        assert len(drawn.unique()) > 3000


def test_fractional_steps_are_linear_in_the_level() -> None:
    levels = schedule_levels("linear-50")
    assert torch.allclose(fractional_step(levels, "linear-50"), torch.arange(50.0), atol=1e-4)
    assert float(fractional_step(0.25 * levels[7:8] + 0.75 * levels[8:9], "linear-50")) == pytest.approx(7.75, abs=1e-4)
    assert float(fractional_step(torch.tensor([0.9999999]), "linear-50")) == 0.0  # beyond an end: the end
    assert float(fractional_step(torch.tensor([0.0]), "linear-50")) == pytest.approx(49.0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_estimates_undo_what_the_target_is_made_of(prediction: str) -> None:
    signal, noise = torch.randn(2, 3, 50, dtype=torch.float64)
    level = torch.tensor([0.1, 0.6, 0.99999])
    x = diffuse(signal, noise, level)
    back = estimates(prediction, target(prediction, signal, noise, level), x, level)  # type: ignore[arg-type]
    assert torch.allclose(back[0], signal, atol=1e-6)
    assert torch.allclose(back[1], noise, atol=1e-6)


def test_diffusion_keeps_unit_variance() -> None:
    torch.manual_seed(0)
    signal, noise = torch.randn(2, 5, 20000)
    x = diffuse(signal, noise, torch.tensor([0.0, 0.2, 0.7, 0.999, 1.0]))
    assert torch.allclose(x.var(1), torch.ones(5), atol=0.05)


def gaussian_estimates(x: Tensor, level: float, mean: float, variance: float) -> tuple[Tensor, Tensor]:
    """What a perfect network says when speech is N(mean, variance)."""
    s2 = 1 - level**2
    signal = (variance * level * x + s2 * mean) / (variance * level**2 + s2)
    return signal, (x - level * signal) / math.sqrt(s2)


def sample(sampler: str, levels: list[float], start: Tensor, mean: float, variance: float) -> Tensor:
    torch.manual_seed(1)
    x, before = start, None
    for i, level in enumerate(levels):
        signal, noise = gaussian_estimates(x, level, mean, variance)
        x = sampler_step(sampler, x, signal, noise, level, [*levels, 1.0][i + 1], fresh=torch.randn_like(x), before=levels[i - 1] if i else None, signal_before=before)
        before = signal
    return x


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", [COSINE, "linear-1000"])
def test_with_a_perfect_network_every_sampler_draws_from_the_distribution(sampler: str, schedule: str) -> None:
    torch.manual_seed(0)
    levels = schedule_levels(schedule).flip(0).tolist()[:: 1 if schedule == COSINE else 2]
    x = sample(sampler, levels, torch.randn(20000, dtype=torch.float64), 0.5, 0.09)
    assert float(x.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(x.std()) == pytest.approx(0.3, abs=0.02)


def test_the_second_order_solver_is_nearer_to_the_exact_path_than_the_first() -> None:
    torch.manual_seed(0)
    start = torch.randn(1000, dtype=torch.float64)
    first = 0.05  # from a level where the exact solution is known: x(a) moves along quantiles
    x = math.sqrt(first**2 * 0.09 + 1 - first**2) * start + first * 0.5
    exact = 0.5 + 0.3 * start

    def error(sampler: str, steps: int) -> float:
        levels = [math.cos(math.acos(first) * i / steps) for i in range(steps, 0, -1)]
        return float((sample(sampler, levels, x, 0.5, 0.09) - exact).abs().max())

    for steps in (12, 24):
        assert error("dpm2", steps) < error("ddim", steps)
    assert error("ddim", 48) < 0.7 * error("ddim", 24)


def test_ancestral_steps_are_the_published_reverse_step() -> None:
    """x <- (x - beta / sqrt(1 - abar) e) / sqrt(1 - beta) + sigma z, and no noise in the last."""
    betas = torch.tensor(betas_of("wg-6"), dtype=torch.float64)
    abar = torch.cumprod(1 - betas, 0)
    x, noise, fresh = torch.randn(3, 10, dtype=torch.float64)
    for t in range(5, -1, -1):
        level, after = float(abar[t].sqrt()), float(abar[t - 1].sqrt()) if t else 1.0
        signal = (x - math.sqrt(1 - level**2) * noise) / level
        ours = sampler_step("ddpm", x, signal, noise, level, after, fresh=fresh)
        sigma = math.sqrt((1 - after**2) / (1 - level**2) * float(betas[t]))
        theirs = (x - betas[t] / (1 - abar[t]).sqrt() * noise) / (1 - betas[t]).sqrt() + sigma * fresh
        assert torch.allclose(ours, theirs, atol=1e-8)


@pytest.mark.parametrize("bad", [(), (0.1, 0.05), (0.1, 0.1), (0.0, 0.1), (0.5, 1.0)])
def test_a_schedule_that_does_not_increase_is_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="schedule: expected"):
        betas_of(bad)


def test_steps_out_of_range_and_unknown_names_are_refused() -> None:
    for steps in (0, -1, 51):
        with pytest.raises(UsageError, match=r"expected 1\.\.50"):
            sampling_levels("linear-50", steps)
    with pytest.raises(ConfigError, match="did you mean 'linear-50'"):
        betas_of("linear-5")
    with pytest.raises(UsageError, match="did you mean 'ddim'"):
        sampler_step("dim", torch.zeros(1), torch.zeros(1), torch.zeros(1), 0.5, 1.0)
