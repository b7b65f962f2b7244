"""Pictures of recognition: the confusion matrix, and spikes as a raster (a dot at time and channel of every spike)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavespike.errors import MissingDependencyError, UsageError
from wavespike.models.sparch import SNN, SpArch
from wavespike.view.spectrogram import save_figure


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("A picture", "matplotlib", "view") from error
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def confusion_picture(confusion: Tensor, labels: Sequence[str], path: str | Path) -> Path:
    """Counts [truth, answer] with the share of each row as the colour, written to `path`."""
    n = len(labels)
    figure = _figure(2.2 + 0.45 * n, 1.8 + 0.42 * n)
    axis = figure.subplots()
    share = confusion.double() / confusion.sum(1, keepdim=True).clamp(min=1)
    image = axis.imshow(100 * share.numpy(), cmap="Blues", vmin=0, vmax=100)
    for i in range(n):
        for j in range(n):
            if count := int(confusion[i, j]):
                axis.text(j, i, str(count), ha="center", va="center", color="white" if share[i, j] > 0.5 else "black", fontsize=8)
    axis.set(xticks=range(n), yticks=range(n), yticklabels=labels, xlabel="answer", ylabel="said")
    axis.set_xticks(range(n), labels, rotation=45, ha="right")
    figure.colorbar(image, ax=axis, label="share of what was said (%)", shrink=0.8)
    return save_figure(figure, path)


def raster_picture(times_s: Any, units: Any, path: str | Path, *, channels: int, title: str = "", ylabel: str = "channel", waveform: Any = None,
                   rate_hz: int = 0) -> Path:
    """Spikes (times in seconds, channel numbers), below the waveform [T] where one is given."""
    figure = _figure(9.0, 5.4 if waveform is not None else 4.2)
    if waveform is not None:
        top, axis = figure.subplots(2, 1, sharex=True, height_ratios=(1, 4))
        top.plot([i / rate_hz for i in range(len(waveform))], waveform, linewidth=0.4, color="black")
        top.set(ylabel="amplitude", title=title, ylim=(-1, 1))
    else:
        axis = figure.subplots()
        axis.set_title(title)
    axis.plot(times_s, units, linestyle="none", marker=".", markersize=2.4, color="black", markeredgewidth=0)
    axis.set(xlabel="time (s)", ylabel=ylabel, ylim=(-0.5, channels - 0.5))
    return save_figure(figure, path)


def network_raster(model: SpArch, audio: Tensor, path: str | Path) -> Path:
    """The spikes of every hidden layer while the model hears audio [1, T]. Raises UsageError for a dense model."""
    if not isinstance(model.net, SNN):
        raise UsageError("expected a spiking model for a raster, got a dense one; choose another --model")
    with torch.inference_mode():
        x, _ = model.steps(model.features(audio))
        trains = torch.cat([s[0] for s in model.net.spikes(x)], -1)  # [S, neurons]
    step, unit = (trains > 0).nonzero(as_tuple=True)
    seconds = step.double() * model.hop_length * model.config.frames_per_step / model.sample_rate
    with torch.inference_mode():
        answer = model.labels[int(model.logits(model.features(audio)).argmax())]
    return raster_picture(seconds.numpy(), unit.numpy(), path, channels=trains.shape[1], title=f"{answer}: {int(trains.sum())} spikes "
                          f"({100 * float(trains.mean()):.1f} % of neurons and steps)", ylabel="neuron (layers stacked)", waveform=audio[0].numpy(),
                          rate_hz=model.sample_rate)
