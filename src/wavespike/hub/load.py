"""Load and save models. A checkpoint is a folder: `config.json`, `model.safetensors`, `README.md` (the card).

`load` takes a preset's name, a folder of ours, a folder or file of an original system, or a hub id (owner/name). Nothing is unpickled except with
`weights_only=True`, and no configuration names code to import.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch

from wavespike.config import to_dict
from wavespike.errors import CheckpointError, ConfigError, OutputError, UsageError, nearest
from wavespike.hub.importers import IMPORTERS
from wavespike.hub.remote import fetch, is_hub_id
from wavespike.hub.state import load_state
from wavespike.models.base import Model
from wavespike.models.registry import build

PRESETS = Path(__file__).parent / "presets"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def presets() -> list[str]:
    """Names of the models inside the package, sorted."""
    return sorted(p.name for p in PRESETS.iterdir() if (p / CONFIG).is_file()) if PRESETS.is_dir() else []


def load(
    source: str | Path, *, decoder: str | Path | None = None, revision: str | None = None, expect: type[Model[Any]] | None = None,
    engine: str = "dense", int8: bool = False,
) -> Model[Any]:
    """A ready model in evaluation mode. `decoder` joins the encoder and quantiser of one codec with the decoder of another checkpoint.

    `engine` says what runs it: `dense` (PyTorch, may be trained on), `compiled` (its head by Numba), `events` (a spiking model by its spikes), `onnx`, or `auto` for the faster of what
    is installed; `int8` asks events and onnx for 8-bit weights.
    Raises UsageError for an unknown name (naming the nearest preset), CheckpointError for a damaged, unsafe or wrong checkpoint.
    """
    name = str(source)
    if (PRESETS / name / CONFIG).is_file():
        model = load_folder(PRESETS / name)
    elif Path(source).is_dir() or (Path(source).suffix in (".pth", ".pt") and Path(source).is_file()):
        model = load_folder(Path(source))
    elif (original := _original(Path(source))) is not None:
        model = original
    elif is_hub_id(name):
        model = load_folder(fetch(name, revision))
    else:
        known = presets()
        raise UsageError(f"expected a preset ({', '.join(known)}), a folder with a checkpoint or a hub id (owner/name), got {name!r}{nearest(name, known)}")
    if decoder is not None:
        from wavespike.hub.importers.audiodec import join

        model = join(model, load(decoder))
    if expect is not None and not isinstance(model, expect):
        raise CheckpointError(f"{name}: expected a {expect.__name__}, got a {type(model).__name__}; use wavespike.load")
    model.eval()
    if engine == "dense" and not int8:
        return model
    engines = importlib.import_module("wavespike.runtime.engines")  # the runtime stands above the hub: late, so that imports run downwards
    fast: Model[Any] = engines.with_engine(model, engine, int8=int8)
    return fast


def _original(path: Path) -> Model[Any] | None:
    """The model of an original system's folder or file, or None when no importer recognises it."""
    for name in IMPORTERS:
        importer = importlib.import_module(name)
        if importer.recognises(path):
            found: Model[Any] = importer.load(path)
            return found
    return None


def load_folder(folder: Path) -> Model[Any]:
    """A folder of ours, or of an original system -> model."""
    if not (folder / CONFIG).is_file() and (original := _original(folder)) is not None:
        return original
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: expected {CONFIG} beside {WEIGHTS}, found neither ours nor a known original's layout")
    try:
        data = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: expected JSON, got text that does not parse ({error}); restore the file") from error
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise CheckpointError(f"{folder / CONFIG}: expected a key 'model' with a configuration, got none; is it a wavespike checkpoint?")
    try:
        model = build(data["model"])
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    weights = folder / WEIGHTS
    if weights.is_file():
        try:
            state = load_file(weights)
        except SafetensorError as error:
            raise CheckpointError(f"{weights}: expected safetensors, got a damaged file ({error}); fetch it again") from error
        load_state(model, state, str(weights))
    elif any(True for _ in model.parameters()):
        raise CheckpointError(f"{folder}: expected {WEIGHTS} beside {CONFIG}, found none; restore the file")
    return model


def from_config_file(path: str | Path, *, expect: type[Model[Any]] | None = None) -> Model[Any]:
    """A model with random weights, in evaluation mode, from our `config.json` or an upstream Vocos `config.yaml`."""
    from wavespike.hub.importers.vocos import read_config
    from wavespike.models.vocos import Vocos

    path = Path(path)
    if path.suffix == ".json":
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: expected a JSON configuration, got none that can be read ({error}); check the path") from error
        model: Model[Any] = build(data.get("model", data) if isinstance(data, dict) else {})
    else:
        model = Vocos(read_config(path))
    if expect is not None and not isinstance(model, expect):
        raise CheckpointError(f"{path}: expected a {expect.__name__}, got a {type(model).__name__}; use wavespike.load")
    return model.eval()


def save(model: Model[Any], folder: str | Path, *, card: str = "", dtype: torch.dtype | None = None, **extra: Any) -> Path:
    """Write a checkpoint folder; each file is written to a temporary name and renamed. `extra` goes into config.json beside the model."""
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config = {"format": "wavespike-1", "kind": model.kind, "model": to_dict(model.config), **extra}
        _replace(folder / CONFIG, lambda p: p.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8"))
        state = {k: (v.to(dtype) if dtype is not None and v.is_floating_point() else v).detach().cpu().contiguous() for k, v in model.state_dict().items()}
        if state:
            _replace(folder / WEIGHTS, lambda p: p.write_bytes(to_bytes(state)))  # like any file, as readable as the user's umask says
        if card:
            _replace(folder / CARD, lambda p: p.write_text(card, encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{folder}: expected a folder that can be written, got {error.strerror or error}; choose another") from error
    return folder


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
