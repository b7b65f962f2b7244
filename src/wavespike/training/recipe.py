"""A recipe is a YAML file of differences from its `base`, with dotted overrides (`data.batch_size=4`) on top.

Mappings are merged key by key; where `type` changes, the mapping is replaced, because the keys of one type mean nothing to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from wavespike.errors import ConfigError, UsageError, nearest


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`base` with `change` laid over it; neither is modified."""
    out = dict(base)
    for key, value in change.items():
        old = out.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("type", old.get("type")) == old.get("type"):
            out[key] = merge(old, value)
        else:
            out[key] = value
    return out


def read_recipe(path: str | Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's YAML with all its bases merged, as plain data; `name` is the file's name unless given."""
    path = Path(path)
    if not path.is_file():
        beside = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UsageError(f"{path}: expected a recipe (a YAML file), found no such file{nearest(str(path), beside)}")
    real = path.resolve()
    if real in _seen:
        raise ConfigError(f"{path}: expected a chain of bases that ends, got a circle; remove one `base`")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected YAML, got text that does not parse ({error}); correct the file") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of recipe keys, got {type(data).__name__}")
    base = data.pop("base", None)
    if base is not None:
        inherited = read_recipe(path.parent / str(base), (*_seen, real))
        inherited.pop("name", None)
        data = merge(inherited, data)
    out: dict[str, Any] = {"name": path.stem, **data}
    return out


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay `key.key=value` words (values are YAML) over plain data. Types first, so that a new `type` and its keys may come in any order."""
    changes: list[tuple[list[str], Any]] = []
    for word in overrides:
        key, equals, text = word.partition("=")
        keys = key.split(".")
        if not equals or not all(keys):
            raise UsageError(f"expected overrides like data.batch_size=4, got {word!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"{key}: expected a YAML value after '=', got {text!r}") from error
        changes.append((keys, value))
    out: dict[str, Any] = data
    for keys, value in sorted(changes, key=lambda c: c[0][-1] != "type"):
        nested: dict[str, Any] = {keys[-1]: value}
        for k in reversed(keys[:-1]):
            nested = {k: nested}
        out = merge(out, nested)
    return out


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """File, bases and overrides as plain data for `train_config`."""
    return apply_overrides(read_recipe(path), overrides)
