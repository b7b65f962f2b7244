"""SpArch's whole-module pickles load without SpArch, and nothing in them is executed."""

import json
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import wavespike
from wavespike.errors import CheckpointError
from wavespike.hub.importers.sparch import read_network

GOLDEN = Path(__file__).parents[1] / "golden" / "sparch"


class Box(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x > 0).float()


def pickle_as_sparch(case, target):
    """What SpArch would have saved: module classes of its own modules, the surrogate's bound `apply`, plain attributes."""
    options = json.loads((GOLDEN / case / "config.json").read_text())
    state = load_file(GOLDEN / case / "state_dict.safetensors")
    spiking = "neuron_type" in options
    name = f"sparch.models.{'snns' if spiking else 'anns'}"
    package = types.ModuleType(name)
    Top = type("SNN" if spiking else "ANN", (torch.nn.Module,), {"__module__": name})
    Layer = type("AnyLayer", (torch.nn.Module,), {"__module__": name})
    Spike = type("SpikeFunctionBoxcar", (Box,), {"__module__": name})
    package.SNN = package.ANN = Top
    package.AnyLayer, package.SpikeFunctionBoxcar = Layer, Spike
    fakes = {"sparch": types.ModuleType("sparch"), "sparch.models": types.ModuleType("sparch.models"), name: package}
    sys.modules.update(fakes)
    try:
        root = "snn" if spiking else "ann"
        top = Top()
        for key, value in options.items():
            setattr(top, key, value)
        layers = torch.nn.ModuleList()
        for i in range(3):
            layer = Layer()
            layer.spike_fct = Spike.apply
            for key, value in state.items():
                if not key.startswith(f"{root}.{i}."):
                    continue
                parts = key.split(".")[2:]
                if len(parts) == 1:
                    setattr(layer, parts[0], torch.nn.Parameter(value))
                    continue
                if not hasattr(layer, parts[0]):
                    size = value.shape[0] if value.ndim else state[f"{root}.{i}.{parts[0]}.running_mean"].shape[0]
                    made = torch.nn.Linear(*value.shape[::-1], bias=False) if value.ndim == 2 else (
                        torch.nn.BatchNorm1d(size) if any("running_mean" in k and k.startswith(f"{root}.{i}.{parts[0]}.") for k in state) else torch.nn.LayerNorm(size))
                    setattr(layer, parts[0], made)
                owner = getattr(layer, parts[0])
                if parts[1] in owner._buffers:
                    owner._buffers[parts[1]] = value
                else:
                    owner._parameters[parts[1]] = torch.nn.Parameter(value)
            layers.append(layer)
        setattr(top, root, layers)
        torch.save(top, target)
    finally:
        for key in fakes:
            sys.modules.pop(key)


@pytest.mark.parametrize("case", sorted(p.name for p in GOLDEN.iterdir() if p.is_dir()))
def test_a_whole_module_pickle_gives_the_same_network(case, tmp_path):
    pickle_as_sparch(case, tmp_path / "best_model.pth")
    net = read_network(tmp_path / "best_model.pth")
    io = load_file(GOLDEN / case / "io.safetensors")
    y, _ = net(io["x"])
    assert (y - io["y"]).abs().max() <= 1e-4 * io["y"].abs().max()


def test_load_takes_the_experiment_folder_and_the_file(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "best_model.pth"
    pickle_as_sparch("RadLIF-readout", path)
    io = load_file(GOLDEN / "RadLIF-readout" / "io.safetensors")
    for source in (tmp_path, path):
        model = wavespike.load(source)
        assert model.config.model_type == "RadLIF"
        assert model.labels == ("0", "1", "2", "3", "4")
        assert (model.logits(io["x"].transpose(1, 2)) - io["y"]).abs().max() <= 1e-4 * io["y"].abs().max()


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_pickle_that_names_other_code_is_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, "best_model.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        wavespike.load(tmp_path)
    assert not Path("executed").exists()


def test_other_files_are_told_apart(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "best_model.pth")
    with pytest.raises(CheckpointError, match="whole module"):
        wavespike.load(tmp_path)
    (tmp_path / "best_model.pth").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(CheckpointError):
        wavespike.load(tmp_path)
