"""How far a mean can be trusted: the bootstrap (Efron, 1979).

Equation: the means of B resamples (n of n items, with replacement); the 2.5 and 97.5 percentiles of them bound the 95 % interval.
The items are the test set: the interval says what another set of the same kind would give, not what another training of the model would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
FEWEST = 6
"""Items from which on a difference may be told from none: six of one sign come by chance in 3 % of cases, five in 6 %."""


def bootstrap_intervals(values: NDArray[np.float64], seed: int = 0, resamples: int = RESAMPLES) -> NDArray[np.float64] | None:
    """95 % intervals [2, m] of the means of the columns of `values` [n, m], all on the same resamples; None for fewer than two items."""
    items = len(values)
    if items < 2:
        return None
    rng = np.random.default_rng(seed)
    step = max(1, 2_000_000 // items)
    means = []
    for done in range(0, resamples, step):
        count = min(step, resamples - done)
        drawn = rng.integers(0, items, (count, items)) + items * np.arange(count)[:, None]
        means.append(np.bincount(drawn.ravel(), minlength=count * items).reshape(count, items) @ values / items)
    return np.percentile(np.concatenate(means), (2.5, 97.5), axis=0)


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float] | None:
    """95 % interval of the mean of `values`, the same for the same seed; None for fewer than two."""
    found = bootstrap_intervals(np.asarray(values, np.float64)[:, None], seed, resamples)
    return None if found is None else (float(found[0, 0]), float(found[1, 0]))


def paired_interval(first: Sequence[float], second: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of the mean difference second - first over the same items: the systems differ when it leaves out zero."""
    return bootstrap_interval([b - a for a, b in zip(first, second, strict=True)], seed)
