"""Finished work, kept by content: a key is the hash of everything that a result depends on, so nothing stale is ever found and a stopped run goes on.

One small JSON file an item, written to a temporary name and renamed; a damaged one counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from wavespike.errors import OutputError


def content_key(*parts: object) -> str:
    """40 hexadecimal digits over the texts of the parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:40]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; of nothing when it cannot be read (reading it as audio will say why)."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return hashlib.sha256().hexdigest()


class Cache:
    """A folder of results; `None` for the folder keeps them in memory only. `hits` counts what was found."""

    def __init__(self, folder: Path | None):
        self.folder, self.hits = folder, 0
        self._memory: dict[str, Any] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{folder}: expected a folder that can be written, got {error.strerror}; choose another") from error

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key[2:]}.json"

    def get(self, key: str) -> Any:
        """The value, or None."""
        if key in self._memory or self.folder is None:
            return self._memory.get(key)
        try:
            value = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        self.hits += 1
        return value

    def put(self, key: str, value: Any) -> None:
        """Keep plain data. Raises OutputError when the folder cannot be written."""
        if self.folder is None:
            self._memory[key] = value
            return
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(value), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise OutputError(f"{path}: expected a cache that can be written, got {error.strerror or error}; choose another folder with --cache") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
