"""Laws of the commands: what a verb writes is what the library computes, lengths and channels are kept, answers come at once, JSON parses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command import files_in, inside, succeeded, voice, wavespike

from wavespike.cli.common import DEFAULT_MODEL, duration_text
from wavespike.hub.load import load, presets, save
from wavespike.models.vocos import Vocos, VocosConfig
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.heads import ISTFTHeadConfig
from wavespike.signal.files import read, write
from wavespike.signal.resample import resample


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Vocos with random weights, saved as a checkpoint."""
    torch.manual_seed(0)
    model = Vocos(VocosConfig(backbone=ConvNeXtConfig(dim=16, intermediate_dim=32, num_layers=2), head=ISTFTHeadConfig(dim=16)))
    return save(model, tmp_path_factory.mktemp("models") / "tiny", card="---\nlicense: apache-2.0\n---\n# tiny\nRandom weights.\n")


def quiet_json(*words: object) -> dict[str, object]:
    result = inside(*words, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return dict(json.loads(result.stdout))


@pytest.mark.parametrize("words", [["--help"], ["models"], ["--version"], ["resynth", "--help"], ["eval", "--help"]])
def test_help_and_models_answer_in_under_a_second_of_computing(words: list[str]) -> None:
    before = os.times()
    output = succeeded(*words)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 1.0, f"{spent:.2f} s"
    assert output.strip()


@pytest.mark.parametrize("words", [["--help"], ["models"], ["resynth", "--help"], ["vocode", "--help"], ["eval", "--help"], ["show", "--help"], ["doctor", "--help"]])
def test_help_and_models_import_neither_torch_nor_numpy(words: list[str]) -> None:
    code = f"import sys; from wavespike.cli.main import main\ntry: main({words!r})\nexcept SystemExit: pass\nassert not {{'torch', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_names_every_verb_with_a_summary() -> None:
    text = succeeded("--help")
    for verb in ("models", "show", "resynth", "vocode", "eval", "doctor"):
        assert any(line.split()[:1] == [verb] and len(line.split()) > 3 for line in text.splitlines()), verb


@pytest.mark.parametrize(("words", "want"), [
    (["r", "a=1", "--run", "x", "b=2"], ["r", "a=1", "b=2", "--run", "x"]),
    (["--json", "r", "--run=x", "a=1"], ["r", "a=1", "--json", "--run=x"]),
    (["r", "--count", "-3", "a=1"], ["r", "a=1", "--count", "-3"]),
    (["r", "a=1", "--layers", "0", "1"], ["r", "a=1", "--layers", "0", "1"]),  # a list takes all that follows
    (["r", "--run", "x", "--", "-a=1"], ["r", "--run", "x", "--", "-a=1"]),
    (["r", "--unknown", "a=1"], ["r", "a=1", "--unknown"]),
])
def test_words_may_stand_on_both_sides_of_an_option(words: list[str], want: list[str]) -> None:
    from jsonargparse import ArgumentParser

    from wavespike.cli.main import positionals_first

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("recipe", type=str)
    parser.add_argument("overrides", nargs="*", type=str)
    parser.add_argument("--run", type=str)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int)
    parser.add_argument("--layers", nargs="+", type=str)
    assert positionals_first(parser, words) == want


def test_models_lists_what_load_takes() -> None:
    result = inside("models", "--json")
    rows = json.loads(result.stdout)
    assert [row["name"] for row in rows] == presets()
    assert [row["name"] for row in rows if row["default"]] == [DEFAULT_MODEL]
    for row in rows:
        assert row["licence"], f"{row['name']} states no licence"
    assert DEFAULT_MODEL in inside("models").stdout


def test_show_tells_configuration_parameters_licence_and_card(tiny: Path) -> None:
    facts = quiet_json("show", tiny)
    model = load(tiny)
    assert facts["parameters"] == model.parameter_count() > 0
    assert facts["licence"] == "apache-2.0"
    assert "Random weights." in str(facts["card"])
    assert facts["config"]["features"]["n_mels"] == 100  # type: ignore[index]
    text = inside("show", tiny).stdout
    assert "n_mels: 100" in text
    assert "Random weights." in text


# ---- resynth -------------------------------------------------------------------------------------------------------------------------------------


def test_resynth_writes_what_the_library_computes(tmp_path: Path, tiny: Path) -> None:
    x = voice(6.4, 24000)[:, : 600 * 256]  # whole hops, several blocks
    write(tmp_path / "in.wav", x, 24000, "float")
    report = quiet_json("resynth", tmp_path / "in.wav", tmp_path / "out.wav", "--model", tiny, "--sample-format", "float")
    got, rate = read(tmp_path / "out.wav")
    with torch.inference_mode():
        want = load(tiny)(torch.from_numpy(x)).numpy()
    assert rate == 24000
    assert got.shape == want.shape == x.shape
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    assert report["files"][0]["samples"] == x.shape[1]  # type: ignore[index]


def test_channels_are_processed_one_by_one_and_kept(tmp_path: Path, tiny: Path) -> None:
    x = voice(1.0, 24000, 2)
    for name, part in (("both", x), ("left", x[:1]), ("right", x[1:])):
        write(tmp_path / f"{name}.wav", part, 24000, "float")
        quiet_json("resynth", tmp_path / f"{name}.wav", tmp_path / f"{name}_out.wav", "--model", tiny, "--sample-format", "float")
    both, left, right = (read(tmp_path / f"{name}_out.wav")[0] for name in ("both", "left", "right"))
    assert np.allclose(both, np.concatenate([left, right]), atol=1e-5 * np.abs(both).max())


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_the_output_lasts_as_long_as_the_input_at_the_models_rate_or_at_its_own(tmp_path: Path, tiny: Path, rate: int) -> None:
    x = voice(0.517, rate)
    write(tmp_path / "in.wav", x, rate)
    quiet_json("resynth", tmp_path / "in.wav", tmp_path / "a.wav", "--model", tiny)
    quiet_json("resynth", tmp_path / "in.wav", tmp_path / "b.wav", "--model", tiny, "--keep-rate")
    a, b = read(tmp_path / "a.wav"), read(tmp_path / "b.wav")
    assert (a[0].shape, a[1]) == ((1, resample(x, rate, 24000).shape[1]), 24000)
    assert (b[0].shape, b[1]) == (x.shape, rate)


def test_keep_rate_keeps_the_signal_in_place(tmp_path: Path) -> None:
    x = voice(2.0, 44100)
    write(tmp_path / "in.wav", x, 44100)
    quiet_json("resynth", tmp_path / "in.wav", tmp_path / "out.wav", "--keep-rate", "--model", "griffin-lim-24k")
    y = read(tmp_path / "out.wav")[0]
    ends = slice(4410, -4410)
    frames = [np.sqrt(np.mean(z[0, ends].reshape(-1, 1764) ** 2, 1)) for z in (x, y)]
    assert np.allclose(frames[0], frames[1], rtol=0.25)  # 40 ms levels agree: no delay, no gaps


def test_folders_and_lists_are_mirrored(tmp_path: Path, tiny: Path) -> None:
    for name in ("in/a/1.wav", "in/b/1.flac", "in/b/1.ogg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, voice(0.1), 24000)
    quiet_json("resynth", tmp_path / "in", tmp_path / "out", "--model", tiny, "--format", "flac")
    assert files_in(tmp_path / "out") == ["a/1.flac", "b/1.flac.flac", "b/1.ogg.flac"]
    (tmp_path / "list.txt").write_text("in/a/1.wav\nin/b/1.flac\tsome text\n")
    quiet_json("resynth", tmp_path / "list.txt", tmp_path / "listed", "--list", "--model", tiny)
    assert files_in(tmp_path / "listed") == ["a/1.wav", "b/1.wav"]


def test_a_file_into_an_existing_folder_keeps_its_name(tmp_path: Path, tiny: Path) -> None:
    write(tmp_path / "in.flac", voice(0.1), 24000)
    (tmp_path / "out").mkdir()
    quiet_json("resynth", tmp_path / "in.flac", tmp_path / "out", "--model", tiny)
    assert files_in(tmp_path / "out") == ["in.wav"]


# ---- vocode --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "npz", "batch of one", "float64, Fortran order"])
def test_vocode_writes_what_decode_computes(tmp_path: Path, tiny: Path, kind: str) -> None:
    model = load(tiny)
    with torch.inference_mode():
        mel = model.features(torch.from_numpy(voice(7.0)))
        want = model.decode(mel).numpy()
    path = tmp_path / ("mel.npz" if kind == "npz" else "mel.npy")
    array = mel.numpy()[0]
    if kind == "npz":
        np.savez(path, mel=array, rate=np.array(24000))
    else:
        np.save(path, {"npy": array, "batch of one": array[None], "float64, Fortran order": np.asfortranarray(array.astype(np.float64))}[kind])
    quiet_json("vocode", path, tmp_path / "out.wav", "--model", tiny, "--sample-format", "float")
    got, rate = read(tmp_path / "out.wav")
    assert rate == 24000
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


# ---- eval and doctor -----------------------------------------------------------------------------------------------------------------------------


def test_eval_gives_one_column_a_model_and_agrees_with_the_panel(tmp_path: Path, tiny: Path) -> None:
    from wavespike.metrics.quality import mel_l1

    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.wav", voice(0.5, level=0.02 * (ord(name) - 90)), 24000, "float")
    report = quiet_json("eval", "--model", tiny, "griffin-lim-24k", "--data", tmp_path, "--limit", 2, "--metrics", "mel_l1")
    assert report["files"] == 2
    models = report["models"]
    assert list(models) == [str(tiny), "griffin-lim-24k"]  # type: ignore[call-overload]
    x = read(tmp_path / "a.wav")[0]
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % 256)))
    with torch.inference_mode():
        y = load("griffin-lim-24k")(torch.from_numpy(padded))[0, : x.shape[1]]
    items = models["griffin-lim-24k"]["metrics"]["items"]  # type: ignore[index]
    assert items[0]["mel_l1"] == pytest.approx(mel_l1(x[0], y, 24000), rel=1e-4)
    tiny_row, classic = (models[name] for name in (str(tiny), "griffin-lim-24k"))  # type: ignore[index]
    assert tiny_row["metrics"]["means"]["mel_l1"] > classic["metrics"]["means"]["mel_l1"]
    assert tiny_row["parameters"] == load(tiny).parameter_count()
    assert classic["real_time_factor"] == pytest.approx(1 / classic["times_real_time"])


@pytest.mark.slow
def test_eval_in_processes_gives_the_same_scores(tmp_path: Path, tiny: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.wav", voice(0.5, level=0.02 * (ord(name) - 90)), 24000)
    scores = [json.loads(succeeded("eval", "--model", tiny, "--data", tmp_path, "--metrics", "mel_l1", "--processes", n, "--json")) for n in (1, 2)]
    one, two = (report["models"][str(tiny)]["metrics"] for report in scores)
    assert one == two
    assert one["counts"] == {"mel_l1": 3}


def test_eval_shows_a_table_and_says_what_was_left_out(tmp_path: Path) -> None:
    pytest.importorskip("pystoi")
    write(tmp_path / "silence.wav", np.zeros((1, 24000), np.float32), 24000)
    result = inside("eval", "--data", tmp_path, "--metrics", "stoi", "mel_l1")
    assert result.returncode == 0
    for text in ("mel L1", "real-time factor", "parameters", DEFAULT_MODEL, "STOI left out 1 of 1"):
        assert text in result.stdout, text


def test_doctor_tells_versions_and_the_pip_line_of_every_extra_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from wavespike.cli import doctor

    report = quiet_json("doctor")
    assert report["self_test"]["passed"] is True  # type: ignore[index]
    assert report["core"]["torch"]  # type: ignore[index]
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "pesq" else version(name))
    assert "[pesq] lacks pesq: pip install 'wavespike[pesq]'" in inside("doctor").stdout


def test_doctor_fails_when_the_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from wavespike.cli import doctor

    monkeypatch.setattr(doctor, "DEFAULT_MODEL", "no-such-model")
    result = inside("doctor")
    assert result.returncode == 1
    assert "self-test FAILED" in result.stdout


# ---- long files ----------------------------------------------------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from wavespike.cli.main import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
raise SystemExit(code)
"""


def peak_mib(*words: object) -> int:
    """Peak resident memory of a command, MiB."""
    result = subprocess.run([sys.executable, "-c", PEAK, *map(str, words)], capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return int(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path: Path, tiny: Path) -> None:
    peaks = {}
    for minutes in (1, 10):
        write(tmp_path / "in.wav", np.tile(voice(60.0, level=0.05), minutes), 24000)
        np.save(tmp_path / "mel.npy", np.full((100, 5625 * minutes), -4.0, np.float32))
        for verb, source in (("resynth", "in.wav"), ("vocode", "mel.npy")):
            peaks[verb, minutes] = peak_mib(verb, tmp_path / source, tmp_path / "out.wav", "--model", tiny)
    for verb in ("resynth", "vocode"):
        # vocode maps its input into memory: 22.5 MB of pages for ten minutes, which the kernel may drop
        assert peaks[verb, 10] < peaks[verb, 1] + 60, peaks
        assert peaks[verb, 10] < 1000, peaks


def test_a_pipe_that_closes_early_is_no_traceback() -> None:
    process = subprocess.Popen([sys.executable, "-m", "wavespike", "show", DEFAULT_MODEL], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.wait(60)
    assert b"Traceback" not in errors
    assert b"Exception" not in errors


def test_python_dash_m_is_the_same_command() -> None:
    assert wavespike("--version").stdout == wavespike("--version").stdout != ""


def test_a_model_that_cannot_work_by_blocks_works_in_one_piece_up_to_a_stated_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wavespike.cli import synthesis
    from wavespike.errors import AudioError, FeatureError

    model = load("griffin-lim-24k")

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError

    x = voice(1.0)[:, : 90 * 256]
    write(tmp_path / "in.wav", x, 24000, "float")
    with torch.inference_mode():
        mel = model.features(torch.from_numpy(x))  # type: ignore[operator]
        want = model.decode(mel).numpy()  # type: ignore[operator]
    np.save(tmp_path / "mel.npy", mel.numpy())
    monkeypatch.setattr(model, "stream", refuse)
    synthesis.resynthesise_file(model, tmp_path / "in.wav", tmp_path / "a.wav", sample_format="float")  # type: ignore[arg-type]
    synthesis.vocode_file(model, tmp_path / "mel.npy", tmp_path / "b.wav", sample_format="float")  # type: ignore[arg-type]
    for name in ("a.wav", "b.wav"):
        assert np.abs(read(tmp_path / name)[0] - want).max() <= 1e-4 * np.abs(want).max()
    monkeypatch.setattr(synthesis, "WHOLE_LIMIT_S", 0.5)
    with pytest.raises(AudioError, match="cannot work by blocks"):
        synthesis.resynthesise_file(model, tmp_path / "in.wav", tmp_path / "c.wav")  # type: ignore[arg-type]
    with pytest.raises(FeatureError, match="cannot work by blocks"):
        synthesis.vocode_file(model, tmp_path / "mel.npy", tmp_path / "c.wav")  # type: ignore[arg-type]
    assert not (tmp_path / "c.wav").exists()


def test_a_model_with_adaptive_norms_takes_a_bandwidth(tmp_path: Path) -> None:
    torch.manual_seed(0)
    from wavespike.nn.features import EncodecConfig

    features = EncodecConfig()
    model = Vocos(VocosConfig(features=features, backbone=ConvNeXtConfig(input_channels=128, dim=16, intermediate_dim=32, num_layers=1, adanorm_num_embeddings=4),
                              head=ISTFTHeadConfig(dim=16, n_fft=1280, hop_length=320, padding="same")))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:  # all bandwidths begin alike
                value.add_(torch.randn_like(value))
    folder = save(model, tmp_path / "model")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(128, 30)).astype(np.float32))
    result = inside("vocode", tmp_path / "x.npy", tmp_path / "out.wav", "--model", folder)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "bandwidth" in result.stderr
    outputs = []
    for i in (0, 3):
        quiet_json("vocode", tmp_path / "x.npy", tmp_path / "out.wav", "--model", folder, "--bandwidth-id", i, "--sample-format", "float")
        outputs.append(read(tmp_path / "out.wav")[0])
    assert outputs[0].shape == (1, 30 * 320)
    assert not np.allclose(*outputs)


def test_a_codec_is_judged_by_its_reconstruction_of_all_its_channels() -> None:
    from types import SimpleNamespace

    from wavespike.metrics.systems import synthesise

    def halve(audio: torch.Tensor) -> torch.Tensor:
        assert audio.shape == (1, 2, 1000)  # [B, C, T]
        return audio / 2

    class Codec(SimpleNamespace):
        __call__ = staticmethod(halve)

    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(synthesise(Codec(kind="codec", channels=2), x, {}), x / 2)


def test_durations_never_show_sixty_seconds() -> None:
    assert [duration_text(s) for s in (0.517, 59.4, 59.99, 65.2, 3599.99)] == ["0.52 s", "59.40 s", "1 min 0 s", "1 min 5 s", "60 min 0 s"]
