"""Strict loading of a state dict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from wavespike.errors import CheckpointError
from wavespike.models.base import Model


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
