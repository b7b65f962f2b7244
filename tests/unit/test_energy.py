"""Energy: the published figures are reproduced, NeuroBench's definitions hold by hand and against the package, nothing executed is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wavespike
from wavespike.errors import UsageError
from wavespike.metrics.energy import (
    TECHNOLOGIES,
    OperationCounter,
    Operations,
    count,
    count_convolution,
    count_fft,
    count_linear,
    count_neurons,
    energy,
    published_energy,
    technology,
)
from wavespike.models.spiking_vocos import SpikingVocos, SpikingVocosConfig
from wavespike.models.vocos import Vocos, VocosConfig
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.heads import ISTFTHeadConfig, SourceFilterHeadConfig
from wavespike.nn.spiking import Neuron, SpikingConvNeXtConfig
from wavespike.spikes.neurons import NeuronConfig


def spiking(head: Any = None, **options: Any) -> SpikingVocos:
    torch.manual_seed(0)
    backbone = SpikingConvNeXtConfig(**{**dict(dim=32, intermediate_dim=48, num_layers=2, expansion_init_std=0.4), **options})
    return SpikingVocos(SpikingVocosConfig(backbone=backbone, head=head or ISTFTHeadConfig(dim=32))).eval()


@pytest.fixture
def audio() -> Tensor:
    return torch.randn(1, 24 * 256, generator=torch.Generator().manual_seed(0)) * 0.2


def test_the_published_ratio_is_reproduced_from_its_rate() -> None:
    p = published_energy([(0.176, 0.176)] * 8, 512, 1536, 4, other_macs=512 * 7 * 100 + 512 * 1026)
    assert p.ratio == pytest.approx(0.1465, abs=5e-5)
    assert p.ratio_with_embed_and_head == pytest.approx(0.202, abs=5e-4)
    assert [round(published_energy([(r, r)] * 8, 512, 1536, 4).ratio, 3) for r in (0.05, 0.10, 0.25, 0.30)] == [0.048, 0.087, 0.204, 0.243]
    # two layers of different rates weigh by size: C I targets and sources each
    assert published_energy([(0.1, 0.3)] * 8, 512, 1536, 4).ratio == pytest.approx(published_energy([(0.2, 0.2)] * 8, 512, 1536, 4).ratio)


def test_a_linear_layer_by_hand() -> None:
    weight = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 4.0]])  # 3 -> 2
    dense = count_linear(torch.tensor([[0.5, 0.0, 2.0], [0.0, 0.0, 0.0]]), weight)
    assert (dense.macs, dense.acs) == (12, 0)
    assert dense.effective_macs == 1 + 2  # input 0 meets one weight, input 2 two
    binary = count_linear(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), weight)
    assert (binary.macs, binary.acs) == (0, 1 + 2 + 1)
    assert count_linear(torch.tensor([[-1.0, 0.0, 1.0]]), weight).acs == 3  # NeuroBench: -1, 0, 1 are accumulates


def test_a_convolution_by_hand() -> None:
    weight = torch.tensor([[[1.0, 2.0, 0.0]]])  # one channel, kernel 3
    where = ([1], [1], [1], False, [0], 1)
    binary = count_convolution(torch.tensor([[[1.0, 0.0, 0.0, 1.0]]]), weight, *where)
    # frame 0 is seen by outputs 0 (weight 2) and 1 (weight 1); frame 3 by output 3 (weight 2); the third weight is zero
    assert (binary.acs, binary.macs) == (3, 0)
    dense = count_convolution(torch.tensor([[[0.5, 0.0, 0.0, 2.0]]]), weight, *where)
    assert (dense.macs, dense.effective_macs) == (3 * 4 - 2, 3)  # the two products with padding are none


def test_neurobench_agrees_on_two_layers() -> None:
    metrics = pytest.importorskip("neurobench.metrics.workload", reason="the oracle neurobench is not installed")
    hooks = pytest.importorskip("neurobench.hooks.layer", reason="the oracle neurobench is not installed")
    models = pytest.importorskip("neurobench.models", reason="the oracle neurobench is not installed")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    with torch.no_grad():
        net[0].weight[torch.rand(5, 6) < 0.3] = 0  # type: ignore[union-attr, operator, index]
    x = (torch.rand(7, 6) < 0.4).float()
    with torch.no_grad():
        model = models.TorchModel(net)
        model.connection_hooks.extend(hooks.LayerHook(layer) for layer in (net[0], net[2]))
        theirs = metrics.SynapticOperations()(model, model(x), (x, torch.zeros(7)))
    hidden = torch.relu(net[0](x))
    ours = [count_linear(x, net[0].weight), count_linear(hidden, net[2].weight)]  # type: ignore[arg-type]
    assert sum(o.acs for o in ours) / 7 == pytest.approx(theirs["Effective_ACs"])
    assert sum(o.effective_macs for o in ours) / 7 == pytest.approx(theirs["Effective_MACs"])


def test_neurons_are_counted_by_their_equation_and_their_changes() -> None:
    x = torch.tensor([[0.5, 0.0], [2.5, 0.0], [0.0, 0.0]])  # S 3, two neurons; the second rests
    neuron = Neuron(NeuronConfig(kind="lif"))
    spikes, _ = neuron(x)
    ops = count_neurons(neuron, x, spikes=spikes)
    assert (ops.neuron_multiplies, ops.neuron_adds, ops.neuron_comparisons) == (6, 12, 6)
    assert ops.membrane_updates == 2  # 0 -> 0.25 -> spike, back to 0; then nothing
    assert count_neurons(Neuron(NeuronConfig(kind="if")), x, spikes=spikes).neuron_multiplies == 0


def test_a_fourier_transform_by_hand() -> None:
    ops = count_fft(1, 8, real=False)  # 4 butterflies in 3 stages, 4 products and 6 sums each
    assert (ops.fft_multiplies, ops.fft_adds) == (48, 72)


def test_every_layer_is_counted_from_the_real_tensors(audio: Tensor) -> None:
    model = spiking()
    counted = count(model, audio)
    frames = 25
    with wavespike.record_spikes(model, keep=True) as record, torch.no_grad():
        model.decode(model.features(audio))
    for i in range(2):
        spikes = record.layers[f"backbone.convnext.{i}.neuron1"].spikes
        linear = counted.layers[f"backbone.convnext.{i}.pwconv1"]
        assert (linear.acs, linear.macs) == (spikes * 48, 0)
        second = record.layers[f"backbone.convnext.{i}.neuron2"].spikes
        assert counted.layers[f"backbone.convnext.{i}.pwconv2"].acs == second * 32
        steps = 4 if i else 1  # the first block's constant input is computed once
        assert counted.layers[f"backbone.convnext.{i}.dwconv"].macs == steps * 32 * 7 * frames
    assert counted.layers["head.out"].macs == frames * 32 * 1026
    assert counted.layers["backbone.embed"].macs == 32 * 100 * 7 * frames
    assert counted.layers["head"].fft_multiplies == pytest.approx(frames * 1024 * 10)
    assert counted.uncounted == {}
    assert counted.rates == record.rates


@pytest.mark.parametrize("head", [ISTFTHeadConfig(dim=32, mel_prior=True, consistency_steps=2), SourceFilterHeadConfig(dim=32, pitch_dim=16, pitch_layers=1)])
def test_no_operator_goes_uncounted_and_more_consistency_steps_cost_more(head: Any, audio: Tensor) -> None:
    import dataclasses

    few = energy(spiking(head), audio)
    assert few.model.uncounted == {}
    more = energy(spiking(dataclasses.replace(head, consistency_steps=head.consistency_steps + 1)), audio)
    per_step = more.model.total.fft_multiplies - few.model.total.fft_multiplies
    assert per_step == pytest.approx(2 * 25 * 1024 * 10, rel=0.15)  # an inverse and a forward transform a frame
    if isinstance(head, SourceFilterHeadConfig):
        assert few.model.grouped()["head.pitch"].macs > 0


def test_a_head_that_reads_spikes_only_adds(audio: Tensor) -> None:
    torch.manual_seed(0)
    backbone = SpikingConvNeXtConfig(dim=32, intermediate_dim=48, num_layers=1, time_steps=3, expansion_init_std=0.4, readout="spikes", activation="identity")
    model = SpikingVocos(SpikingVocosConfig(backbone=backbone, head=SourceFilterHeadConfig(dim=96, pitch="hidden"))).eval()
    report = energy(model, audio)
    assert not report.model.uncounted
    assert report.published is not None
    layers = report.model.layers
    frames = model.features(audio).shape[-1]
    ones = report.rates["backbone.readout"] * 96 * frames
    assert ones > 0
    assert layers["head.out"].macs == 0
    assert layers["head.out"].acs == pytest.approx(ones * 1026, rel=1e-4)
    assert layers["head.pitch.out"].macs == 0
    assert layers["head.pitch.out"].acs == pytest.approx(ones * model.head.pitch.out.out_features, rel=1e-4)
    twin = model.config.dense_twin()
    assert twin.head.dim == 32
    assert report.baseline is not None
    assert report.baseline.layers["head.out"].macs == frames * 32 * 1026
    p = report.published
    assert p.other_dense_pj - p.other_pj == pytest.approx(4.6 * 32 * 1026 - 0.9 * 1026 * ones / frames, rel=1e-4)


def test_the_dense_twin_costs_what_a_dense_vocos_of_the_size_costs(audio: Tensor) -> None:
    model = spiking()
    report = energy(model, audio)
    torch.manual_seed(5)
    dense = Vocos(VocosConfig(backbone=ConvNeXtConfig(dim=32, intermediate_dim=48, num_layers=2), head=ISTFTHeadConfig(dim=32))).eval()
    assert report.baseline is not None
    assert report.baseline.total.macs == count(dense, audio).total.macs
    assert energy(model, audio, baseline=dense).ratio == pytest.approx(report.ratio)
    assert report.published is not None
    assert 0 < report.published.ratio < 1
    assert energy(dense, audio).ratio is None
    assert energy(dense, audio).published is None


def test_a_silenced_model_spends_no_accumulates_and_the_twin_without_spiking_layers_has_none(audio: Tensor) -> None:
    silenced = energy(spiking(mlp="silenced"), audio)
    assert sum(o.acs for n, o in silenced.model.layers.items() if n.endswith("pwconv2")) == 0
    absent = energy(spiking(mlp="absent"), audio)
    assert absent.model.total.acs == 0
    assert absent.rates == {}
    assert absent.published is not None
    assert absent.published.rate == 0
    assert absent.energy_pj < silenced.energy_pj < energy(spiking(), audio).energy_pj


def test_prices() -> None:
    t = TECHNOLOGIES["45nm"]
    assert (t.mac_pj, t.add_pj) == (pytest.approx(4.6), 0.9)
    assert Operations(macs=2, acs=3, divisions=1, functions=1).energy_pj(t) == pytest.approx(2 * 4.6 + 3 * 0.9 + 4 * 3.7 + 8 * 4.6)
    assert Operations(bytes=4).energy_pj(t) == 0
    assert Operations(bytes=4).energy_pj(t, memory=True) == 10
    with pytest.raises(UsageError, match="did you mean '45nm'"):
        technology("45mn")


def test_counting_leaves_no_hooks_and_no_state_behind(audio: Tensor) -> None:
    model = spiking()
    before = model(audio)
    energy(model, audio)
    assert torch.equal(model(audio), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert OperationCounter(model).layers == {}


def test_the_report_as_json_has_the_keys_it_promises(audio: Tensor, tmp_path: Path) -> None:
    facts = json.loads(json.dumps(energy(spiking(), audio, memory=True).to_dict()))
    assert 0 < facts["published"]["ratio"] < 1
    assert 0 < facts["complete"]["ratio"] < 2
    assert facts["complete"]["parts_pj"]["memory"] > 0
    assert {row["name"] for row in facts["layers"]} >= {"backbone.embed", "backbone.convnext.0.pwconv1", "head.out"}
    assert len(facts["rates"]) == 4
    total = sum(row["energy_pj"] for row in facts["layers"])
    assert total == pytest.approx(facts["complete"]["millijoules_per_second"] * 1e9 * facts["seconds"])
    pytest.importorskip("matplotlib", reason="pictures need the package matplotlib")
    from wavespike.view.energy import energy_bars

    assert energy_bars(energy(spiking(), audio), tmp_path / "energy.png").stat().st_size > 10_000
