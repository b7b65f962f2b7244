"""Contract: export parity. What ONNX Runtime computes equals what PyTorch computes, for any batch and length, and through a stream."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import wavespike
from wavespike.errors import CheckpointError, OutputError, UsageError
from wavespike.models.registry import build
from wavespike.models.vocos import Vocos
from wavespike.runtime.onnx import OnnxVocos, accelerate, export

GOLDEN = Path(__file__).parent.parent / "golden" / "vocos"
CASES = ["mel-istft-same", "mel-imdct-cos", "mel-resnet", "encodec-adanorm"]


@pytest.fixture(autouse=True)
def packages() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra: export)")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Vocos, Path]]:
    """A model and its exported file by name, made once."""
    folder = tmp_path_factory.mktemp("onnx")

    @functools.cache
    def make(name: str) -> tuple[Vocos, Path]:
        made = {"source-filter": {}, "source-filter-hidden": {"pitch": "hidden"}}
        model = source_filter(**made[name]) if name in made else wavespike.load(GOLDEN / name)
        assert isinstance(model, Vocos)
        return model, export(model, folder / f"{name}.onnx")

    return make


def source_filter(**options: Any) -> Vocos:
    torch.manual_seed(0)
    model = build({
        "type": "vocos",
        "features": {"type": "mel", "n_fft": 64, "hop_length": 16, "n_mels": 12},
        "backbone": {"type": "convnext", "input_channels": 12, "dim": 8, "intermediate_dim": 16, "num_layers": 1},
        "head": {"type": "source-filter", "dim": 8, "n_fft": 64, "hop_length": 16, "pitch_dim": 8, "pitch_layers": 1, **options},
    }).eval()
    assert isinstance(model, Vocos)
    return model


def error(ours: torch.Tensor, want: torch.Tensor) -> float:
    assert ours.shape == want.shape
    return float((ours - want).detach().abs().max() / want.detach().abs().max())


@pytest.mark.parametrize("name", [*CASES, "source-filter", "source-filter-hidden"])
def test_export_parity(name: str, exported: Callable[[str], tuple[Vocos, Path]]) -> None:
    model, path = exported(name)
    fast = OnnxVocos(model, path, threads=1)
    condition = torch.tensor([1]) if name.startswith("encodec") else None
    for batch, frames in ((1, 1), (3, 50)):
        features = torch.randn(batch, model.feature_channels, frames)
        z = model.head.out(model.backbone(features, condition))
        assert error(fast.backbone(features, condition)[..., : z.shape[-1]], z) <= 1e-4
    assert error(fast.decode(features, bandwidth_id=condition), model.decode(features, bandwidth_id=condition)) <= 1e-3
    assert not [p for p in path.parent.iterdir() if p.suffix != ".onnx"]  # nothing left beside the file


@pytest.mark.parametrize("name", ["mel-istft-same", "mel-imdct-cos", "source-filter", "source-filter-hidden"])
def test_a_session_equals_the_whole(name: str, exported: Callable[[str], tuple[Vocos, Path]]) -> None:
    """Also where the head carries a phase from window to window."""
    model, path = exported(name)
    fast = OnnxVocos(model, path, threads=1)
    features = torch.randn(2, model.feature_channels, 70)
    with fast.stream(batch_size=2) as session:
        out = torch.cat([*(session.push(c) for c in features.split(9, -1)), session.flush()], 1)
    # a pitch from the graph is of single precision, and its error turns the phase until the voice pauses
    assert error(out, model.decode(features)) <= (5e-3 if name.endswith("hidden") else 1e-3)


def test_int8_weights_stay_near() -> None:
    torch.manual_seed(0)
    model = wavespike.load(GOLDEN / "mel-istft-center")
    fast = accelerate(model, threads=1, int8=True)
    features = torch.randn(1, 100, 40)
    want, got = model.decode(features), fast.decode(features)
    noise = (got - want).square().mean()
    assert float(noise) > 0  # it is quantised
    assert 10 * float(torch.log10(want.square().mean() / noise)) > 20


def test_another_models_file_and_a_damaged_one_are_refused(exported: Callable[[str], tuple[Vocos, Path]], tmp_path: Path) -> None:
    model, path = exported("mel-istft-same")
    other = wavespike.load(GOLDEN / "mel-istft-center")
    with pytest.raises(UsageError, match="another configuration"):
        OnnxVocos(other, path)
    (tmp_path / "torn.onnx").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="does not load"):
        OnnxVocos(model, tmp_path / "torn.onnx")
    with pytest.raises(CheckpointError, match="found none"):
        OnnxVocos(model, tmp_path / "absent.onnx")
    with pytest.raises(OutputError, match="can be written"):
        export(model, tmp_path / "missing" / "network.onnx")
