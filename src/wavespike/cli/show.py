"""`wavespike show NAME`: one model's configuration, parameters, licence and card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def add_arguments(parser: Any) -> None:
    parser.add_argument("name", type=str, help="a model's name (wavespike models), a folder with a checkpoint, or a hub id")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    from wavespike.config import to_dict
    from wavespike.hub.cards import PRESETS, card
    from wavespike.hub.load import load

    model = load(args.name)
    folder = PRESETS / args.name if (PRESETS / args.name).is_dir() else Path(args.name)
    front, text = card(folder)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    facts: dict[str, Any] = {"name": args.name, "kind": model.kind, "class": type(model).__name__, "sample_rate_hz": model.sample_rate}
    for name in ("feature_channels", "hop_length", "hop", "delay", "bitrate", "channels", "labels"):
        if hasattr(model, name):
            facts[name] = getattr(model, name)
    facts |= {"parameters": model.parameter_count(), "parameters_by_part": parts, "licence": front.get("license", front.get("licence", "not stated"))}
    config = to_dict(model.config)
    if args.json:
        print(json.dumps({**facts, "config": config, "card": text}, indent=2, default=str))
        return 0
    import yaml

    for name, value in facts.items():
        if name != "parameters_by_part":
            print(f"{name.replace('_', ' '):<18} {f'{value:,}' if name == 'parameters' else value}")
    for name, count in parts.items():
        print(f"{'  in ' + name:<18} {count:,}")
    print("\nconfiguration")
    print("".join(f"  {line}\n" for line in yaml.safe_dump(config, sort_keys=False).splitlines()), end="")
    if text:
        print(f"\ncard\n{text.rstrip()}")
    return 0
