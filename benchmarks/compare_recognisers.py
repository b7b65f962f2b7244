"""One table of recognisers on the same lists: each trained from the same recipe for the same number of steps on the same batches, then judged once.

    python benchmarks/compare_recognisers.py recipes/sparch/digits-8k.yaml --test fsdd8k/test.txt data.data_folder=fsdd8k trainer.steps=200

Rows: RadLIF, dense GRU, SE-adLIF, LIF with learnable delays (DCLS), adLIF, RLIF, LIF. Words of the form key=value override the recipe for all of them. The
model of the last step is judged: validation chooses nothing. Augmented batches are computed once for all rows and kept in half precision.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from wavespike.hub.load import load
from wavespike.metrics.recognition import evaluate
from wavespike.models.sparch import SpArch
from wavespike.signal.files import read
from wavespike.training.config import TrainConfig, train_config
from wavespike.training.recipe import load_recipe
from wavespike.training.run import new_folder, start
from wavespike.training.speech_data import LabelledSpeech
from wavespike.training.speech_datasets import label_index, read_list

SYSTEMS: dict[str, list[str]] = {
    "RadLIF": ["model.model_type=RadLIF"],
    "GRU (dense)": ["model.model_type=GRU"],
    "SE-adLIF": ["model.model_type=SE-adLIF"],
    "LIF + delays (DCLS)": ["model.model_type=LIF", "model.max_delay_frames=5"],
    "adLIF": ["model.model_type=adLIF"],
    "RLIF": ["model.model_type=RLIF"],
    "LIF": ["model.model_type=LIF"],
}

Kept = dict[int, dict[str, torch.Tensor]]


class KeptItems(Dataset[Any]):
    """Items of another data set, each computed once: they depend on seed and index alone, so every system gets the same."""

    def __init__(self, items: Dataset[Any], kept: Kept):
        self.items, self.kept = items, kept

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index not in self.kept:
            item = self.items[index]
            self.kept[index] = {**item, "features": item["features"].half()}
        item = self.kept[index]
        return {**item, "features": item["features"].float()}


class SharedSpeech(LabelledSpeech):
    """Labelled speech whose training items are shared between runs."""

    def __init__(self, *arguments: Any, kept: Kept):
        super().__init__(*arguments)
        self.kept = kept

    def train_items(self) -> Dataset[Any]:
        return KeptItems(super().train_items(), self.kept)


def trained(config: TrainConfig, folder: str | Path, kept: Kept) -> SpArch:
    """The model of the last step of a run in a new folder, or of the finished run that is there."""
    run = Path(folder)
    if not (run / "last" / "config.json").is_file():
        start(config, new_folder("compare", run), data=functools.partial(SharedSpeech, kept=kept), report=lambda line: None)
    model = load(run / "last")
    assert isinstance(model, SpArch)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--test", required=True, help="labelled list that judges, once")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--runs", help="folder that keeps the runs, one a system; finished ones are only judged")
    parser.add_argument("--count-every", type=int, default=1, help="count the operations of every n-th clip of the test list (accuracy and rate: of all)")
    parser.add_argument("--json", help="figures, written after every row")
    a = parser.parse_intermixed_args()
    examples = read_list(a.test)
    rows = []
    kept: Kept = {}
    print("| system | parameters | accuracy (95 %) | firing rate | energy an inference | core-minutes |\n|---|---|---|---|---|---|", flush=True)
    for name in a.systems:
        began = time.process_time()
        config = train_config(load_recipe(a.recipe, [*a.overrides, *SYSTEMS[name]]))
        if a.runs:
            model = trained(config, Path(a.runs) / name.split()[0], kept)
        else:
            with tempfile.TemporaryDirectory() as place:
                model = trained(config, Path(place) / "run", kept)
        minutes = (time.process_time() - began) / 60
        clips = (torch.from_numpy(read(e.path, model.sample_rate)[0]).mean(0) for e in examples)
        report = evaluate(model, clips, label_index(examples, model.labels, a.test, complete=False), count_every=a.count_every)
        row = report.row(name, a.test)
        low, high = row["accuracy_95"]
        rate = "-" if row["firing_rate"] is None else f"{100 * row['firing_rate']:.1f} %"
        print(f"| {name} | {row['parameters']:,} | {100 * row['accuracy']:.1f} % ({100 * low:.1f}-{100 * high:.1f}) | {rate} | {row['energy_uj']:.2f} uJ | "
              f"{minutes:.1f} |", flush=True)
        rows.append({**row, "steps": config.trainer.steps, "seed": config.trainer.seed, "core_minutes": round(minutes, 2)})
        if a.json:
            Path(a.json).write_text(json.dumps({"recipe": a.recipe, "overrides": a.overrides, "torch": torch.__version__, "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
