"""What the prior changes: the same network and budget with three priors, scored by the panel and by the log-spectral distance above 4 kHz, and drawn.

    for prior in '{type: isotropic, scale: 0.045}' '{type: energy, energy_max: 20.0, floor: 0.05, scale: 0.07}' '{type: spectral}'; do
        wavespike train recipes/specgrad/priors.yaml data.train=train.txt data.valid=valid.txt "model.prior=$prior"; done
    python benchmarks/compare_priors.py runs/priors runs/priors-2 runs/priors-3 --data test.txt --picture docs/images/specgrad-priors.png
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

import wavespike
from wavespike.metrics.panel import Pair, Panel
from wavespike.signal.files import audio_files, read
from wavespike.signal.stft import stft
from wavespike.view.spectrogram import level_db, save_figure

METRICS = ("pesq_wb", "stoi", "dnsmos_ovrl", "dnsmos_p808", "mel_l1")


def log_spectral_distance_db(original: torch.Tensor, result: torch.Tensor, rate_hz: int, above_hz: float = 4000.0) -> float:
    """Mean over frames of the root mean square over bins above a frequency of the difference in level, 1024/256, 80 dB below the original's peak floored."""
    spectra = [stft(x, 1024, 256).abs() for x in (original, result)]
    top = float(spectra[0].max())
    a, b = (level_db(s, top)[round(above_hz / rate_hz * 1024) :] for s in spectra)
    return float((a - b).square().mean(0).sqrt().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="run folders, or models")
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--consistency-steps", type=int, default=0, help="Griffin-Lim projections after sampling")
    parser.add_argument("--picture", help="spectrograms of the first file")
    parser.add_argument("--picture-s", type=float, default=4.0, help="how many seconds of it")
    args = parser.parse_args()
    panel, out, drawn = Panel(METRICS), [], []
    sounds = []
    for path in audio_files(Path(args.data))[: args.limit]:
        audio, rate = read(path, 24000)
        sounds.append((path.name, torch.from_numpy(audio).mean(0)))
    for name in args.runs:
        folder = Path(name) / "last"
        model: Any = wavespike.load(folder if folder.is_dir() else name)
        model.config = dataclasses.replace(model.config, consistency_steps=args.consistency_steps)
        with torch.inference_mode():
            made = [model(torch.nn.functional.pad(x, (0, -len(x) % model.hop_length))[None], steps=args.steps)[0, : len(x)] for _, x in sounds]
        report = panel.run(Pair(n, x, y, rate) for (n, x), y in zip(sounds, made, strict=True))
        distance = sum(log_spectral_distance_db(x, y, rate) for (_, x), y in zip(sounds, made, strict=True)) / len(sounds)
        out.append({"model": name, "prior": model.config.prior.type_name, **report.means(), "lsd_above_4khz_db": distance})
        drawn.append((model.config.prior.type_name, made[0]))
        print(json.dumps(out[-1]), flush=True)
    if args.picture:
        shown = round(args.picture_s * rate)
        draw([(title, x[:shown]) for title, x in [("original", sounds[0][1]), *drawn]], rate, args.picture)


def draw(sounds: list[tuple[str, torch.Tensor]], rate_hz: int, path: str) -> None:
    """Spectrograms side by side, on the first one's scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(sounds), 3.2), dpi=90, layout="constrained")
    top = float(stft(sounds[0][1], 1024, 128).abs().max())
    image: Any = None
    axes = figure.subplots(1, len(sounds), sharex=True, sharey=True)
    for axis, (title, x) in zip(axes, sounds, strict=True):
        level = level_db(stft(x, 1024, 128).abs(), top).numpy()
        image = axis.imshow(level, origin="lower", aspect="auto", extent=(0, len(x) / rate_hz, 0, rate_hz / 2000), cmap="magma", vmin=-80, vmax=0, interpolation="nearest")
        axis.set(title=title, xlabel="time (s)")
    axes[0].set_ylabel("frequency (kHz)")
    figure.colorbar(image, ax=axes, label="level (dB)", pad=0.01)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
