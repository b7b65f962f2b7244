"""Laws of the metrics: a signal scores best against itself, damage lowers scores, items without a value are left out and counted, NaN is never averaged."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from wavespike.errors import AudioError, UsageError
from wavespike.metrics import panel, pitch, quality, speed
from wavespike.metrics.common import ScoreError, pair
from wavespike.metrics.intervals import FEWEST, bootstrap_interval, paired_interval
from wavespike.metrics.panel import METRICS, Metric, Pair, Panel, Report, Row, register

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


@needs("pystoi")
def test_estoi_is_one_for_the_reference_itself_and_hears_more_than_stoi() -> None:
    x = voice()
    y = noisy(x, 0.05)
    assert quality.stoi(x, x, RATE, extended=True) == pytest.approx(1.0, abs=1e-6)
    assert quality.stoi(x, y, RATE, extended=True) < quality.stoi(x, y, RATE) < 1.0


@needs("visqol", "ai_edge_litert")
def test_visqol_in_speech_mode_with_its_lattice_is_best_for_the_reference_itself_and_falls_with_noise(capfd: pytest.CaptureFixture[str]) -> None:
    quality._visqol.cache_clear()
    x = voice()
    scores = [quality.visqol(x, noisy(x, level), RATE) for level in (0.0, 0.003, 0.05)]
    assert scores[0] > 4.0
    assert scores[0] > scores[1] > scores[2] >= 1.0
    assert quality._visqol()._manager.use_lattice_model
    with pytest.raises(ScoreError, match="silence"):
        quality.visqol(np.zeros(RATE, np.float32), x[:RATE], RATE)
    assert capfd.readouterr().err == ""  # its native part greets on standard error


@needs("speechmos", "onnxruntime")
def test_plcmos_hears_gaps_is_seeded_and_leaves_the_global_generator_alone() -> None:
    x = voice()
    gaps = x.copy()
    for start in range(2000, gaps.size, 4000):
        gaps[start : start + 1200] = 0
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr] # noqa: NPY002
    whole, again, broken = quality.plcmos(x, RATE), quality.plcmos(x, RATE), quality.plcmos(gaps, RATE)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index] # noqa: NPY002
    assert whole == again
    assert 1.0 <= broken < whole <= 5.0
    assert quality.plcmos(x, RATE, seed=1) != whole


def test_mcd_is_the_rms_difference_of_the_envelopes_in_decibels_without_the_level() -> None:
    k = torch.arange(100)
    flat = torch.zeros(100, 7)
    ripple = flat + (np.log(10) / 20 * 6.0) * torch.cos(torch.pi * 3 * (k + 0.5) / 100)[:, None]  # 6 dB of the third cosine
    assert quality.mel_cepstral_distance(flat, ripple) == pytest.approx(6.0 / np.sqrt(2), rel=1e-4)
    assert quality.mel_cepstral_distance(flat, flat - 1.0) == pytest.approx(0.0, abs=1e-4)  # a gain
    fine = flat + torch.cos(torch.pi * 60 * (k + 0.5) / 100)[:, None]
    assert quality.mel_cepstral_distance(flat, fine) == pytest.approx(0.0, abs=1e-4)  # finer than 24 coefficients
    x = voice(0.5, 24000)
    assert quality.mcd(x, 0.5 * x, 24000) < 0.3
    assert quality.mcd(x, noisy(x, 0.05), 24000) > quality.mcd(x, noisy(x, 0.01), 24000) > 1.0


def test_lsd_of_a_gain_is_the_gain_and_silence_is_not_heard() -> None:
    noise = 0.1 * np.random.default_rng(0).normal(size=24000).astype(np.float32)
    assert quality.lsd(noise, noise, 24000) == 0.0
    assert quality.lsd(noise, 0.5 * noise, 24000) == pytest.approx(20 * np.log10(2), abs=0.05)
    half = noise.copy()
    half[12000:] = 0
    other = half.copy()
    other[13000:] = 1e-7  # 120 dB below
    assert quality.lsd(half, other, 24000) == pytest.approx(0.0, abs=0.05)
    with pytest.raises(ScoreError, match="silence"):
        quality.lsd(0 * noise, noise, 24000)


def test_si_sdr_is_the_ratio_of_target_to_orthogonal_noise_whatever_the_scale() -> None:
    rng = np.random.default_rng(0)
    s, n = rng.normal(size=24000), rng.normal(size=24000)
    s, n = s - s.mean(), n - n.mean()
    n -= (n @ s) / (s @ s) * s
    n *= 0.1 * np.linalg.norm(s) / np.linalg.norm(n)
    for gain in (1.0, 0.01, 30.0):
        assert quality.si_sdr(s.astype(np.float32), (gain * (s + n)).astype(np.float32), 24000) == pytest.approx(20.0, abs=1e-3)
    with pytest.raises(ScoreError, match="no bound"):
        quality.si_sdr(s.astype(np.float32), s.astype(np.float32), 24000)


def test_bootstrap_intervals_hold_the_mean_shrink_with_the_items_and_follow_the_seed() -> None:
    values = list(np.random.default_rng(0).normal(3.0, 1.0, 400))
    wide, narrow = bootstrap_interval(values[:25]), bootstrap_interval(values)
    assert wide is not None
    assert narrow is not None
    assert narrow[0] < np.mean(values) < narrow[1]
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.15)  # the normal theory
    assert wide[1] - wide[0] > 2.5 * (narrow[1] - narrow[0])
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1) != narrow
    assert bootstrap_interval([1.0]) is None
    shifted = [v + 0.1 for v in values]
    assert paired_interval(values, shifted) == (pytest.approx(0.1), pytest.approx(0.1))


def test_differences_are_paired_by_item_and_told_from_none_only_where_the_interval_leaves_out_zero() -> None:
    rng = np.random.default_rng(3)
    hard = rng.normal(3.0, 1.0, 20)  # items differ far more than systems do

    def report(shift: float, noise: float, without: tuple[int, ...] = ()) -> Report:
        return Report([Row(f"{i}", {} if i in without else {"stoi": v + shift + noise * e, "lsd": v + shift + noise * e}, {}) for i, (v, e) in enumerate(zip(hard, rng.normal(size=20), strict=True))], {})

    first, higher, same = report(0.0, 0.0), report(0.1, 0.02), report(0.0, 0.02)
    found = higher.differences(first)
    assert found["stoi"].verdict == "better"
    assert found["lsd"].verdict == "worse"  # for LSD less is better
    assert found["stoi"].mean == pytest.approx(0.1, abs=0.02)
    assert found["stoi"].interval == pytest.approx(paired_interval([r.scores["stoi"] for r in first.rows], [r.scores["stoi"] for r in higher.rows]))
    a, b = first.intervals()["stoi"], higher.intervals()["stoi"]
    assert a[1] > b[0]  # unpaired, the two cannot be told apart
    assert {d.verdict for d in same.differences(first).values()} == {""}
    assert {d.interval for d in first.differences(first).values()} == {(0.0, 0.0)}
    assert {d.verdict for d in first.differences(first).values()} == {""}
    back = first.differences(higher)["stoi"]
    assert (back.mean, *back.interval) == pytest.approx((-found["stoi"].mean, -found["stoi"].interval[1], -found["stoi"].interval[0]))
    assert report(0.1, 0.02, without=(0, 7)).differences(first)["stoi"].items == 18
    backwards = Report(higher.rows[::-1], {}).differences(first)["stoi"]
    assert backwards.mean == pytest.approx(found["stoi"].mean)  # by name, not by place
    few = higher.differences(Report(first.rows[: FEWEST - 1], {}))["stoi"]
    assert few.items == FEWEST - 1
    assert few.verdict == ""
    assert higher.differences(Report(first.rows[:FEWEST], {}))["stoi"].verdict == "better"
    assert higher.differences(Report(first.rows[:1], {})) == {}


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


def loudness(estimate: np.ndarray) -> float:
    if not estimate.any():
        raise ScoreError("nothing to hear")
    return float(estimate.std())


def test_a_metric_of_another_package_is_scored_like_ours_in_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "METRICS", dict(METRICS))
    monkeypatch.setattr(panel, "_REGISTERED", {})
    register("loudness", Metric(label="loudness", unit="", better="higher", rate_hz=8000, span=(0, 1), group="", source="a test", packages=(), extra="", intrusive=False), loudness)
    items = [Pair("voice", voice(), voice(), RATE), Pair("silence", voice(), np.zeros(2 * RATE, np.float32), RATE)]
    one, two = (Panel(["loudness"], processes=n).run(items) for n in (1, 2))
    assert one == two
    assert one.rows[0].scores["loudness"] == pytest.approx(voice().std(), rel=0.05)
    assert one.rows[1].failures == {"loudness": "nothing to hear"}
    for taken in ("stoi", "pitch"):
        with pytest.raises(UsageError, match="choose another"):
            register(taken, METRICS["stoi"], loudness)


def test_utmos_says_what_it_needs_and_takes_a_torchscript_file_or_a_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WAVESPIKE_UTMOS", raising=False)
    report = Panel(["utmos"]).run([Pair("a", None, voice(), RATE)])
    assert "WAVESPIKE_UTMOS" in report.missing["utmos"]
    assert report.rows[0].scores == {}

    class Judge(torch.nn.Module):
        def forward(self, audio: torch.Tensor) -> torch.Tensor:
            return 3.0 + 0.0 * audio.mean(1)

    torch.jit.script(Judge()).save(tmp_path / "judge.pt")
    (tmp_path / "hubconf.py").write_text("import torch\n\nclass Two(torch.nn.Module):\n    def forward(self, audio, rate):\n        return torch.full((len(audio),), rate / 8000)\n\n"
                                         "def utmos22_strong():\n    return Two()\n")
    for place, score in ((tmp_path / "judge.pt", 3.0), (tmp_path, 2.0)):
        monkeypatch.setenv("WAVESPIKE_UTMOS", str(place))
        row = Panel(["utmos"]).score(Pair("a", None, voice(rate=24000), 24000))
        assert row.scores == {"utmos": score}, row.failures


def test_utmos_of_a_copy_of_its_repository_fetches_nothing_and_leaves_dnsmos_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The repository's package is called like the one of DNSMOS, asks for torchaudio, and would download its weights."""
    (tmp_path / "repository" / "speechmos").mkdir(parents=True)
    (tmp_path / "repository" / "hubconf.py").write_text("dependencies = ['torch', 'torchaudio']\nimport torch\nfrom speechmos.strong import Strong\n\n"
        "def utmos22_strong(progress=True):\n    model = Strong()\n"
        "    model.load_state_dict(torch.hub.load_state_dict_from_url(url='https://localhost/weights_v1.pt', map_location='cpu', progress=progress))\n    return model.eval()\n")
    (tmp_path / "repository" / "speechmos" / "__init__.py").write_text("")
    (tmp_path / "repository" / "speechmos" / "strong.py").write_text("import torch\nimport torchaudio\n\nclass Strong(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(1, 1)\n"
        "    def forward(self, audio, sr):\n        return self.bias + 0 * torchaudio.functional.resample(audio, orig_freq=sr, new_freq=16000).mean(1)\n")
    monkeypatch.setenv("WAVESPIKE_UTMOS", str(tmp_path / "repository"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    needed = Panel(["utmos"]).missing["utmos"]
    assert "put https://localhost/weights_v1.pt at" in needed
    assert str(tmp_path / "hub" / "checkpoints" / "weights_v1.pt") in needed
    torch.save({"weight": torch.zeros(1, 1), "bias": torch.full((1,), 4.25)}, tmp_path / "hub" / "checkpoints" / "weights_v1.pt")
    panel = Panel(["utmos", "dnsmos_ovrl"])
    for _ in range(2):
        row = panel.score(Pair("a", None, voice(), RATE))
        assert row.scores["utmos"] == pytest.approx(4.25), row.failures
        assert "dnsmos_ovrl" in row.scores or "dnsmos_ovrl" in panel.missing, row.failures


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert all((metric.source, metric.label, metric.rate_hz > 0)), name


def test_real_time_factor_is_computing_time_over_audio_time() -> None:
    total = speed.Speed(computing_s=1.0, audio_s=10.0) + speed.Speed(computing_s=1.0, audio_s=30.0)
    assert (total.real_time_factor, total.times_real_time) == (0.05, 20.0)
    measured = speed.measure(lambda: sum(range(1000)), 1.0)
    assert 0 < measured.real_time_factor < 1
    assert speed.parameter_count(torch.nn.Linear(3, 2)) == 8
