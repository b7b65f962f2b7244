"""`wavespike resume RUN`: go on from the last checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wavespike.cli.train import outcome, require_lightning


def add_arguments(parser: Any) -> None:
    parser.add_argument("run", type=str, help="the folder that 'wavespike train' made")
    parser.add_argument("--json", action="store_true", help="print what came of it as JSON")


def run(args: Any) -> int:
    require_lightning()
    from wavespike.training.run import resume

    return outcome(resume(Path(args.run)), args.json)
