"""The benchmark's arithmetic and its page: ratios inside a round, a section that is replaced and never doubled."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

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
