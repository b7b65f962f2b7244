"""Figures of recognisers: Wilson's interval, operations counted from real tensors, pictures that are written."""

import pytest
import torch

from wavespike.metrics.energy import Operations
from wavespike.metrics.recognition import count_operations, energy_uj, evaluate, wilson
from wavespike.models.sparch import SpArch, SpArchConfig, SpikeInputConfig


def make(kind, **options):
    torch.manual_seed(0)
    front = SpikeInputConfig(units=10, bins=20)
    return SpArch(SpArchConfig(labels=("a", "b", "c"), features=front, model_type=kind, nb_hiddens=6, **options)).eval()


def test_wilson_interval_has_its_published_values():
    low, high = wilson(81, 263)  # Newcombe, 1998, method 3
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson(0, 20)[0] == 0
    assert wilson(20, 20)[1] == pytest.approx(1)
    assert wilson(0, 0) == (0, 1)


def test_a_dense_network_costs_its_matrix_products():
    x = torch.rand(1, 10, 20)
    operations, rate = count_operations(make("GRU"), x)
    first, second = 3 * (20 * 10 * 6 + 19 * 6 * 6), 3 * (20 * 6 * 6 + 19 * 6 * 6)  # the first step has no past to multiply
    assert operations.macs == first + second + 6 * 3
    assert operations.functions >= 2 * 3 * 20 * 6
    assert operations.acs == 0
    assert rate is None


def test_a_spiking_network_costs_an_addition_a_synapse_of_every_spike():
    model = make("LIF")
    with torch.no_grad():
        for layer in model.net.layers:
            layer.norm.weight.fill_(60.0)
    x = torch.randn(1, 10, 20).relu()
    spikes = model.net.spikes(x.transpose(1, 2))
    counts = [int(s.sum()) for s in spikes]
    assert counts[0] > 5
    operations, rate = count_operations(model, x)
    assert operations.macs == 20 * 10 * 6
    assert operations.effective_macs == int(torch.count_nonzero(x)) * 6
    assert operations.acs == counts[0] * 6 + counts[1] * 3
    assert operations.neuron_multiplies == 2 * (2 * 20 * 6)
    assert operations.neuron_comparisons == 2 * 20 * 6
    assert operations.neuron_adds == 2 * 20 * 6 + sum(counts)
    assert rate == pytest.approx(sum(counts) / (2 * 20 * 6))


def test_recurrent_synapses_are_those_of_spikes_that_a_step_follows_without_the_own_one():
    model = make("RLIF", nb_layers=2)
    with torch.no_grad():
        model.net.layers[0].norm.weight.fill_(60.0)
    x = torch.randn(1, 10, 20)
    (spikes,) = model.net.spikes(x.transpose(1, 2))
    followed, all_spikes = int(spikes[:, :-1].sum()), int(spikes.sum())
    assert followed > 0
    assert count_operations(model, x)[0].acs == followed * 5 + all_spikes * 3


def test_a_synapse_with_a_delay_costs_one_product():
    x = torch.randn(1, 10, 20)
    delayed = make("LIF", nb_layers=2, max_delay_frames=4)
    assert count_operations(delayed, x)[0].macs == 20 * 10 * 6


def test_the_energy_report_of_a_recogniser_is_that_of_one_inference():
    from wavespike.metrics.energy import energy
    from wavespike.signal.filterbank import FilterbankConfig

    torch.manual_seed(0)
    model = SpArch(SpArchConfig(labels=("a", "b"), features=FilterbankConfig(sample_rate=8000), model_type="RadLIF", nb_hiddens=6)).eval()
    dense = SpArch(SpArchConfig(labels=("a", "b"), features=FilterbankConfig(sample_rate=8000), model_type="GRU", nb_hiddens=6)).eval()
    audio = 0.1 * torch.randn(1, 8000)
    report = energy(model, audio, baseline=dense)
    operations, rate = count_operations(model, model.features(audio))
    assert report.energy_pj * 1e-6 == pytest.approx(energy_uj(operations))
    assert report.to_dict()["complete"]["microjoules"] == pytest.approx(energy_uj(operations))
    assert sum(report.rates.values()) / 2 == pytest.approx(rate)
    assert report.ratio < 1
    assert report.to_dict()["uncounted"] == {}


def test_silent_input_costs_no_synapse():
    operations, rate = count_operations(make("RadLIF"), torch.zeros(1, 10, 20))
    assert operations.acs == 0
    assert rate == 0


def test_energy_is_45_nm():
    assert energy_uj(Operations(macs=1e6, acs=1e6)) == pytest.approx(4.6 + 0.9)


def test_evaluation_counts_examples_one_by_one():
    model = make("LIF")
    clips = [torch.rand(10, n) for n in (5, 20, 9, 13)]
    answers = [int(model.logits(c[None]).argmax()) for c in clips]
    targets = [answers[0], answers[1], (answers[2] + 1) % 3, answers[3]]
    report = evaluate(model, clips, targets)
    assert (report.examples, report.correct) == (4, 3)
    assert report.accuracy == 0.75
    assert report.confusion.sum() == 4
    assert report.confusion[targets[2], answers[2]] >= 1
    assert report.interval[0] < 0.75 < report.interval[1]
    assert "75.0 %" in report.text()


def test_pictures_are_written(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from wavespike.view.recognition import confusion_picture, raster_picture

    for path in (confusion_picture(torch.eye(3) * 5, ["a", "b", "c"], tmp_path / "c.png"),
                 raster_picture([0.1, 0.2], [1, 2], tmp_path / "r.png", channels=4, waveform=torch.zeros(100), rate_hz=100)):
        assert path.read_bytes().startswith(b"\x89PNG")
