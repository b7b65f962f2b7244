"""Laws of evaluation: the same seed gives the same scores, finished work is found again by content and by nothing else, one failure spoils nothing else, bytes are
real, and every peer and every bundled model that gives speech back goes through the same door."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wavespike.errors import AudioError, UsageError
from wavespike.hub.load import load, presets, save
from wavespike.metrics import evaluation, panel
from wavespike.metrics.cache import Cache, content_key
from wavespike.metrics.evaluation import Evaluation, Settings, evaluate
from wavespike.metrics.systems import Made, ModelSystem, System, open_system
from wavespike.models.audiodec import AudioDec, AudioDecConfig, DecoderConfig, EncoderConfig
from wavespike.models.spiking_vocos import SpikingVocos
from wavespike.models.vocos import Vocos, VocosConfig
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.heads import ISTFTHeadConfig
from wavespike.nn.rvq import RVQConfig
from wavespike.runtime.codec_files import encode_file
from wavespike.signal.files import write
from wavespike.signal.resample import Samples

RATE = 24000


def voice(seconds: float = 0.6, f0: float = 140.0) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    tone = sum(np.cos(2 * np.pi * f0 * k * t) / k for k in range(1, 30))
    return (0.1 * tone * (0.2 + np.abs(np.sin(2 * np.pi * 2.2 * t)))).astype(np.float32)


def codec() -> AudioDec:
    torch.manual_seed(0)
    config = AudioDecConfig(sample_rate=RATE, encoder=EncoderConfig(channels=2, ratios=(2, 2), strides=(8, 10)), decoder=DecoderConfig(channels=2, ratios=(2, 2), strides=(10, 8)),
                            quantizer=RVQConfig(dim=4, num_codebooks=4, codebook_size=16))
    return AudioDec(config).eval()


def tiny() -> Vocos:
    torch.manual_seed(0)
    return Vocos(VocosConfig(backbone=ConvNeXtConfig(dim=16, intermediate_dim=32, num_layers=1), head=ISTFTHeadConfig(dim=16))).eval()


@pytest.fixture
def data(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    return [write(folder / f"{name}.wav", voice(f0=f0), RATE) for name, f0 in (("a", 110.0), ("b", 150.0), ("c", 190.0))]


class Counting(System):
    """Noise of the seed on the input; counts its calls, and fails for files named in `bad`."""

    parameters = 0

    def __init__(self, name: str = "counting", bad: str = "", notes: tuple[str, ...] = ()):
        self.name, self.bad, self.notes, self.made = name, bad, notes, []  # type: ignore[var-annotated]

    computes = False

    def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
        if path.stem == self.bad:
            raise AudioError(f"{path.name}: too hard")
        self.made.append(path.stem)
        return Made(audio + 0.01 * torch.randn(audio.size).numpy(), rate_hz, 1000, self.notes)

    def identity(self, path: Path | None = None) -> str:
        return self.name


def scores(found: Evaluation, name: str = "s") -> list[dict[str, float]]:
    return [row.scores for row in found.results[name].report.rows]


def test_the_seed_fixes_the_scores_and_the_order_of_the_files_is_kept(data: list[Path]) -> None:
    runs = [evaluate({"s": Counting()}, data, Settings(metrics=["mel_l1", "lsd"], seed=seed)) for seed in (0, 0, 1)]
    assert scores(runs[0]) == scores(runs[1]) != scores(runs[2])
    assert [row.name for row in runs[0].results["s"].report.rows] == [str(p) for p in data]
    assert runs[0].as_dict()["models"]["s"]["metrics"] == runs[1].as_dict()["models"]["s"]["metrics"]


def test_finished_work_is_found_again_by_content(data: list[Path], tmp_path: Path) -> None:
    system = Counting(notes=("moved",))

    def run(*metrics: str, **settings: Any) -> Evaluation:
        system.made.clear()
        return evaluate({"s": system}, data, Settings(metrics=metrics, cache=tmp_path / "cache", **settings))

    first = run("mel_l1")
    assert system.made == ["a", "b", "c"]
    again = run("mel_l1")
    assert system.made == []
    assert again.as_dict() == first.as_dict()  # sizes and notes too
    assert again.results["s"].notes == {str(p): ["moved"] for p in data}
    more = run("mel_l1", "lsd")  # the new metric needs the audio, the old one keeps its value
    assert system.made == ["a", "b", "c"]
    assert [s["mel_l1"] for s in scores(more)] == [s["mel_l1"] for s in scores(first)]
    assert [list(s) for s in scores(run("lsd"))] == [["lsd"]] * 3
    assert system.made == []
    shutil.copy(data[0], tmp_path / "moved.wav")  # another name, the same content
    write(data[1], voice(f0=151.0), RATE)  # the same name, another content
    data[0] = tmp_path / "moved.wav"
    changed = run("mel_l1")
    assert system.made == ["b"]
    assert scores(changed)[0] == scores(first)[0]
    run("mel_l1", seed=1)
    assert system.made == ["moved", "b", "c"]
    system.name = "other weights"
    run("mel_l1")
    assert system.made == ["moved", "b", "c"]


def test_a_system_that_sounds_as_before_costs_no_new_scores(data: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New code or another name make the sound anew; scores belong to the sound."""
    judged: list[str] = []
    run_group = panel._run_group
    monkeypatch.setattr(panel, "_run_group", lambda group, item, seed: judged.append(item.name) or run_group(group, item, seed))  # type: ignore[func-returns-value]

    def run(name: str) -> tuple[Counting, Evaluation]:
        system = Counting(name)
        judged.clear()
        return system, evaluate({"s": system}, data, Settings(metrics=["mel_l1"], cache=tmp_path / "cache"))

    system, first = run("version 1")
    assert (len(system.made), len(judged)) == (3, 3)
    system, second = run("version 2")
    assert (len(system.made), judged) == (3, [])
    assert scores(first) == scores(second)
    assert second.as_dict()["models"]["s"]["bitrate_bps"] == first.as_dict()["models"]["s"]["bitrate_bps"] > 0
    system, _ = run("version 2")
    assert (system.made, judged) == ([], [])


def test_systems_are_timed_in_turns_and_all_anew_when_one_changed_or_when_asked(data: list[Path], tmp_path: Path) -> None:
    turns: list[str] = []

    class Timed(Counting):
        computes = True

        def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
            turns.append(self.name)
            return super().make(audio, rate_hz, path)

    def run(*names: str, **settings: Any) -> tuple[int, Evaluation]:
        turns.clear()
        found = evaluate({n: Timed(n) for n in names}, data[:1], Settings(metrics=["mel_l1"], cache=tmp_path / "cache", **settings))
        return len(turns), found

    calls, found = run("a", "b")
    assert turns[:8] == ["a", "b"] * 4
    assert turns[:16].count("a") == 8  # on one thread and on all
    facts = found.as_dict()["models"]["a"]
    assert 0 < facts["real_time_factor_1_thread"] < 1
    assert facts["load_when_timed"] is None or facts["load_when_timed"] >= 0
    assert calls == 18  # and once a file for the scores
    assert run("a", "b")[0] == 0
    assert run("a", "b", time_again=True)[0] == 16
    assert run("a", "c")[0] == 17


def test_a_twin_is_what_the_card_says_and_its_energy_the_measure(data: list[Path], tmp_path: Path) -> None:
    folder = save(tiny(), tmp_path / "spiking-tiny", card="---\nlicense: apache-2.0\ntwin: griffin-lim-24k\n---\n# x\n")
    found = evaluate({name: open_system(name) for name in (str(folder), "griffin-lim-24k")}, data[:1], Settings(metrics=["mel_l1"]))
    assert found.energy_over_twin(str(folder)) is None  # nothing was counted
    for result, energy in zip(found.results.values(), (1.5, 6.0), strict=True):
        result.energy = {"millijoules_per_second": energy}
    models = found.as_dict()["models"]
    own, twin = models[str(folder)], models["griffin-lim-24k"]
    assert (own["twin"], own["what"], own["energy_over_twin"]) == ("griffin-lim-24k", "dense vocoder", 0.25)
    assert (twin["twin"], twin["what"], twin["energy_over_twin"]) == (None, "vocoder, no network", None)
    del found.results["griffin-lim-24k"]
    assert found.energy_over_twin(str(folder)) is None


def test_bundled_systems_say_what_they_are_and_twins_are_bundled_too() -> None:
    said = {name: open_system(name).facts() for name in presets() if load(name).kind in ("vocoder", "codec")}
    assert {name: facts["what"] for name, facts in said.items()} == {"vocos-24k": "dense vocoder", "spiking-vocos-24k": "spiking vocoder", "griffin-lim-24k": "vocoder, no network",
                                                                     "specgrad-24k": "diffusion vocoder", "codec-24k": "dense codec", "codec-24k-denoise": "dense codec",
                                                                     "codec-24k-spiking": "spiking codec", "fourier-24k": "dense codec", "audiodec-24k": "dense codec"}
    assert {name for name, facts in said.items() if facts["twin"]} == {name for name, facts in said.items() if facts["network"] == "spiking"}
    assert all(facts["twin"] in said and said[facts["twin"]]["network"] == "dense" for facts in said.values() if facts["twin"])


def test_the_others_are_compared_with_the_chosen_system(data: list[Path]) -> None:
    systems: dict[str, System] = {"a": Counting("a"), "b": Counting("b", bad="b")}
    for against, other in ((None, "b"), ("b", "a")):
        facts = evaluate(systems, data, Settings(metrics=["mel_l1"], against=against)).as_dict()
        assert facts["against"] == (against or "a")
        assert facts["models"][facts["against"]]["differences"] == {}
        assert facts["models"][other]["differences"]["mel_l1"] == {"mean": 0.0, "interval": [0.0, 0.0], "items": 2, "verdict": ""}
    with pytest.raises(UsageError, match="of a, b, got 'c'"):
        evaluate(systems, data, Settings(metrics=["mel_l1"], against="c"))


def test_a_run_that_was_stopped_goes_on_where_it_was(data: list[Path], tmp_path: Path) -> None:
    class Stopped(Counting):
        def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
            if path.stem == "c":
                raise KeyboardInterrupt
            return super().make(audio, rate_hz, path)

    settings = Settings(metrics=["mel_l1"], cache=tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        evaluate({"s": Stopped()}, data, settings)
    for damaged in sorted((tmp_path / "cache").rglob("*.json"))[:1]:
        damaged.write_text("{")  # counts as absent
    system = Counting()
    found = evaluate({"s": system}, data, settings)
    assert "c" in system.made
    assert len(system.made) <= 2
    assert scores(found) == scores(evaluate({"s": Counting()}, data, Settings(metrics=["mel_l1"])))


def test_a_cache_keeps_plain_data_by_key(tmp_path: Path) -> None:
    key = content_key("a", 1)
    assert key != content_key("a1")
    for cache in (Cache(tmp_path / "x"), Cache(None)):
        assert cache.get(key) is None
        cache.put(key, {"scores": {"a": 1.5}})
        assert cache.get(key) == {"scores": {"a": 1.5}}
    assert Cache(tmp_path / "x").get(key) == {"scores": {"a": 1.5}}
    assert not list((tmp_path / "x").rglob("*.part"))


def test_one_bad_file_is_named_and_the_rest_is_done(data: list[Path]) -> None:
    data.insert(1, data[0].with_name("broken.wav"))
    data[1].write_text("no audio")
    found = evaluate({"good": Counting(), "weak": Counting("weak", bad="b")}, data, Settings(metrics=["mel_l1"]))
    assert list(found.unreadable) == [str(data[1])]
    assert len(scores(found, "good")) == len(scores(found, "weak")) == 3
    report = found.results["weak"].report
    assert report.counts() == {"mel_l1": 2}
    assert report.failures() == {"mel_l1": {str(data[2]): "b.wav: too hard"}}
    assert report.means()["mel_l1"] == np.mean([s["mel_l1"] for s in scores(found, "weak") if s])
    assert json.dumps(found.as_dict())
    with pytest.raises(AudioError, match="at least one usable file"):
        evaluate({"s": Counting()}, data[1:2], Settings(metrics=["mel_l1"]), data="list.txt")


def test_what_is_judged_is_what_was_made_and_costs_are_measured(data: list[Path]) -> None:
    found = evaluate({"tiny": ModelSystem("tiny", tiny())}, data[:1], Settings(metrics=["mel_l1"]))
    facts = found.as_dict()["models"]["tiny"]
    assert 0 < facts["real_time_factor"] == pytest.approx(1 / facts["times_real_time"])
    assert facts["real_time_factor_1_thread"] > 0
    assert facts["parameters"] == tiny().parameter_count()
    assert facts["bitrate_bps"] is None
    made = found.made("tiny", str(data[0]))
    found._kept.clear()
    np.testing.assert_array_equal(made.audio, found.made("tiny", str(data[0])).audio)


def test_waveform_scores_are_for_codecs_unless_they_are_asked_for(data: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "DEFAULT", ("lsd", "si_sdr"))
    systems: dict[str, System] = {"codec": ModelSystem("codec", codec()), "vocoder": ModelSystem("vocoder", tiny())}
    found = evaluate(systems, data[:1], Settings(metrics=["si_sdr"]))
    assert all("si_sdr" in scores(found, name)[0] for name in systems)
    default = evaluate({"vocoder": systems["vocoder"]}, data[:1], Settings())
    assert list(scores(default, "vocoder")[0]) == ["lsd"]
    assert "si_sdr" not in default.results["vocoder"].report.failures()


def test_the_bitrate_of_a_codec_is_that_of_the_file_that_encode_writes(data: list[Path], tmp_path: Path) -> None:
    model = codec()
    folder = save(model, tmp_path / "codec")
    levels = {str(folder): 4, f"{folder}@{model.bitrate / 2000:g}": 2}
    found = evaluate({name: open_system(name) for name in levels}, data[:2], Settings(metrics=["lsd"], costs=True))
    for name, count in levels.items():
        coded = [encode_file(model, path, tmp_path / "x.wsc", model_name=name, num_codebooks=count) for path in data[:2]]
        assert found.bitrate_bps(name) == pytest.approx(8 * sum(c.bytes for c in coded) / sum(c.seconds for c in coded))
        facts = found.as_dict()["models"][name]
        assert facts["nominal_bitrate_bps"] == pytest.approx(model.bitrate * count / 4)
        assert facts["energy"]["millijoules_per_second"] > 0
        assert 0 < facts["peak_memory_mb"] < 2000
    assert scores(found, next(iter(levels))) != scores(found, list(levels)[1])
    for wrong in (f"{folder}@x", f"{folder}@9000", "griffin-lim-24k@6"):
        with pytest.raises(UsageError):
            open_system(wrong)


def test_every_bundled_model_that_gives_speech_back_is_accepted_with_its_energy(data: list[Path]) -> None:
    names = [name for name in presets() if load(name).kind in ("vocoder", "codec")]
    assert {"vocos-24k", "griffin-lim-24k"} <= set(names)
    for name in names:
        system = open_system(name)
        audio = voice(0.4)
        made = system.make(audio, RATE, data[0])
        assert abs(made.at(RATE).size - audio.size) <= 1
        assert np.isfinite(made.audio).all()
        assert (made.bytes is not None) == (system.kind == "codec")
        energy = system.energy(audio, RATE)
        assert energy is not None
        assert energy["millijoules_per_second"] > 0
        assert energy["uncounted"] == {}, name
        assert bool(energy["rates"]) == isinstance(load(name), SpikingVocos) or not isinstance(load(name), Vocos)
        assert system.identity() == open_system(name).identity()
    for name in set(presets()) - set(names):
        with pytest.raises(UsageError, match="eval judges models that give speech back"):
            open_system(name)


def test_the_identity_of_a_model_is_its_configuration_and_weights() -> None:
    model = tiny()
    other = tiny()
    assert ModelSystem("a", model).identity() == ModelSystem("b", other).identity()
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    assert ModelSystem("a", model).identity() != ModelSystem("a", other).identity()


# ---- peers -------------------------------------------------------------------------------------------------------------------------------------------


def test_world_resynthesises_in_place_and_at_the_files_own_rate(data: list[Path]) -> None:
    if importlib.util.find_spec("pyworld") is None:
        pytest.skip("pyworld not installed")
    x = voice(1.0)
    made = open_system("world").make(x, RATE, data[0])
    assert (made.audio.size, made.rate_hz, made.bytes) == (x.size, RATE, None)
    level = [np.sqrt(np.mean(s[2400:-2400].reshape(-1, 2400) ** 2, 1)) for s in (x, made.audio)]
    assert np.corrcoef(*level)[0, 1] > 0.8


def test_opus_gives_fewer_bytes_at_fewer_kilobits_and_stays_in_place(data: list[Path]) -> None:
    if shutil.which("opusenc") is None or shutil.which("opusdec") is None:
        pytest.skip("opus-tools not installed")
    x = voice(2.0)
    made = {kbps: open_system(f"opus:{kbps}").make(x, RATE, data[0]) for kbps in (8, 64)}
    assert made[8].bytes is not None
    assert made[64].bytes is not None
    assert made[8].bytes < made[64].bytes < x.size * 2
    assert 8 * made[8].bytes / 2.0 == pytest.approx(8000, rel=0.4)
    assert made[64].audio.size == x.size
    assert np.corrcoef(x, made[64].audio)[0, 1] > 0.97  # no delay is left
    assert np.array_equal(open_system("opus:8").make(x, RATE, data[0]).audio, made[8].audio)


def test_files_of_others_are_found_aligned_resampled_and_missed_by_name(data: list[Path], tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    write(theirs / "a.flac", np.concatenate([np.zeros(480, np.float32), 0.5 * voice(f0=110.0)]), RATE)
    from wavespike.signal.resample import resample

    write(theirs / "b.wav", resample(voice(f0=150.0), RATE, 16000), 16000)
    found = evaluate({"theirs": open_system(f"files:{theirs}")}, data, Settings(metrics=["si_sdr", "lsd"]))
    result = found.results["theirs"]
    assert scores(found, "theirs")[0]["si_sdr"] > 40
    notes = {Path(k).stem: v for k, v in result.notes.items()}
    assert "moved by -20.0 ms" in notes["a"][0]
    assert "resampled from 16000 to 24000 Hz" in notes["b"][0]
    assert "found none" in result.report.failures()["lsd"][str(data[2])]
    assert result.speed == {}
    identity = open_system(f"files:{theirs}").identity(data[0])
    write(theirs / "a.flac", voice(f0=110.0), RATE)
    assert open_system(f"files:{theirs}").identity(data[0]) != identity


def test_encodec_takes_a_folder_and_a_bitrate(data: list[Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers not installed")
    torch.manual_seed(0)
    config = transformers.EncodecConfig(num_filters=2, hidden_size=8, codebook_dim=8, codebook_size=16, upsampling_ratios=[8, 5], num_residual_layers=1, num_lstm_layers=1,
                                        target_bandwidths=[2.4, 4.8])
    transformers.EncodecModel(config).save_pretrained(tmp_path / "encodec")
    x = voice(1.0)
    made = {kbps: open_system(f"encodec:{tmp_path / 'encodec'}:{kbps}").make(x, RATE, data[0]) for kbps in (2.4, 4.8)}
    assert made[4.8].audio.size == x.size
    assert (made[2.4].bytes, made[4.8].bytes) == (300, 600)  # a second at 2.4 and 4.8 kbit/s
    with pytest.raises(UsageError, match=r"one of 2\.4, 4\.8"):
        open_system(f"encodec:{tmp_path / 'encodec'}:3")
    with pytest.raises(UsageError, match=r"found none.*encodec:FOLDER:KBPS"):
        open_system(f"encodec:{tmp_path}:6")


def test_the_pypi_package_vocos_says_what_our_model_says_of_the_same_weights(data: list[Path], tmp_path: Path) -> None:
    if getattr(importlib.util.find_spec("vocos"), "origin", None) is None:  # a folder of that name is no package
        pytest.skip("vocos not installed")
    config = """feature_extractor:
  class_path: vocos.feature_extractors.MelSpectrogramFeatures
  init_args: {sample_rate: 24000, n_fft: 1024, hop_length: 256, n_mels: 100, padding: center}
backbone:
  class_path: vocos.models.VocosBackbone
  init_args: {input_channels: 100, dim: 16, intermediate_dim: 32, num_layers: 1}
head:
  class_path: vocos.heads.ISTFTHead
  init_args: {dim: 16, n_fft: 1024, hop_length: 256, padding: center}
"""
    (tmp_path / "config.yaml").write_text(config)
    state = {**tiny().state_dict(), "head.istft.window": torch.hann_window(1024)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    x = voice(1.0)
    theirs, ours = (open_system(name).make(x, RATE, data[0]).audio for name in (f"pypi-vocos:{tmp_path}", str(tmp_path)))
    assert np.abs(theirs - ours).max() < 1e-4 * np.abs(ours).max()
    with pytest.raises(UsageError, match=r"expected a folder with config\.yaml"):
        open_system("pypi-vocos:nowhere")


@pytest.mark.parametrize(("name", "says"), [("opus:", "kilobits"), ("opus:2", "6 to 256"), ("files:nowhere", "expected a folder"), ("world:x", "no options"),
                                            ("encodec:", "kilobits"), ("vocos-25k", "did you mean 'vocos-24k'.*peers are world, opus:KBPS")])
def test_a_peer_that_cannot_be_is_refused_in_one_line(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_system(name)


def test_opus_names_the_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="apt install opus-tools"):
        open_system("opus:12")
