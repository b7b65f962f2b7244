"""Load and save models. A checkpoint is a folder: `config.json`, `model.safetensors`, `README.md` (the card).

`load` takes a preset's name, a folder of ours, a folder or file of an original system, or a hub id (owner/name). Nothing is unpickled except with
`weights_only=True`, and no configuration names code to import.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavespike.config import to_dict
from wavespike.errors import CheckpointError, OutputError, UsageError, nearest
from wavespike.hub.importers import audiodec
from wavespike.models.audiodec import AudioDec
from wavespike.models.base import Model
from wavespike.models.registry import build

PRESETS = Path(__file__).parent / "presets"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def presets() -> list[str]:
    """Names of the models inside the package, sorted."""
    return sorted(p.name for p in PRESETS.iterdir() if (p / CONFIG).is_file()) if PRESETS.is_dir() else []


def load(
    source: str | Path, *, decoder: str | Path | None = None, revision: str | None = None, expect: type[Model[Any]] | None = None
) -> Model[Any]:
    """A ready model in evaluation mode. `decoder` joins the encoder and quantiser of one codec with the decoder of another checkpoint.

    Raises UsageError for an unknown name (naming the nearest preset), CheckpointError for a damaged, unsafe or wrong checkpoint.
    """
    name = str(source)
    if (PRESETS / name / CONFIG).is_file():
        model = load_folder(PRESETS / name)
    elif audiodec.recognises(Path(source)):
        model = audiodec.load_audiodec(source)
    elif Path(source).is_dir():
        model = load_folder(Path(source))
    else:
        known = presets()
        raise UsageError(f"expected a preset ({', '.join(known)}) or a folder with a checkpoint, got {name!r}{nearest(name, known)}")
    if decoder is not None:
        if not isinstance(model, AudioDec):
            raise UsageError(f"{name}: expected an autoencoder to join with a decoder, got a {type(model).__name__}")
        model = audiodec.join(model, load(decoder))
    if expect is not None and not isinstance(model, expect):
        raise CheckpointError(f"{name}: expected a {expect.__name__}, got a {type(model).__name__}; use wavespike.load")
    return model.eval()


def load_folder(folder: Path) -> Model[Any]:
    """Our own folder layout -> model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: expected {CONFIG} beside {WEIGHTS}, found neither ours nor a known original's layout")
    try:
        data = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: expected JSON, got text that does not parse ({error}); restore the file") from error
    model = build(data["model"])
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


def load_state(model: Model[Any], state: dict[str, Tensor], where: str, surplus_allowed: Iterable[str] = ()) -> None:
    """Strict loading: every key present, none left over but those that start with an allowed prefix. Half precision is widened."""
    allowed = tuple(surplus_allowed)
    own = model.state_dict()
    state = {k: v for k, v in state.items() if k in own or not (allowed and k.startswith(allowed))}
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or surplus:
        parts = [f"missing {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}" if missing else "",
                 f"surplus {', '.join(surplus[:3])}{' ...' if len(surplus) > 3 else ''}" if surplus else ""]
        raise CheckpointError(f"{where}: expected exactly the keys of this configuration, got {'; '.join(p for p in parts if p)}; is it the right config?")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise CheckpointError(f"{where}: expected {key} of shape {list(own[key].shape)}, got {list(value.shape)}; is it the right config?")
    model.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()})


def save(model: Model[Any], folder: str | Path, *, card: str = "", dtype: torch.dtype | None = None, **extra: Any) -> Path:
    """Write a checkpoint folder; each file is written to a temporary name and renamed. `extra` goes into config.json beside the model."""
    from safetensors.torch import save_file

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config = {"format": "wavespike-1", "kind": model.kind, "model": to_dict(model.config), **extra}
        _replace(folder / CONFIG, lambda p: p.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8"))
        state = {k: (v.to(dtype) if dtype is not None and v.is_floating_point() else v).detach().cpu().contiguous() for k, v in model.state_dict().items()}
        if state:
            _replace(folder / WEIGHTS, lambda p: save_file(state, p))
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
