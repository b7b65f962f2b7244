"""Checkpoints of Vocos (gemelo-ai/vocos): `config.yaml` + `pytorch_model.bin`, the keys of community forks included.

`class_path` values are looked up in a table, never imported. Keys are strict but for buffers that this package computes itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavespike.config import from_dict
from wavespike.errors import CheckpointError, ConfigError
from wavespike.hub.importers.files import read_pickle, read_yaml
from wavespike.hub.state import load_state
from wavespike.models.vocos import Vocos, VocosConfig
from wavespike.signal.mel import MelConfig, mel_filterbank

CONFIG, WEIGHTS = "config.yaml", "pytorch_model.bin"

CLASSES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "feature_extractor": {
        "vocos.feature_extractors.MelSpectrogramFeatures": ("mel", {"padding": "center"}),
        "vocos.feature_extractors.EncodecFeatures": ("encodec", {}),
    },
    "backbone": {
        "vocos.models.VocosBackbone": ("convnext", {}),
        "vocos.models.VocosResNetBackbone": ("resnet", {}),
    },
    "head": {
        "vocos.heads.ISTFTHead": ("istft", {"padding": "same"}),
        "vocos.heads.IMDCTSymExpHead": ("imdct-symexp", {"padding": "same"}),
        "vocos.heads.IMDCTCosHead": ("imdct-cos", {"padding": "same"}),
    },
}
"""Part -> upstream class -> (our type name, upstream's defaults where they are not ours)."""

OWN_BUFFERS = ("feature_extractor.mel_spec.", "feature_extractor.encodec.", "head.istft.window", "head.imdct.")
"""Keys upstream stores although they follow from the configuration (or, for EnCodec, belong to another model)."""


def recognises(folder: Path) -> bool:
    """Whether a folder holds an upstream Vocos checkpoint."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_config(path: Path) -> VocosConfig:
    """Upstream's `config.yaml` -> our configuration. Raises CheckpointError for a class outside the table or an unknown key."""
    data = read_yaml(path)
    nested = data.get("model")  # a training configuration holds the parts one level deeper
    if isinstance(nested, dict) and isinstance(nested.get("init_args"), dict):
        data = nested["init_args"]
    parts: dict[str, Any] = {}
    for part, classes in CLASSES.items():
        entry = data.get(part)
        if not isinstance(entry, dict) or "class_path" not in entry:
            raise CheckpointError(f"{path}: expected {part} with a class_path, got {type(entry).__name__}; is it a Vocos config.yaml?")
        name = entry["class_path"]
        if name not in classes:
            raise CheckpointError(f"{path}: expected {part}.class_path of {', '.join(classes)}, got {name!r}; no other class is ever imported")
        type_name, defaults = classes[name]
        arguments = entry.get("init_args") or {}
        if not isinstance(arguments, dict):
            raise CheckpointError(f"{path}: expected {part}.init_args to be a mapping, got {type(arguments).__name__}")
        parts["features" if part == "feature_extractor" else part] = {"type": type_name, **defaults, **arguments}
    try:
        return from_dict(VocosConfig, parts, "config")
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load(folder: Path) -> Vocos:
    """An upstream folder -> model."""
    model = Vocos(read_config(folder / CONFIG))
    load_state(model, convert_state(read_pickle(folder / WEIGHTS), model.config, str(folder / WEIGHTS)), str(folder / WEIGHTS), OWN_BUFFERS)
    return model


def convert_state(state: dict[str, Any], config: VocosConfig, where: str) -> dict[str, Tensor]:
    """Upstream's keys -> ours: old weight-norm names renamed, the stored mel filterbank compared with the configured one."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{where}: expected tensors only, got {type(value).__name__} under {key!r}; is it a state dict?")
        for old, new in ((".weight_g", ".parametrizations.weight.original0"), (".weight_v", ".parametrizations.weight.original1")):
            if key.endswith(old):
                key = key.removesuffix(old) + new
        out[key] = value
    stored = out.get("feature_extractor.mel_spec.mel_scale.fb")
    if stored is not None and isinstance(config.features, MelConfig):
        ours = mel_filterbank(config.features).T
        if stored.shape != ours.shape or float((stored.float() - ours).abs().max()) > 1e-3 * float(ours.max()):
            raise CheckpointError(
                f"{where}: expected the mel filters of config.yaml, got others; its feature_extractor lacks f_min, f_max, norm or mel_scale: add them"
            )
    return {k: v if v.dtype != torch.float16 else v.float() for k, v in out.items()}
