"""The benchmark's arithmetic and its page: ratios inside a round, a section that is replaced and never doubled."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    sys.modules.pop("bench_vocoders", None)
    import bench_vocoders

    return bench_vocoders


def test_a_ratio_is_the_median_of_ratios_inside_a_round(bench: ModuleType) -> None:
    """Rounds that the machine slowed down threefold leave it as it is."""
    reference, own = [1.0, 3.0, 1.0, 1.0, 3.0], [0.25, 0.75, 0.2, 0.25, 0.75]
    rows = {r["name"]: r for r in bench.summary({bench.REFERENCE: reference, "ours": own}, 10.0)}
    assert rows["ours"]["ratio"] == 4.0
    assert rows["ours"]["low"] <= rows["ours"]["ratio"] <= rows["ours"]["high"]
    assert rows[bench.REFERENCE]["ratio"] == 1.0
    assert rows["ours"]["times_real_time"] == 40.0


def test_a_section_is_replaced_and_the_rest_of_the_page_stays(bench: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    bench.common.write_section("one", "first", page)
    bench.common.write_section("two", "other", page)
    bench.common.write_section("one", "second", page)
    text = page.read_text()
    assert text.startswith("# Benchmarks")
    assert [text.count(word) for word in ("first", "second", "other")] == [0, 1, 1]
    bench.common.write_section("one", "second", page)
    assert page.read_text() == text


def test_the_published_architecture_has_its_published_size_and_the_input_is_speech(bench: ModuleType) -> None:
    assert bench.published().parameter_count() == 13_531_650
    features = bench.features_of(6.0)
    assert features.shape == (1, 100, 1 + 6 * 24000 // 256)
    assert float(features.std()) > 0.5


def test_a_contender_that_cannot_run_says_why(bench: ModuleType) -> None:
    with pytest.raises(bench.Skip, match="not among"):
        bench.preset("no-such-vocoder")


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """benchmarks/make_report.py, writing to pages in a temporary folder, with quick metrics."""
    from wavespike.metrics import evaluation

    monkeypatch.syspath_prepend(FOLDER)
    sys.modules.pop("make_report", None)
    import make_report

    readme, page = tmp_path / "README.md", tmp_path / "benchmarks.md"
    readme.write_text("# x\n\n<!-- report: made by make report, do not edit -->\nold\n<!-- end of report -->\n\n## Next\n")
    monkeypatch.setattr(make_report, "README", readme)
    monkeypatch.setattr(make_report.common, "PAGE", page)
    monkeypatch.setattr(evaluation, "DEFAULT", ("mel_l1", "lsd"))
    monkeypatch.setattr(make_report, "SHORT", ("lsd",))
    return make_report


def test_the_report_of_the_project_has_every_bundled_model_that_gives_speech_back(maker: ModuleType) -> None:
    from wavespike.cli.common import DEFAULT_MODEL
    from wavespike.hub.load import load, presets

    names, left_out = maker.systems()
    assert names[0] == DEFAULT_MODEL
    for name in presets():
        assert (name in names) != any(name in text for text in left_out)
        assert (load(name).kind == "classifier") == (name not in names)


def test_twins_stand_side_by_side_and_are_shown_as_such(maker: ModuleType) -> None:
    names, _ = maker.systems()
    assert names[:2] == ["vocos-24k", "spiking-vocos-24k"]
    def model(lsd: float, **facts: Any) -> dict[str, Any]:
        items = [{"name": f"{i}", "lsd": lsd + i} for i in range(12)]
        return {"metrics": {"means": {"lsd": lsd + 5.5}, "intervals": {}, "failures": {}, "items": items}, "real_time_factor_1_thread": 0.01, "times_real_time": None, "bitrate_bps": None,
                "peak_memory_mb": None, "parameters": 10, "energy_over_twin": None, "energy": None, "kind": "vocoder", "twin": None, **facts}

    results = {"against": "a", "seed": 0, "original": {"metrics": {"means": {}}}, "models": {
        "a": model(1.0, what="dense vocoder"), "b": model(0.5, what="spiking vocoder", twin="a", energy_over_twin=0.491),
        "c": model(3.0, what="codec, no network", kind="codec"), "d": model(3.25, what="dense codec", kind="codec")}}
    table = maker.short_table(results)
    assert "| `a` | dense vocoder, twin of `b` | 6.50 | 100 |" in table
    assert "| `b` | spiking vocoder, twin of `a` | 6.00 | 100 |  | 0.49 |" in table
    long = maker.long_tables(results)
    assert "| difference from `a` | `b` |" in long
    assert "**-0.50 (-0.50 to -0.50)** better" in long
    assert "| difference from `c` | `d` |" in long  # codecs with codecs
    assert "**+0.25 (+0.25 to +0.25)** worse" in long
    assert long.index("### Vocoders") < long.index("| `a` | `b` |") < long.index("### Codecs") < long.index("### Costs")


def test_make_report_writes_both_tables_from_one_run(maker: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import numpy as np

    from wavespike.signal.files import write

    (tmp_path / "data").mkdir()
    for i in range(2):
        write(tmp_path / "data" / f"{i}.wav", 0.1 * np.random.default_rng(i).normal(size=12000).astype(np.float32), 24000)
    monkeypatch.setattr(maker, "systems", lambda: (["griffin-lim-24k"], ["world needs the extra `pitch`"]))
    monkeypatch.setattr(sys, "argv", ["make_report", "--data", str(tmp_path / "data"), "--about", "two noises", "--model", f"files:{tmp_path / 'data'}", "--out", str(tmp_path / "out")])
    maker.main()
    readme, page = maker.README.read_text(), maker.common.PAGE.read_text()
    assert "old" not in readme
    assert readme.endswith("<!-- end of report -->\n\n## Next\n")
    row = next(line for line in readme.splitlines() if line.startswith("| `griffin-lim-24k`"))
    assert readme.splitlines()[3].startswith("| system | what it is | LSD (dB) ↓ | x real time, 1 thread | energy (mJ/s) |")
    assert row.split("|")[2] == " vocoder, no network "
    value, speed, energy = (float(cell) for cell in row.split("|")[3:6])
    assert value > 1
    assert speed > 0
    assert energy > 0
    assert f"| LSD (dB) ↓ |  | {value:.2f} (" in page
    for text in ("two noises (2 files, 1 s)", "world needs the extra", "EnCodec needs its weights: MODELS=encodec:FOLDER:6", "make report", "load average"):
        assert text in page
    assert (tmp_path / "out" / "index.html").is_file()


@pytest.mark.parametrize("neuron", ["LIF", "adLIF", "RLIF", "RadLIF"])
def test_the_plain_loop_that_training_is_compared_with_is_the_same_network(neuron: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import torch

    import bench_sparch
    from wavespike.models.sparch import SNN

    torch.manual_seed(0)
    x = (torch.rand(4, 20, 12) < 0.3).double()  # a box-shaped surrogate has edges: in single precision rounding may move a potential over one
    net = SNN(x.shape, [9, 8], neuron, use_readout_layer=False).double()
    for layer in net.layers:
        torch.nn.init.constant_(layer.norm.weight, 12.0)  # enough current for spikes
    results = []
    for run in (net, bench_sparch.LoopNetwork(net)):
        spikes, rates = run(x)
        grads = torch.autograd.grad(spikes.square().mean() + rates.mean(), list(net.parameters()))
        results.append((spikes, rates, grads))
    (a, ra, ga), (b, rb, gb) = results
    assert torch.equal(a, b)
    assert float(a.detach().mean()) > 0.02
    torch.testing.assert_close(ra, rb)
    for ours, reference in zip(ga, gb, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-12)


def test_systems_that_are_compared_hear_the_same_items_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import torch

    import compare_recognisers

    asked: list[int] = []

    class Items(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            asked.append(index)
            return {"features": torch.full((2, 3), -5.0 - index), "target": torch.tensor(index)}

    kept: compare_recognisers.Kept = {}
    first, second = compare_recognisers.KeptItems(Items(), kept), compare_recognisers.KeptItems(Items(), kept)
    assert torch.equal(first[7]["features"], second[7]["features"])
    assert float(second[7]["features"][0, 0]) == -12.0
    assert asked == [7]
    assert len({compare_recognisers.folder_name(name) for name in compare_recognisers.SYSTEMS}) == len(compare_recognisers.SYSTEMS)
