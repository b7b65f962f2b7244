"""Checkpoints of Spiking Vocos (pymaster17/Spiking-Vocos): a Lightning `.ckpt` with `config.yaml` or `hparams.yaml` beside or above it.

The configuration is nested (`model.init_args`); `class_path` values are looked up in a table, never imported. The table says which of the four published
variants a checkpoint is. Loading is strict: only what training leaves behind (discriminators, losses, teacher, adapters) and what follows from the
configuration (windows, mel filters) may be left over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavespike.config import from_dict
from wavespike.errors import CheckpointError, ConfigError
from wavespike.hub.importers.files import read_pickle, read_yaml
from wavespike.hub.state import load_state
from wavespike.models.spiking_vocos import PUBLISHED, SpikingVocos, SpikingVocosConfig
from wavespike.signal.mel import MelConfig, mel_filterbank

CONFIGS = ("config.yaml", "hparams.yaml")

VARIANTS: dict[str, str] = {
    "vocos.spiking_modelsv3.SpikingVocosBackbone": "standard",
    "vocos.spiking_modelsv3_distill.SpikingVocosBackbone": "distill",
    "vocos.spiking_modelsv3_TSM.SpikingVocosBackbone": "tsm",
    "vocos.spiking_modelsv3_TSM_distill.SpikingVocosBackbone": "tsm_distill",
}
"""Upstream's backbone class -> published variant."""

KEYS: dict[str, dict[str, str]] = {
    "feature_extractor": {k: k for k in ("sample_rate", "n_fft", "hop_length", "n_mels", "padding")},
    "backbone": {k: k for k in ("input_channels", "dim", "intermediate_dim", "num_layers", "layer_scale_init_value", "adanorm_num_embeddings")}
    | {"snn_timestep": "time_steps", "tsm_penalty_factor": "shift_penalty", "channel_folding_factor": "shift_fold"},
    "head": {k: k for k in ("dim", "n_fft", "hop_length", "padding")},
}
"""Part -> upstream's argument -> ours."""

LEFT_OVER = ("multiperioddisc.", "multiresddisc.", "discriminator.", "melspec_loss.", "mel_loss.", "stft.", "phase_loss.", "teacher_model.", "feature_adapters.",
             "feature_extractor.mel_spec.", "head.istft.window")
"""Prefixes of keys that the model does not need."""


def find_config(folder: Path) -> Path | None:
    """The configuration of a checkpoint's folder: in it, or one level up where Lightning puts `checkpoints/` beside it."""
    for place in (folder, folder.parent):
        for name in CONFIGS:
            if (place / name).is_file():
                return place / name
    return None


def find_checkpoint(folder: Path) -> Path | None:
    """`last.ckpt`, or the only (otherwise the last by name) `.ckpt` of a folder or of its `checkpoints` folder."""
    for place in (folder, folder / "checkpoints"):
        found = sorted(place.glob("*.ckpt"))
        if found:
            return next((p for p in found if p.name == "last.ckpt"), found[-1])
    return None


def recognises(folder: Path) -> bool:
    """Whether a folder holds an upstream Spiking Vocos training run."""
    config = find_config(folder)
    if config is None or find_checkpoint(folder) is None:
        return False
    try:
        return "spiking_models" in config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def read_config(path: Path) -> tuple[SpikingVocosConfig, str]:
    """Upstream's nested YAML -> our configuration and the name of the published variant."""
    data = read_yaml(path)
    inner = data.get("model", data)
    inner = inner.get("init_args", inner) if isinstance(inner, dict) else {}
    parts: dict[str, dict[str, Any]] = {}
    variant = ""
    for part, known in KEYS.items():
        entry = inner.get(part) if isinstance(inner, dict) else None
        if not isinstance(entry, dict) or "class_path" not in entry:
            raise CheckpointError(f"{path}: expected model.init_args.{part} with a class_path, got {type(entry).__name__}; is it a Spiking Vocos config.yaml?")
        name, arguments = entry["class_path"], entry.get("init_args") or {}
        expected = {"feature_extractor": ["vocos.feature_extractors.MelSpectrogramFeatures"], "backbone": list(VARIANTS), "head": ["vocos.heads.ISTFTHead"]}[part]
        if name not in expected:
            raise CheckpointError(f"{path}: expected {part}.class_path of {', '.join(expected)}, got {name!r}; no other class is ever imported")
        variant = VARIANTS.get(name, variant)
        unknown = sorted(set(arguments) - set(known))
        if unknown:
            raise CheckpointError(f"{path}: expected {part} arguments of {', '.join(known)}, got {unknown[0]!r}; it would be ignored silently")
        parts[part] = {known[key]: value for key, value in arguments.items()}
    if parts["backbone"].get("shift_fold", 8) != 8:
        raise CheckpointError(f"{path}: expected channel_folding_factor 8, the published value, got {parts['backbone']['shift_fold']}; "
                              "no reference output exists for another")
    parts["backbone"] |= PUBLISHED[variant]
    parts["head"].setdefault("padding", "same")
    parts["feature_extractor"].setdefault("padding", "center")
    try:
        return from_dict(SpikingVocosConfig, {"features": {"type": "mel", **parts["feature_extractor"]}, "backbone": parts["backbone"], "head": {"type": "istft", **parts["head"]}}), variant
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def variant_of(state: Mapping[str, Any]) -> str:
    """The published variant that the keys of a state dict belong to, or what else it is."""
    shift = any(k.startswith("backbone.convnext.") and k.endswith(".alpha") for k in state)
    distil = any(k.startswith(("feature_adapters.", "teacher_model.")) for k in state)
    if not any(".neuron1." in k for k in state):
        return "dense Vocos" if any(k.startswith("backbone.") for k in state) else "unknown model"
    return {(False, False): "standard", (False, True): "distill", (True, False): "tsm", (True, True): "tsm_distill"}[shift, distil]


def load(folder: Path) -> SpikingVocos:
    """An upstream run folder -> model. Raises CheckpointError naming the variant when checkpoint and configuration do not agree."""
    config_path, checkpoint = find_config(folder), find_checkpoint(folder)
    if config_path is None or checkpoint is None:
        raise CheckpointError(f"{folder}: expected a .ckpt with {' or '.join(CONFIGS)} beside or above it, found only one of them")
    config, variant = read_config(config_path)
    data = read_pickle(checkpoint)
    state = data.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{checkpoint}: expected a Lightning checkpoint with a state_dict of tensors, got none; is it the right file?")
    found = variant_of(state)
    if (found in PUBLISHED) != (variant in PUBLISHED) or ("tsm" in found) != ("tsm" in variant):
        raise CheckpointError(f"{checkpoint}: expected a checkpoint of variant {variant!r} as {config_path.name} says, got {found!r}; use the config.yaml of its own run")
    assert isinstance(config.features, MelConfig)
    fb = state.get("feature_extractor.mel_spec.mel_scale.fb")
    if fb is not None:
        ours = mel_filterbank(config.features).T
        if fb.shape != ours.shape or float((fb.float() - ours).abs().max()) > 1e-3 * float(ours.max()):
            raise CheckpointError(f"{checkpoint}: expected the mel filters of {config_path.name}, got others; use the config.yaml of its own run")
    model = SpikingVocos(config)
    load_state(model, {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}, str(checkpoint), LEFT_OVER)
    return model


def load_adapters(folder: Path) -> dict[str, Tensor]:
    """The feature adapters of a `distill` run, `{i}.{conv1x1,norm}.{weight,bias}`: for `training.spiking_losses.FeatureAdapter`."""
    checkpoint = find_checkpoint(folder)
    if checkpoint is None:
        raise CheckpointError(f"{folder}: expected a .ckpt, found none; check the path")
    prefix = "feature_adapters."
    return {k.removeprefix(prefix): v for k, v in read_pickle(checkpoint)["state_dict"].items() if k.startswith(prefix)}
