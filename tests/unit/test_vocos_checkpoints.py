"""Laws of loading: what upstream wrote loads; what is damaged, foreign or unsafe is refused in one line and runs nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import wavespike
from wavespike.errors import CheckpointError, MissingDependencyError, UsageError, WavespikeError
from wavespike.models.vocos import Vocos

GOLDEN = Path(__file__).parent.parent / "golden" / "vocos"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "mel-istft-same", tmp_path / "checkpoint"))


def refused(folder: Path, kind: type[WavespikeError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        wavespike.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 1
    return message


def edit_yaml(folder: Path, **parts: Any) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **parts}))


def edit_state(folder: Path, change: Any) -> None:
    path = folder / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def test_a_class_path_outside_the_table_is_never_imported(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    edit_yaml(folder, head={"class_path": "evil.Head", "init_args": {}})
    assert "evil.Head" in refused(folder)
    assert "evil" not in sys.modules


def test_a_yaml_tag_that_builds_objects_runs_nothing(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (folder / "config.yaml").write_text(f"head: !!python/object/apply:os.mkdir ['{marker}']\n")
    assert "run code" in refused(folder)
    assert not marker.exists()


class _Payload:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_runs_nothing(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"backbone.embed.weight": _Payload(str(marker))}, folder / "pytorch_model.bin")
    message = refused(folder)
    assert "could run code" in message
    assert "mkdir" in message
    assert not marker.exists()


def test_missing_surplus_and_misshapen_keys_are_named(folder: Path) -> None:
    keep = (folder / "pytorch_model.bin").read_bytes()
    edit_state(folder, lambda s: s.pop("backbone.embed.bias"))
    assert "missing backbone.embed.bias" in refused(folder)
    (folder / "pytorch_model.bin").write_bytes(keep)
    edit_state(folder, lambda s: s.update({"head.extra": torch.zeros(1)}))
    assert "surplus head.extra" in refused(folder)
    (folder / "pytorch_model.bin").write_bytes(keep)
    edit_state(folder, lambda s: s.update({"head.out.bias": torch.zeros(3)}))
    assert "head.out.bias of shape [258], got [3]" in refused(folder)


def test_upstreams_own_buffers_are_allowed_to_be_left_over(folder: Path) -> None:
    edit_state(folder, lambda s: s.update({"feature_extractor.encodec.encoder.weight": torch.zeros(1)}))
    assert isinstance(wavespike.load(folder), Vocos)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_a_damaged_pickle_is_one_line(folder: Path, content: bytes) -> None:
    (folder / "pytorch_model.bin").write_bytes(content)
    assert "pytorch_model.bin" in refused(folder)


def test_a_torn_pickle_is_one_line(folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:5000])
    assert "damaged" in refused(folder)


@pytest.mark.parametrize("text", ["[1, 2]", "head: [", "feature_extractor: {}", "\x00"])
def test_a_damaged_yaml_is_one_line(folder: Path, text: str) -> None:
    (folder / "config.yaml").write_text(text)
    assert "config.yaml" in refused(folder)


def test_an_unknown_key_gets_the_nearest_name(folder: Path) -> None:
    edit_yaml(folder, head={"class_path": "vocos.heads.ISTFTHead", "init_args": {"dim": 16, "n_ftt": 256, "hop_length": 64}})
    assert "did you mean 'n_fft'" in refused(folder)


def test_fork_keys_make_the_mel_of_the_fork(folder: Path) -> None:
    arguments = {"sample_rate": 16000, "n_fft": 256, "hop_length": 64, "n_mels": 40, "padding": "same", "f_min": 50.0, "f_max": 7000, "norm": "slaney",
                 "mel_scale": "slaney"}
    edit_yaml(folder, feature_extractor={"class_path": "vocos.feature_extractors.MelSpectrogramFeatures", "init_args": arguments})
    assert "mel filters" in refused(folder)  # the stored filters are those of the plain configuration: the mismatch is seen
    edit_state(folder, lambda s: s.pop("feature_extractor.mel_spec.mel_scale.fb"))
    model = wavespike.load(folder)
    assert (model.config.features.mel_scale, model.config.features.f_max) == ("slaney", 7000.0)


def test_half_precision_weights_are_widened(folder: Path) -> None:
    edit_state(folder, lambda s: s.update({k: v.half() for k, v in s.items()}))
    assert {p.dtype for p in wavespike.load(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize("name", sorted(p.name for p in GOLDEN.iterdir()))
def test_an_imported_model_saved_as_ours_is_bit_equal(name: str, tmp_path: Path) -> None:
    model = wavespike.load(GOLDEN / name)
    again = wavespike.load(wavespike.save(model, tmp_path / "ours"))
    assert again.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_another_kind_of_model_is_refused_by_from_pretrained(tmp_path: Path) -> None:
    from wavespike.models.registry import build

    wavespike.save(build({"type": "griffin-lim"}), tmp_path / "gl")
    with pytest.raises(CheckpointError, match="expected a Vocos, got a GriffinLim"):
        Vocos.from_pretrained(str(tmp_path / "gl"))


def test_our_config_with_an_unknown_type_is_a_bad_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model": {"type": "vocoss"}}')
    assert "did you mean 'vocos'" in refused(tmp_path)


def test_a_hub_id_is_fetched_and_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.append((repo_id, options["revision"]))
        return str(GOLDEN / "mel-resnet")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    assert isinstance(Vocos.from_pretrained("someone/vocos", revision="v1"), Vocos)
    assert asked == [("someone/vocos", "v1")]


def test_a_hub_id_without_the_extra_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"wavespike\[hub\]"):
        wavespike.load("someone/vocos")


def test_a_hub_id_offline_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    code = "import wavespike; wavespike.load('someone/vocos')"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert "CheckpointError: someone/vocos: expected to fetch it from the hub" in last


def test_an_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="expected a preset"):
        wavespike.load("no-such-model")



def test_old_weight_norm_keys_give_the_normed_weight(tmp_path: Path) -> None:
    stored = torch.load(GOLDEN / "mel-resnet" / "pytorch_model.bin", weights_only=True)
    model = wavespike.load(GOLDEN / "mel-resnet")
    g, v = stored["backbone.resnet.0.convs1.0.weight_g"], stored["backbone.resnet.0.convs1.0.weight_v"]
    torch.testing.assert_close(model.backbone.blocks[0].layers[0][0].weight, g * v / v.flatten(1).norm(dim=1)[:, None, None])
