"""Laws of alignment: a shift is found to the sample for a waveform and to a few milliseconds for its envelope, signals in place stay in place, all is said."""

from __future__ import annotations

import numpy as np
import pytest

from wavespike.errors import AudioError
from wavespike.metrics.alignment import align, lag_samples
from wavespike.signal.resample import resample

RATE = 16000


def babble(seconds: float = 2.0, seed: int = 0, phase_seed: int = 0) -> np.ndarray:
    """Noise in syllables of random length; `phase_seed` changes the waveform and keeps the envelope."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.uniform(0.0, 1.0, int(seconds * 12)) ** 2, RATE // 12 + 1)[: int(seconds * RATE)]
    return (0.2 * level * np.random.default_rng(100 + phase_seed).normal(size=level.size)).astype(np.float32)


@pytest.mark.parametrize("lag", [-3200, -17, 0, 1, 800])
def test_a_shifted_waveform_is_found_to_the_sample(lag: int) -> None:
    x = babble()
    y = np.concatenate([np.zeros(lag, np.float32), x]) if lag >= 0 else x[-lag:]
    assert lag_samples(x, 0.5 * y, RATE) == lag
    aligned, notes = align(x, y, RATE, RATE)
    kept = slice(max(0, -lag), None)
    assert np.array_equal(aligned[kept], x[kept])
    assert len(aligned) == len(x)
    assert any("moved by" in note for note in notes) == (lag != 0)


@pytest.mark.parametrize("lag", [0, 1600])
def test_another_waveform_with_the_same_envelope_is_found_by_the_envelope(lag: int) -> None:
    x, y = babble(), babble(phase_seed=1)
    found = lag_samples(x, np.concatenate([np.zeros(lag, np.float32), y]), RATE)
    assert abs(found - lag) <= 80 * (lag > 0)


def test_strangers_and_silence_stay_where_they_are() -> None:
    x = babble()
    assert lag_samples(x, np.zeros_like(x), RATE) == 0
    steady = np.random.default_rng(3).normal(size=x.size).astype(np.float32)
    assert lag_samples(steady, np.random.default_rng(4).normal(size=x.size).astype(np.float32), RATE) == 0


def test_another_rate_and_length_are_mended_and_said() -> None:
    x = babble()
    aligned, notes = align(x, resample(x, RATE, 24000)[: 24000 * 3 // 2], RATE, 24000)
    assert aligned.size == x.size
    assert notes == ["resampled from 24000 to 16000 Hz", "0.500 s of silence added at the end"]
    assert np.corrcoef(aligned[:20000], x[:20000])[0, 1] > 0.97  # white noise loses its top to the resampler
    assert align(x, np.concatenate([x, x]), RATE, RATE)[1] == ["2.000 s cut off at the end"]


def test_what_covers_less_than_half_is_refused() -> None:
    with pytest.raises(AudioError, match="belong together"):
        align(babble(), babble()[:RATE // 2], RATE, RATE)
