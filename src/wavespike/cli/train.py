"""`wavespike train RECIPE [key=value ...]`: train a model from a recipe; `wavespike resume RUN` continues it."""

from __future__ import annotations

from typing import Any


def add_arguments(parser: Any) -> None:
    parser.add_argument("recipe", type=str, help="a YAML file of recipes/")
    parser.add_argument("overrides", nargs="*", type=str, help="dotted changes, for example data.train=train.txt data.batch_size=4 trainer.steps=1000")
    parser.add_argument("--run", type=str, default=None, help="folder of the run (default: runs/NAME, the next free one)")
    parser.add_argument("--json", action="store_true", help="print what came of it as JSON")


def require_lightning() -> None:
    from wavespike.errors import MissingDependencyError

    try:
        import lightning.pytorch  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("training", "lightning", "train") from error


def outcome(folder: Any, as_json: bool) -> int:
    """Print where the run's models are."""
    import json

    from wavespike.training.run import is_first

    if not is_first():
        return 0
    models = [str(folder / name) for name in ("best", "last") if (folder / name / "config.json").is_file()]
    if as_json:
        print(json.dumps({"run": str(folder), "models": models}))
    else:
        print(f"{folder}: done; models in {', '.join(models)}")
    return 0


def run(args: Any) -> int:
    require_lightning()
    from wavespike.training.config import train_config
    from wavespike.training.recipe import load_recipe
    from wavespike.training.run import train

    config = train_config(load_recipe(args.recipe, args.overrides))
    return outcome(train(config, args.run), args.json)
