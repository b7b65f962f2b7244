"""`wavespike models`: the models inside the package, read from their config.json without importing torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def add_arguments(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    folder = Path(__file__).parent.parent / "hub" / "presets"
    rows = []
    for path in sorted(folder.glob("*/config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        weights = path.parent / "model.safetensors"
        rows.append({"name": path.parent.name, "kind": config["kind"], "type": config["model"]["type"],
                     "megabytes": round(weights.stat().st_size / 1e6, 1) if weights.exists() else 0.0})
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print(f"{row['name']:<20} {row['kind']:<10} {row['type']:<16} {row['megabytes']:>6} MB")
    return 0
