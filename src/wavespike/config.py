"""Configurations are frozen keyword-only dataclasses; this module turns plain data (YAML, JSON) into them and back.

A field may be a union of dataclasses; plain data then carries a `type` key, matched against each class's `type_name`.
Unknown keys are refused with the nearest right name, values of the wrong kind with the path to them. No configuration
names code to import.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from wavespike.errors import ConfigError, nearest

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations. `type_name` tags the class in plain data."""

    type_name: ClassVar[str] = ""


def to_dict(config: Any) -> Any:
    """Plain data (dicts, lists, scalars) of a configuration; inverse of `from_dict`."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        out: dict[str, Any] = {}
        if getattr(config, "type_name", ""):
            out["type"] = config.type_name  # type: ignore[attr-defined]
        for field in dataclasses.fields(config):
            out[field.name] = to_dict(getattr(config, field.name))
        return out
    if isinstance(config, (list, tuple)):
        return [to_dict(v) for v in config]
    if isinstance(config, dict):
        return {k: to_dict(v) for k, v in config.items()}
    return config


def from_dict(cls: type[T], data: Any, path: str = "config") -> T:
    """Build `cls` from plain data, strictly.

    Raises ConfigError for an unknown key (naming the nearest right one), a missing key, or a value of the wrong type.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping for {cls.__name__}, got {type(data).__name__}")
    data = dict(data)
    tag = data.pop("type", None)
    own = getattr(cls, "type_name", "")
    if tag is not None and own and tag != own:
        raise ConfigError(f"{path}.type: expected {own!r}, got {tag!r}")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in fields:
            known = ", ".join(sorted(fields))
            raise ConfigError(f"{path}.{key}: unknown key{nearest(str(key), fields)} (known: {known})")
        values[key] = _convert(hints[key], value, f"{path}.{key}")
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{path}.{name}: this key is required by {cls.__name__} and missing")
    return cls(**values)


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, path)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{path}: expected one of {', '.join(map(repr, args))}, got {value!r}")
        return value
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
            if len(value) != len(args):
                raise ConfigError(f"{path}: expected {len(args)} values, got {len(value)}")
            return tuple(_convert(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
        return origin(_convert(args[0], v, f"{path}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: expected a mapping, got {value!r}")
        return {k: _convert(args[1], v, f"{path}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, path)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if hint is type(None) and value is None:
        return None
    if isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        raise ConfigError(f"{path}: expected {hint.__name__}, got {value!r}")
    return value


def _convert_union(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in args:
        return None
    classes = [a for a in args if dataclasses.is_dataclass(a)]
    if isinstance(value, dict) and classes:
        if len(classes) == 1:
            return from_dict(classes[0], value, path)  # type: ignore[arg-type]
        by_name = {getattr(c, "type_name", ""): c for c in classes}
        tag = value.get("type")
        if tag not in by_name:
            known = ", ".join(map(repr, by_name))
            raise ConfigError(f"{path}.type: expected one of {known}, got {tag!r}{nearest(str(tag), by_name)}")
        return from_dict(by_name[tag], value, path)  # type: ignore[arg-type]
    for arg in args:
        if arg is type(None):
            continue
        try:
            return _convert(arg, value, path)
        except ConfigError:
            continue
    names = " or ".join(getattr(a, "__name__", str(a)) for a in args)
    raise ConfigError(f"{path}: expected {names}, got {value!r}")
