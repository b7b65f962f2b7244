"""Reading the originals' files without running anything that they contain."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
import yaml

from wavespike.errors import CheckpointError


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping of plain values. Raises CheckpointError for tags that would build objects, and for text that does not parse."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: expected a configuration file, found none; check the path") from error
    except yaml.constructor.ConstructorError as error:
        raise CheckpointError(f"{path}: expected plain YAML, got a tag that would run code ({_one_line(error.problem)}); it was not loaded") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected YAML, got text that does not parse ({_one_line(error)}); restore the file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: expected a configuration file, got {error.strerror or error}; check the path") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a YAML mapping, got {type(data).__name__}; is it the right file?")
    return data


def read_pickle(path: Path) -> dict[str, Any]:
    """A torch checkpoint (dict) read with `weights_only=True`. Raises CheckpointError for one that would run code, and for a damaged one."""
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:global|class|operand)[^.]*?([\w.]+)", str(error))
        name = next((g for g in found.groups() if g), "") if found else ""
        if "Weights only load failed" in str(error):
            what = f" ({name})" if name else ""
            raise CheckpointError(
                f"{path}: expected a pickle of tensors and plain values, got one that asks for other objects{what} and could run code; it was not loaded"
            ) from error
        raise CheckpointError(f"{path}: expected a torch checkpoint, got a damaged file; fetch it again") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: expected a checkpoint file, found none; check the path") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected a torch checkpoint, got a damaged file ({_one_line(error)}); fetch it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a dict of tensors, got {type(data).__name__}; is it the right file?")
    return data


def _one_line(text: object, most: int = 120) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 3] + "..."
