"""How far a mean can be trusted: the bootstrap (Efron, 1979).

Equation: the means of B resamples (n of n items, with replacement); the 2.5 and 97.5 percentiles of them bound the 95 % interval.
The items are the test set: the interval says what another set of the same kind would give, not what another training of the model would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float] | None:
    """95 % interval of the mean of `values`, the same for the same seed; None for fewer than two."""
    x = np.asarray(values, np.float64)
    if x.size < 2:
        return None
    rng = np.random.default_rng(seed)
    step = max(1, 2_000_000 // x.size)
    means = np.concatenate([x[rng.integers(0, x.size, (min(step, resamples - done), x.size))].mean(1) for done in range(0, resamples, step)])
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def paired_interval(first: Sequence[float], second: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of the mean difference second - first over the same items: the systems differ when it leaves out zero."""
    return bootstrap_interval([b - a for a, b in zip(first, second, strict=True)], seed)
