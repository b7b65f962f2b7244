"""Energy to look at: stacked bars by layer, a model beside its baseline, and the whole beside the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wavespike.errors import MissingDependencyError
from wavespike.metrics.energy import EnergyReport, Operations
from wavespike.view.spectrogram import save_figure

COLOURS = {"MACs": "#4c6a92", "ACs": "#e07b39", "neurons": "#c0392b", "elementwise": "#8aa9a5", "FFTs": "#b8a04a", "memory": "#b9b9c3"}


def energy_bars(report: EnergyReport, path: str | Path, *, names: tuple[str, str] = ("model", "baseline")) -> Path:
    """Draw microjoules a second of audio by group of layers, stacked by kind of work; a filled bar for the model, a hatched one for the baseline.

    Raises MissingDependencyError without matplotlib, OutputError when `path` cannot be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise MissingDependencyError("A picture", "matplotlib", "view") from error
    t, to_uj = report.technology, 1e-6 / report.seconds
    ours = report.model.grouped()
    theirs = {} if report.baseline is None else report.baseline.grouped()
    groups = [g for g in dict.fromkeys([*ours, *theirs]) if max(_pj(ours.get(g), report), _pj(theirs.get(g), report)) > 2e-3 * report.energy_pj]

    figure = Figure(figsize=(12.0, 5.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3.6, 1])
    width = 0.4 if theirs else 0.7
    for i, group in enumerate(groups):
        _stack(left, i - (width / 2 if theirs else 0), ours.get(group), report, to_uj, width, None)
        if theirs:
            _stack(left, i + width / 2, theirs.get(group), report, to_uj, width, "///")
    left.set_xticks(range(len(groups)), [g.replace("backbone.", "").replace("convnext.", "block ") for g in groups], rotation=40, ha="right")
    left.set(ylabel="energy (µJ a second of audio)", title=f"by layer, complete accounting, {report.technology_name}")
    _stack(right, 0, report.model.total, report, to_uj, 0.7, None)
    if report.baseline is not None:
        _stack(right, 1, report.baseline.total, report, to_uj, 0.7, "///")
    right.set_xticks([0, 1] if theirs else [0], list(names) if theirs else [names[0]], rotation=20, ha="right")
    ratios = [] if report.ratio is None else [f"complete {report.ratio:.3f}"]
    if report.published is not None:
        ratios.append(f"published {report.published.ratio:.3f}")
    right.set_title("\n".join(["ratio", *ratios]) if ratios else "whole", fontsize=10)
    parts = report.model.total.parts_pj(t, report.memory)
    handles: list[Any] = [Patch(color=COLOURS[part], label=part) for part in parts]
    if theirs:
        handles += [Patch(facecolor="white", edgecolor="black", label=names[0]), Patch(facecolor="white", edgecolor="black", hatch="///", label=names[1])]
    left.legend(handles=handles, frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)


def _pj(ops: Operations | None, report: EnergyReport) -> float:
    return 0.0 if ops is None else ops.energy_pj(report.technology, report.memory)


def _stack(axis: Any, x: float, ops: Operations | None, report: EnergyReport, scale: float, width: float, hatch: str | None) -> None:
    bottom = 0.0
    for part, pj in ({} if ops is None else ops.parts_pj(report.technology, report.memory)).items():
        axis.bar(x, pj * scale, width, bottom=bottom, color=COLOURS[part], hatch=hatch, edgecolor="white", linewidth=0.4)
        bottom += pj * scale
