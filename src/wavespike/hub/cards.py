"""What a checkpoint folder says of itself: `config.json`, the card's front matter and text, the header of its weights. Read without torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

PRESETS = Path(__file__).parent / "presets"


def summary(folder: Path) -> dict[str, Any]:
    """Name, kind, type, sampling rate, size, licence and dense twin of a folder with a `config.json`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = folder / "model.safetensors"
    front, _ = card(folder)
    return {"name": folder.name, "kind": config["kind"], "type": config["model"]["type"], "sample_rate_hz": _find(config["model"], "sample_rate"),
            "values": stored_values(weights), "megabytes": round(weights.stat().st_size / 1e6, 1) if weights.exists() else 0.0,
            "licence": front.get("license", front.get("licence", "")), "about": front.get("about", ""), "twin": front.get("twin") or None}


def card(folder: Path) -> tuple[dict[str, str], str]:
    """(front matter, text) of README.md; both empty when there is no card. Front matter is `key: value` lines between two `---` lines."""
    path = folder / "README.md"
    if not path.is_file():
        return {}, ""
    text = path.read_text(encoding="utf-8")
    if not text.startswith("---\n") or "\n---\n" not in text[4:]:
        return {}, text
    head, body = text[4:].split("\n---\n", 1)
    pairs = (line.split(":", 1) for line in head.splitlines() if ":" in line and not line.startswith((" ", "-", "#")))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}, body.lstrip("\n")


def twin_of(source: str | Path) -> str | None:
    """The name of the dense model that a preset or a folder was made after, as its card says under `twin:`; None where it says none."""
    folder = PRESETS / str(source) if (PRESETS / str(source) / "config.json").is_file() else Path(source)
    return card(folder)[0].get("twin") or None


def stored_values(weights: Path) -> int:
    """Number of stored values of a safetensors file, from its header alone; 0 when there is none."""
    if not weights.is_file():
        return 0
    with weights.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for side in entry["shape"]:
                count *= side
            total += count
    return total


def _find(data: Any, key: str) -> Any:
    """The first value of a key, depth first; None when there is none."""
    if isinstance(data, dict):
        if key in data:
            return data[key]
        for value in data.values():
            found = _find(value, key)
            if found is not None:
                return found
    return None
