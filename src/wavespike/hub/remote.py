"""Checkpoints from the Hugging Face hub (extra `hub`): fetched as files, then loaded like any folder."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from wavespike.errors import CheckpointError, MissingDependencyError

FILES = ("config.json", "model.safetensors", "README.md", "config.yaml", "pytorch_model.bin")
"""What is fetched: our layout and upstream's."""


def is_hub_id(name: str) -> bool:
    """Whether a name looks like owner/name."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w][\w.-]*", name) is not None


def fetch(repo_id: str, revision: str | None = None) -> Path:
    """The local folder of a hub repository's files. Raises CheckpointError, one line, when it cannot be fetched."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingDependencyError(f"fetching {repo_id!r}", "huggingface-hub", "hub") from error
    try:
        return Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # the client raises a dozen unrelated types for one situation: it could not be fetched
        kind = type(error).__name__
        if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError", "GatedRepoError"):
            raise CheckpointError(f"{repo_id}: expected a public hub repository (no folder has this name), got {kind}; check the name and revision") from error
        raise CheckpointError(
            f"{repo_id}: expected to fetch it from the hub (no folder has this name), got {kind}; connect once, or give a folder or a preset's name"
        ) from error
