"""Spikes to look at: the 3-D scatter of Spiking Vocos (sequence, channel, depth), a raster and rates by layer.

A neuron layer's spikes [S, B, L, C] of item 0 become one plane of the scatter: x is the frame, y the channel, z the depth of the layer in the network;
a point is a (frame, channel) whose spikes per time step reach the threshold.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavespike.errors import MissingDependencyError, OutputError, UsageError, nearest
from wavespike.nn.recording import SpikeRecord
from wavespike.view.spectrogram import save_figure

Array = np.ndarray[Any, Any]
COLOURS = ("#1f4e79", "#e07b39", "#2a7f62", "#b8456b", "#6c5b9e", "#a58a1f", "#3a8fb7", "#8c4a2f")


@dataclasses.dataclass(frozen=True)
class Plane:
    """One layer: `density` [L, C] spikes per time step in 0..1, the points drawn, the mean rate."""

    name: str
    depth: int
    density: Array
    frames: Array
    channels: Array
    values: Array

    @property
    def rate(self) -> float:
        return float(self.density.mean())


def choose_layers(record: SpikeRecord, layers: list[str] | None) -> list[str]:
    """Names given in full, by a part, or by depth (0, 1, ...) -> layer names. Raises UsageError for one that is not there."""
    names = list(record.layers)
    if not layers:
        return names
    chosen: list[str] = []
    for word in layers:
        if word.isdigit() and int(word) < len(names):
            chosen.append(names[int(word)])
            continue
        hits = [n for n in names if word == n] or ([] if word.isdigit() else [n for n in names if word in n])
        if not hits:
            raise UsageError(f"expected layers of {', '.join(names)} (or depths 0..{len(names) - 1}), got {word!r}{nearest(word, names)}")
        chosen += hits
    return [n for n in names if n in chosen]


def spike_planes(record: SpikeRecord, *, layers: list[str] | None = None, threshold: float = 0.5, sample: float = 0.1, seed: int = 0) -> list[Plane]:
    """Planes of a record kept with `keep=True`: points whose spikes per time step are >= `threshold` (0 < t <= 1), a share `sample` of them, at random.

    Raises UsageError for values out of range.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"expected a threshold in 0..1 spikes per time step, above 0, got {threshold}")
    if not 0 < sample <= 1:
        raise UsageError(f"expected a sampling share in 0..1, above 0, got {sample}")
    depth = {name: i for i, name in enumerate(record.layers)}
    rng = np.random.default_rng(seed)
    planes = []
    for name in choose_layers(record, layers):
        kept = record.spikes(name)
        if not kept:
            continue
        first = kept[0][:, 0]  # [S, B, L, C] -> [S, L, C]; [L, B, C], for networks whose time is the sequence, -> [L, C]
        density = (first.to(torch.float32).mean(0) if first.ndim == 3 else first.to(torch.float32)).numpy()  # [L, C]
        frames, channels = np.nonzero(density >= threshold - 1e-6)
        drawn = rng.random(frames.size) < sample if sample < 1 else np.ones(frames.size, bool)
        frames, channels = frames[drawn], channels[drawn]
        planes.append(Plane(name, depth[name], density, frames, channels, density[frames, channels]))
    if not planes:
        raise UsageError("expected recorded spikes, got none; run the model inside record_spikes(model, keep=True)")
    return planes


def _short(name: str) -> str:
    return name.replace("backbone.convnext.", "block ").replace(".neuron", " / ").removeprefix("backbone.")


def save_spikes(planes: list[Plane], path: str | Path, *, title: str = "", hop_seconds: float | None = None) -> Path:
    """Write the scatter, the raster and the rates as a picture (.png, .svg, .pdf) or as an interactive page (.html).

    Raises MissingDependencyError without matplotlib or plotly, OutputError when `path` cannot be written.
    """
    return _page(planes, path, title) if Path(path).suffix.lower() in (".html", ".htm") else _picture(planes, path, title, hop_seconds)


def _busiest(planes: list[Plane]) -> Plane:
    return max(planes, key=lambda p: p.rate)


def _picture(planes: list[Plane], path: str | Path, title: str, hop_seconds: float | None) -> Path:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("A picture", "matplotlib", "view") from error
    figure = Figure(figsize=(14.0, 9.0), dpi=110)
    scatter: Any = figure.add_axes((0.0, 0.02, 0.58, 0.92), projection="3d")
    length, width = planes[0].density.shape[0], max(p.density.shape[1] for p in planes)
    colours = {p.name: COLOURS[i % len(COLOURS)] for i, p in enumerate(planes)}
    for plane in planes:
        channels = plane.density.shape[1]
        corners = np.array([(0, 0), (length, 0), (length, channels), (0, channels), (0, 0)])
        scatter.plot(corners[:, 0], corners[:, 1], plane.depth, color="#999999", linewidth=0.6)
        scatter.scatter(plane.frames, plane.channels, np.full(plane.frames.size, plane.depth), color=colours[plane.name], s=2 + 6 * plane.values**2, alpha=0.8,
                        linewidths=0, depthshade=False)
    scatter.set(xlabel="sequence (frame)", ylabel="channel", xlim=(0, length), ylim=(0, width))
    scatter.set_zticks([p.depth for p in planes], [_short(p.name) for p in planes])
    scatter.tick_params(axis="z", labelsize=8, pad=8)
    scatter.text2D(0.93, 0.84, "depth", transform=scatter.transAxes)
    scatter.set_box_aspect((1.6, 1.0, 1.6))
    scatter.view_init(elev=14, azim=-62)
    figure.suptitle(title or "spikes")

    busy = _busiest(planes)
    raster: Any = figure.add_axes((0.66, 0.56, 0.26, 0.34))
    end = length * hop_seconds if hop_seconds else length
    image = raster.imshow(busy.density.T, origin="lower", aspect="auto", cmap="Greys", vmin=0, vmax=1, extent=(0, end, 0, busy.density.shape[1]), interpolation="nearest")
    raster.set(title=f"raster of {_short(busy.name)} (the busiest)", xlabel="time (s)" if hop_seconds else "frame", ylabel="channel")
    bar = figure.colorbar(image, cax=figure.add_axes((0.935, 0.56, 0.012, 0.34)))
    bar.set_label("spikes per time step")

    rates: Any = figure.add_axes((0.66, 0.09, 0.30, 0.36))
    ill = ["red" if p.rate < 1e-4 or p.rate > 0.9 else "none" for p in planes]
    rates.bar(range(len(planes)), [p.rate for p in planes], color=[colours[p.name] for p in planes], edgecolor=ill, linewidth=2)
    for i, plane in enumerate(planes):
        if plane.rate < 1e-4:
            rates.text(i, 0, "silent", color="red", rotation=90, ha="center", va="bottom", fontsize=8)
    rates.set_xticks(range(len(planes)), [_short(p.name) for p in planes], rotation=60, ha="right", fontsize=8)
    rates.set(title="firing rate by layer (red frame: silent or saturated)", ylabel="spikes per neuron and step")
    rates.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)


def _page(planes: list[Plane], path: str | Path, title: str) -> Path:
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise MissingDependencyError("An interactive page", "plotly", "view") from error
    figure = make_subplots(rows=2, cols=2, column_widths=[0.66, 0.34], specs=[[{"type": "scene", "rowspan": 2}, {"type": "xy"}], [None, {"type": "xy"}]],
                           subplot_titles=("", f"raster of {_short(_busiest(planes).name)}", "firing rate by layer"))
    for plane in planes:
        figure.add_trace(go.Scatter3d(x=plane.frames, y=plane.channels, z=np.full(plane.frames.size, plane.depth), mode="markers", name=_short(plane.name),
                                      marker={"size": 1.6, "color": plane.values, "cmin": 0, "cmax": 1, "colorscale": "Viridis", "opacity": 0.7},
                                      hovertemplate=f"{_short(plane.name)}<br>frame %{{x}}<br>channel %{{y}}<br>%{{marker.color:.2f}} spikes per step<extra></extra>"),
                         row=1, col=1)
    busy = _busiest(planes)
    figure.add_trace(go.Heatmap(z=np.round(busy.density.T, 3), colorscale="Greys", zmin=0, zmax=1, showscale=False), row=1, col=2)
    figure.add_trace(go.Bar(x=[_short(p.name) for p in planes], y=[p.rate for p in planes], showlegend=False, marker_color="#4c6a92"), row=2, col=2)
    figure.update_scenes(xaxis_title="sequence (frame)", yaxis_title="channel", zaxis_title="depth",
                         zaxis={"tickvals": [p.depth for p in planes], "ticktext": [_short(p.name) for p in planes]}, aspectratio={"x": 1.6, "y": 1.0, "z": 1.2})
    figure.update_xaxes(title_text="frame", row=1, col=2)
    figure.update_yaxes(title_text="channel", row=1, col=2)
    figure.update_yaxes(title_text="spikes per neuron and step", row=2, col=2)
    figure.update_layout(title=title or "spikes", legend={"itemsizing": "constant"}, margin={"l": 0, "r": 20, "t": 60, "b": 0})
    path = Path(path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        figure.write_html(part, include_plotlyjs=True)
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: expected a place that can be written, got {error.strerror or error}; choose another") from error
    finally:
        part.unlink(missing_ok=True)
    return path
