"""Laws of the metrics: a signal scores best against itself, damage lowers scores, items without a value are left out and counted, NaN is never averaged."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pytest
import torch

from wavespike.errors import AudioError, UsageError
from wavespike.metrics import pitch, quality, speed
from wavespike.metrics.common import ScoreError, pair
from wavespike.metrics.panel import METRICS, Pair, Panel, Report, Row

RATE = 16000


def needs(*packages: str) -> pytest.MarkDecorator:
    absent = [p for p in packages if importlib.util.find_spec(p) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} not installed")


def voice(seconds: float = 2.0, rate: int = RATE, f0: float = 120.0, seed: int = 0) -> np.ndarray:
    """Harmonics of a gliding pitch with syllables and pauses, and faint noise [T]."""
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(f0 * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * t))) / rate
    harmonics = sum(np.cos(k * phase) / k for k in range(1, int(0.4 * rate / f0)))
    syllables = np.clip(np.sin(2 * np.pi * 1.5 * t) * 3, 0, 1)
    noise = np.random.default_rng(seed).normal(size=t.size) * 1e-3
    return (0.2 * harmonics * syllables + noise).astype(np.float32)


def noisy(x: np.ndarray, level: float, seed: int = 1) -> np.ndarray:
    return x + level * np.random.default_rng(seed).normal(size=x.size).astype(np.float32)


@needs("pesq")
@pytest.mark.parametrize(("band", "best"), [("wb", 4.64), ("nb", 4.54)])
def test_pesq_is_best_for_the_reference_itself_and_falls_with_noise(band: str, best: float) -> None:
    x = voice()
    scores = [quality.pesq(x, noisy(x, level), RATE, band) for level in (0.0, 0.005, 0.05)]  # type: ignore[arg-type]
    assert scores[0] == pytest.approx(best, abs=0.02)
    assert scores[0] > scores[1] > scores[2]


@needs("pesq")
def test_pesq_of_a_long_item_is_the_mean_over_its_parts() -> None:
    x, y = voice(40.0), noisy(voice(40.0), 0.01)
    halves = [quality.pesq(a, b, RATE) for a, b in zip(np.split(x, 2), np.split(y, 2), strict=True)]
    assert quality.pesq(x, y, RATE) == pytest.approx(np.mean(halves), abs=1e-9)


@needs("pystoi")
def test_stoi_is_one_for_the_reference_itself_and_falls_with_noise() -> None:
    x = voice()
    scores = [quality.stoi(x, noisy(x, level), RATE) for level in (0.0, 0.02, 0.2)]
    assert scores[0] == pytest.approx(1.0, abs=1e-6)
    assert scores[0] > scores[1] > scores[2]


@needs("speechmos", "onnxruntime", "librosa")
def test_dnsmos_lies_on_its_scale_and_takes_clipping_samples() -> None:
    scores = quality.dnsmos(2.0 * voice(), RATE)
    assert set(scores) == {"ovrl", "sig", "bak", "p808"}
    assert all(1.0 <= v <= 5.0 for v in scores.values())


def test_mel_distance_is_zero_for_itself_and_the_log_of_a_gain() -> None:
    x = 0.1 * np.random.default_rng(0).normal(size=24000).astype(np.float32)
    assert quality.mel_l1(x, x, 24000) == 0.0
    assert quality.mel_l1(x, 0.5 * x, 24000) == pytest.approx(np.log(2.0), rel=1e-3)
    assert quality.mel_l1(torch.from_numpy(x), torch.from_numpy(x)[None], 24000) == 0.0


def test_pitch_laws_on_known_tracks() -> None:
    nan = np.nan
    voiced = np.array([True, True, False, False])
    a = pitch.PitchTrack(np.array([100.0, 200.0, nan, nan]), voiced, np.array([1.0, 1.0, 0.0, 0.0]))
    b = pitch.PitchTrack(np.array([200.0, 200.0, 100.0, nan]), np.array([True, True, True, False]), np.array([1.0, 1.0, 1.0, 0.0]))
    assert pitch.voicing_f1(a, b) == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert pitch.pitch_rmse_cents(a, b) == pytest.approx(1200 / np.sqrt(2))  # one octave in one of two jointly voiced frames
    assert pitch.periodicity_rmse(a, b) == pytest.approx(0.5)
    silent = pitch.PitchTrack(np.full(4, nan), np.zeros(4, bool), np.zeros(4))
    assert pitch.voicing_f1(a, silent) == 0.0
    with pytest.raises(ScoreError, match="voiced"):
        pitch.voicing_f1(silent, silent)
    with pytest.raises(ScoreError, match="voiced in both"):
        pitch.pitch_rmse_cents(a, silent)


@needs("librosa")
def test_a_semitone_is_a_hundred_cents() -> None:
    scores = pitch.compare(voice(), voice(f0=120.0 * 2 ** (1 / 12)), RATE)
    assert scores["pitch_rmse_cents"] == pytest.approx(100, abs=12)  # pyin's grid is 10 cents
    assert scores["vuv_f1"] > 0.9
    assert scores["periodicity_rmse"] < 0.3


def test_pairs_are_cut_to_the_shorter_and_strangers_are_refused() -> None:
    a, b = pair(np.zeros(24000, np.float32), np.zeros(24000 - 255, np.float32), 24000, 24000)
    assert a.size == b.size == 24000 - 255
    with pytest.raises(AudioError, match="one length"):
        pair(np.zeros(24000, np.float32), np.zeros(12000, np.float32), 24000, 24000)


@needs("pystoi")
def test_items_without_a_value_are_left_out_of_the_mean_and_counted_by_name() -> None:
    good, silence = voice(), np.zeros(2 * RATE, np.float32)
    broken = good.copy()
    broken[7] = np.nan
    report = Panel(["stoi", "mel_l1"]).run([Pair("good", good, noisy(good, 0.01), RATE), Pair("silence", silence, silence, RATE), Pair("broken", good, broken, RATE),
                                           Pair("tiny", good[:1], good[:1], RATE)])
    assert report.means()["stoi"] == report.rows[0].scores["stoi"]
    assert report.counts()["stoi"] == 1
    assert set(report.failures()["stoi"]) == {"silence", "broken", "tiny"}
    assert set(report.failures()["mel_l1"]) == {"broken"}
    assert np.isfinite(list(report.means().values())).all()
    assert [row.name for row in report.rows] == ["good", "silence", "broken", "tiny"]


def test_a_metric_that_no_item_has_is_absent_from_the_means_and_nothing_warns() -> None:
    report = Report([Row("a", {}, {"stoi": "no speech"})], {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert report.means() == {}
    assert report.failures() == {"stoi": {"a": "no speech"}}


def test_a_metric_that_is_not_installed_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "pesq" else find(name, *rest))
    report = Panel(["pesq_wb", "mel_l1"]).run([Pair("a", voice(), voice(), RATE)])
    assert report.missing == {"pesq_wb": "pip install 'wavespike[pesq]'"}
    assert report.means() == {"mel_l1": 0.0}
    assert report.failures() == {}


def test_without_a_reference_only_the_metrics_that_need_none_are_scored() -> None:
    row = Panel(["mel_l1", "stoi"]).score(Pair("a", None, voice(), RATE))
    assert (row.scores, row.failures) == ({}, {})


def test_an_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'pesq_wb'"):
        Panel(["pesq_wd"])


def test_processes_change_neither_scores_nor_order() -> None:
    pairs = [Pair(str(i), voice(1.0, seed=i), noisy(voice(1.0, seed=i), 0.01 * i), RATE) for i in range(4)]
    names = ["mel_l1"]
    one, two = Panel(names).run(pairs), Panel(names, processes=2).run(pairs)
    assert one == two


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert all((metric.source, metric.label, metric.rate_hz > 0)), name


def test_real_time_factor_is_computing_time_over_audio_time() -> None:
    total = speed.Speed(computing_s=1.0, audio_s=10.0) + speed.Speed(computing_s=1.0, audio_s=30.0)
    assert (total.real_time_factor, total.times_real_time) == (0.05, 20.0)
    measured = speed.measure(lambda: sum(range(1000)), 1.0)
    assert 0 < measured.real_time_factor < 1
    assert speed.parameter_count(torch.nn.Linear(3, 2)) == 8
