"""Checkpoints of SpArch (idiap/sparch): a whole pickled module (`best_model.pth`, alone, in an experiment's folder or in its `checkpoints`).

The pickle is read with `weights_only=True` and a list of names that are allowed: SpArch's and PyTorch's module classes become empty stand-ins whose
attributes are harvested, so nothing of the file is executed and neither package is needed. The architecture follows from the parameters found.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavespike.errors import CheckpointError
from wavespike.models.sparch import ANN, SNN, ModelType, SpArch, SpArchConfig, SpikeInputConfig
from wavespike.signal.filterbank import FilterbankConfig

NAMES = ("best_model.pth", "checkpoints/best_model.pth")
ALLOWED = ("sparch.models.snns.", "sparch.models.anns.", "torch.nn.modules.")
HARMLESS = ("builtins.getattr", "__builtin__.getattr", "builtins.set", "__builtin__.set", "torch.nn.functional.relu", "torch.sigmoid", "torch.tanh")


class _Stub:
    """Stands in for a module's class: keeps the attributes, has no behaviour."""

    def __init__(self, *arguments: Any):
        pass


def _nothing(*arguments: Any) -> None:
    return None


def find(path: Path) -> Path | None:
    """The pickled module at a path: the file itself, or in a folder."""
    if path.is_file():
        return path if path.suffix in (".pth", ".pt") else None
    return next((path / name for name in NAMES if (path / name).is_file()), None)


def recognises(folder: Path) -> bool:
    """Whether a path holds a SpArch checkpoint."""
    return find(folder) is not None


def harvest(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and plain attributes (numbers, words, sequences) of the top module in a whole-module pickle.

    Raises CheckpointError for a damaged file, or for one that names anything but SpArch's and PyTorch's modules.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        foreign = [n for n in names if not n.startswith(ALLOWED) and n not in HARMLESS]
        if foreign:
            raise CheckpointError(f"{path}: expected only SpArch's modules in the pickle, got {foreign[0]!r}; it is not loaded, because it could run code")
        stand_ins: list[Any] = [(type("Stub", (_Stub,), {}) if n.startswith(ALLOWED) else _nothing, n) for n in names]
        with torch.serialization.safe_globals(stand_ins):
            top = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise CheckpointError(f"{path}: expected a whole module saved by SpArch, got {' '.join(str(error).split())[:120]}; fetch it again") from error
    if not isinstance(top, _Stub):
        raise CheckpointError(f"{path}: expected a whole module saved by SpArch, got a {type(top).__name__}; is it another system's checkpoint?")
    state: dict[str, Tensor] = {}
    _collect(top, "", state)
    plain = {k: v for k, v in vars(top).items() if isinstance(v, (int, float, str, bool, tuple, list))}
    return state, plain


def _collect(module: Any, prefix: str, into: dict[str, Tensor]) -> None:
    inside = vars(module)
    for table in ("_parameters", "_buffers"):
        for name, value in (inside.get(table) or {}).items():
            if isinstance(value, Tensor):
                into[prefix + name] = value.detach()
    for name, child in (inside.get("_modules") or {}).items():
        if isinstance(child, _Stub):
            _collect(child, f"{prefix}{name}.", into)


def read_network(path: Path) -> SNN | ANN:
    """The network of a pickled SpArch module. Raises CheckpointError when its parameters are of no known architecture."""
    state, plain = harvest(path)
    return _network(path, state, plain)[0]


def _network(path: Path, state: dict[str, Tensor], plain: dict[str, Any]) -> tuple[SNN | ANN, dict[str, Any]]:
    root = "snn" if any(k.startswith("snn.") for k in state) else "ann"
    count = len({k.split(".")[1] for k in state if k.startswith(f"{root}.")})
    if not count or f"{root}.0.W.weight" not in state:
        raise CheckpointError(f"{path}: expected parameters snn.0.W.weight or ann.0.W.weight, got {', '.join(list(state)[:3]) or 'none'}; is it SpArch's?")

    def has(i: int, name: str) -> bool:
        return f"{root}.{i}.{name}" in state

    sizes = [state[f"{root}.{i}.W.weight"].shape[0] for i in range(count)]
    last, inputs = count - 1, state[f"{root}.0.W.weight"].shape[1]
    readout = bool(plain.get("use_readout_layer", count > 1))
    kind: ModelType
    if root == "snn":
        kind = ("RadLIF" if has(0, "V.weight") else "adLIF") if has(0, "beta") else ("RLIF" if has(0, "V.weight") else "LIF")
    else:
        kind = "GRU" if has(0, "Wr.weight") else "LiGRU" if has(0, "Wz.weight") else "RNN" if has(0, "V.weight") else "MLP"
    norm = "batchnorm" if has(0, "norm.running_mean") else "layernorm" if has(0, "norm.weight") else "none"
    both = count > 1 and state[f"{root}.1.W.weight"].shape[1] == 2 * sizes[0]
    options: dict[str, Any] = {"normalization": norm, "use_bias": has(0, "W.bias"), "bidirectional": both or bool(plain.get("bidirectional", False))}
    dropout = float(plain.get("dropout", 0.0))
    threshold = float(plain.get("threshold", 1.0))
    net: SNN | ANN
    if root == "snn":
        net = SNN((1, 1, inputs), sizes, kind, threshold, dropout, use_readout_layer=readout, **options)
    else:
        net = ANN((1, 1, inputs), sizes, kind, dropout, use_readout_layer=readout, **options)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: expected the parameters of a {kind} network, got others ({' '.join(str(error).split())[:160]})") from error
    return net.eval(), {"model_type": kind, "pdrop": dropout, "sizes": sizes, "last": last, "inputs": inputs, "readout": readout, "threshold": threshold, **options}


def load(folder: Path) -> SpArch:
    """A recogniser from SpArch's checkpoint; its labels are numbers, because SpArch does not store names. 40 inputs are taken as a Kaldi filterbank."""
    path = find(folder)
    assert path is not None
    state, plain = harvest(path)
    net, found = _network(path, state, plain)
    sizes, inputs = found["sizes"], found["inputs"]
    if not found["readout"] or len(set(sizes[:-1])) != 1:
        raise CheckpointError(f"{path}: expected hidden layers of one size and a read-out, got sizes {sizes}; use wavespike.hub.importers.sparch.read_network")
    config = SpArchConfig(
        labels=tuple(map(str, range(sizes[-1]))), features=FilterbankConfig() if inputs == 40 else SpikeInputConfig(units=inputs),
        model_type=found["model_type"], nb_layers=len(sizes), nb_hiddens=sizes[0], pdrop=found["pdrop"], normalization=found["normalization"],
        use_bias=found["use_bias"], bidirectional=found["bidirectional"], threshold=found["threshold"],
    )
    model = SpArch(config)
    model.net.load_state_dict(net.state_dict())
    return model.eval()
