"""One table of recognisers on the same lists: each trained from the same recipe for the same number of steps, then judged once on the test list.

    python benchmarks/compare_recognisers.py recipes/sparch/digits-8k.yaml --test fsdd8k/test.txt data.data_folder=fsdd8k trainer.steps=200

Rows: LIF, RLIF, adLIF, RadLIF, SE-adLIF, RadLIF with learnable delays (DCLS), dense GRU. Words of the form key=value override the recipe for all of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from wavespike.hub.load import load
from wavespike.metrics.recognition import evaluate
from wavespike.models.sparch import SpArch
from wavespike.signal.files import read
from wavespike.training.config import train_config
from wavespike.training.recipe import load_recipe
from wavespike.training.run import new_folder, start
from wavespike.training.speech_datasets import label_index, read_list

SYSTEMS: dict[str, list[str]] = {
    "LIF": ["model.model_type=LIF"],
    "RLIF": ["model.model_type=RLIF"],
    "adLIF": ["model.model_type=adLIF"],
    "RadLIF": ["model.model_type=RadLIF"],
    "SE-adLIF": ["model.model_type=SE-adLIF"],
    "LIF + delays (DCLS)": ["model.model_type=LIF", "model.max_delay_frames=5"],
    "GRU (dense)": ["model.model_type=GRU"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--test", required=True, help="labelled list that judges, once")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--json")
    a = parser.parse_intermixed_args()
    examples = read_list(a.test)
    rows = []
    print("| system | parameters | accuracy (95 %) | firing rate | energy an inference | minutes |\n|---|---|---|---|---|---|", flush=True)
    for name in a.systems:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            config = train_config(load_recipe(a.recipe, [*a.overrides, *SYSTEMS[name]]))
            folder = start(config, new_folder("compare", Path(place) / "run"), report=lambda line: None)
            model = load(folder / "last")
        assert isinstance(model, SpArch)
        clips = (torch.from_numpy(read(e.path, model.sample_rate)[0]).mean(0) for e in examples)
        report = evaluate(model, clips, label_index(examples, model.labels, a.test, complete=False))
        row = report.row(name, a.test)
        low, high = row["accuracy_95"]
        rate = "-" if row["firing_rate"] is None else f"{100 * row['firing_rate']:.1f} %"
        print(f"| {name} | {row['parameters']:,} | {100 * row['accuracy']:.1f} % ({100 * low:.1f}-{100 * high:.1f}) | {rate} | {row['energy_uj']:.2f} uJ | "
              f"{(time.perf_counter() - began) / 60:.1f} |", flush=True)
        rows.append({**row, "steps": config.trainer.steps, "seed": config.trainer.seed})
    if a.json:
        Path(a.json).write_text(json.dumps({"recipe": a.recipe, "overrides": a.overrides, "torch": torch.__version__, "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
