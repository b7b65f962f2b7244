"""Spectrograms to look at: level in decibels over time in seconds and frequency in kilohertz.

Equation: level = 20 log10(|STFT| / max |STFT of the first signal|), Hann window; both panels share axes, reference level and colours.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavespike.errors import AudioError, MissingDependencyError, OutputError
from wavespike.signal.files import replacing
from wavespike.signal.stft import stft

RANGE_DB = 80.0


def level_db(magnitude: Tensor, reference: float, range_db: float = RANGE_DB) -> Tensor:
    """Magnitude [F, L] -> decibels above `reference`, from -range_db to whatever is there."""
    return 20.0 * torch.log10((magnitude / reference).clamp_min(10.0 ** (-range_db / 20.0)))


def spectrogram_pair(original: Tensor, result: Tensor, rate_hz: int, path: str | Path, *, titles: tuple[str, str] = ("original", "result"),
                     window_ms: float = 1000 * 1024 / 24000) -> Path:
    """Draw the spectrograms of two signals [T] side by side, on one scale, and write the picture (type by suffix) to `path`.

    Raises MissingDependencyError without matplotlib, AudioError for signals that are not [T >= 1], OutputError when `path` cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("A picture", "matplotlib", "view") from error
    signals = [torch.as_tensor(x).detach().float().cpu() for x in (original, result)]
    for x in signals:
        if x.ndim != 1 or x.numel() == 0:
            raise AudioError(f"expected two signals [samples], got {list(x.shape)}; take one channel of one item")
    n_fft = 2 ** round(math.log2(window_ms / 1000 * rate_hz))
    hop = n_fft // 8
    spectra = [stft(x, n_fft, hop).abs() for x in signals]
    reference = max(float(spectra[0].max()), 1e-9)
    longest_s = max(x.numel() for x in signals) / rate_hz

    figure = Figure(figsize=(12.0, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    image: Any = None
    for axis, spectrum, title in zip(axes, spectra, titles, strict=True):
        # the first and last frame are centred on the ends of the signal: half a hop of each lies outside
        extent = (-hop / 2 / rate_hz, (spectrum.shape[-1] - 0.5) * hop / rate_hz, 0.0, rate_hz / 2000)
        image = axis.imshow(level_db(spectrum, reference).numpy(), origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-RANGE_DB, vmax=0.0,
                            interpolation="nearest")
        axis.set(title=title, xlabel="time (s)", xlim=(0.0, longest_s))
    axes[0].set_ylabel("frequency (kHz)")
    figure.colorbar(image, ax=axes, label="level (dB re. loudest point of the original)", pad=0.01)
    return save_figure(figure, path)


def save_figure(figure: Any, path: str | Path) -> Path:
    """Write a matplotlib figure under a temporary name and rename it. Raises OutputError."""
    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise OutputError(f"{path}: expected a picture type such as .png, .svg or .pdf, got {path.suffix!r}; choose another")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata={"Software": None} if kind == "png" else None)
    return path
