"""Checkpoints in Spiking Vocos's own format reproduce what the original computed: audio, hidden states, firing rates, gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import wavespike
from wavespike.errors import CheckpointError
from wavespike.hub.importers.spiking_vocos import load_adapters, read_config
from wavespike.models.spiking_vocos import PUBLISHED, SpikingVocos
from wavespike.training.spiking_losses import FeatureAdapter

FOLDER = Path(__file__).parent / "spiking-vocos"
CASES = ("standard", "distill", "tsm", "tsm_distill")


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_a_published_checkpoint_gives_the_original_outputs_rates_and_gradients(case: str) -> None:
    model, want = wavespike.load(FOLDER / case), load_file(FOLDER / case / "io.safetensors")
    assert isinstance(model, SpikingVocos)
    assert model.config.backbone.temporal_shift == PUBLISHED[case]["temporal_shift"]
    assert difference(model.decode(want["features"]), want["audio_out"]) < 1e-4
    with wavespike.record_spikes(model) as record:
        hidden = model.backbone(want["features"])
    assert difference(hidden, want["hidden"]) < 1e-4
    rates = {k.removeprefix("rate/"): float(v) for k, v in want.items() if k.startswith("rate/")}
    assert len(rates) == 6
    for name, rate in rates.items():
        assert np.float32(record.rates[f"backbone.{name}"]) == np.float32(rate), name  # counts of spikes, so exact
    hidden.square().mean().backward()
    gradients = {k.removeprefix("grad/"): v for k, v in want.items() if k.startswith("grad/")}
    parameters = dict(model.backbone.named_parameters())
    assert len(gradients) >= 4
    for name, gradient in gradients.items():
        assert parameters[name].grad is not None
        assert difference(parameters[name].grad, gradient) < 1e-3, name


@pytest.mark.parametrize("case", ["distill", "tsm_distill"])
def test_hidden_states_and_adapters_of_the_distilled_variants_match(case: str) -> None:
    model, want = wavespike.load(FOLDER / case), load_file(FOLDER / case / "io.safetensors")
    with torch.no_grad():
        _, outputs, mixed = model.backbone.states(want["features"])
        states = mixed if case.startswith("tsm") else outputs
        for i, state in enumerate(states):
            assert difference(state, want[f"hidden_state/{i}"]) < 1e-4
        adapters = nn.ModuleList(FeatureAdapter(32) for _ in range(3))
        adapters.load_state_dict(load_adapters(FOLDER / case))
        assert difference(adapters[1](states[1]), want["adapter/1"]) < 1e-4


def copy(case: str, folder: Path, config: str | None = None) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text((FOLDER / (config or case) / "config.yaml").read_text())
    (folder / "checkpoints" / "last.ckpt").write_bytes((FOLDER / case / "model.ckpt").read_bytes())
    return folder


def test_a_training_folder_and_its_checkpoints_folder_both_load(tmp_path: Path) -> None:
    run = copy("tsm", tmp_path / "run")
    for folder in (run, run / "checkpoints"):
        assert isinstance(wavespike.load(folder), SpikingVocos)


@pytest.mark.parametrize(("checkpoint", "config", "said"), [("tsm", "standard", "tsm"), ("standard", "tsm_distill", "standard")])
def test_a_checkpoint_of_another_variant_is_refused_and_named(checkpoint: str, config: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"got '{said}'"):
        wavespike.load(copy(checkpoint, tmp_path / "run", config))


def test_surplus_and_missing_keys_are_refused_but_leftovers_of_training_are_not(tmp_path: Path) -> None:
    data = torch.load(FOLDER / "tsm" / "model.ckpt", weights_only=True)
    run = copy("tsm", tmp_path / "run")
    file = run / "checkpoints" / "last.ckpt"
    state = dict(data["state_dict"])
    torch.save({**data, "state_dict": state | {"multiperioddisc.x.weight": torch.ones(2), "discriminator.0.x": torch.ones(1), "teacher_model.y": torch.ones(1)}}, file)
    assert isinstance(wavespike.load(run), SpikingVocos)
    torch.save({**data, "state_dict": state | {"backbone.extra.weight": torch.ones(2)}}, file)
    with pytest.raises(CheckpointError, match=r"surplus backbone\.extra\.weight"):
        wavespike.load(run)
    state.pop("backbone.convnext.1.gamma")
    torch.save({**data, "state_dict": state}, file)
    with pytest.raises(CheckpointError, match=r"missing backbone\.convnext\.1\.gamma"):
        wavespike.load(run)


@pytest.mark.parametrize(("old", "new", "said"), [("vocos.heads.ISTFTHead", "os.system", "os.system"), ("snn_timestep", "snn_timestop", "snn_timestop"),
                                                   ("channel_folding_factor: 8", "channel_folding_factor: 4", "got 4"), ("snn_timestep: 4", "snn_timestep: 0", "time_steps")])
def test_a_config_that_cannot_be_followed_is_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = (FOLDER / "tsm" / "config.yaml").read_text()
    assert old in text
    (tmp_path / "config.yaml").write_text(text.replace(old, new))
    with pytest.raises(CheckpointError, match=said):
        read_config(tmp_path / "config.yaml")
