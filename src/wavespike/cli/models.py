"""`wavespike models`: the models inside the package, read from their folders without importing torch."""

from __future__ import annotations

import json
from typing import Any

from wavespike.cli.common import DEFAULT_MODEL
from wavespike.hub.cards import PRESETS, summary


def add_arguments(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    rows = [{**summary(path.parent), "default": path.parent.name == DEFAULT_MODEL} for path in sorted(PRESETS.glob("*/config.json"))]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        rate = f"{row['sample_rate_hz'] / 1000:g} kHz" if row["sample_rate_hz"] else ""
        mark = "*" if row["default"] else " "
        print(f"{mark} {row['name']:<20} {row['kind']:<10} {row['type']:<16} {rate:>9} {row['megabytes']:>6} MB  {row['licence']:<12} {row['about']}".rstrip())
    print("\n* the default; `wavespike show NAME` tells more, `--model` also takes a folder or a hub id")
    return 0
