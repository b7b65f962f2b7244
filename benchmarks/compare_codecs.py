"""Quality of a codec over its bitrates beside Opus, and under packet loss beside silence: a table, a JSON and a picture.

    python benchmarks/compare_codecs.py codec-24k clean24k/test.txt --picture docs/images/codec-24k-rates.png --json rates.json
    python benchmarks/compare_codecs.py codec-24k-denoise clean24k/test.txt --also codec-24k --noise noise16k/test.txt

Opus is `opusenc` and `opusdec` (Debian: opus-tools) at its lowest bitrates; its bitrate is that of the packets, without the container. Files are
judged at their own rate against the same reference as the codec. Not part of `make bench`: it measures a model, not the code.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

import wavespike
from wavespike.metrics.panel import Pair, Panel
from wavespike.signal.files import audio_files, read, write
from wavespike.signal.resample import resample
from wavespike.training.noisy_data import mix

METRICS = ("pesq_wb", "stoi", "visqol", "dnsmos_p808")
OF_LOSSES = ("pesq_wb", "stoi")
LOSS_RATES = (0.05, 0.1, 0.2)
BURST_FRAMES = 4.0


def opus_payload_bytes(path: Path) -> int:
    """Bytes of the audio packets of an Ogg Opus file, without pages' and codec's headers (RFC 3533, RFC 7845)."""
    data, at, packets, size = path.read_bytes(), 0, [], 0
    while data[at : at + 4] == b"OggS":
        count = data[at + 26]
        lacing = data[at + 27 : at + 27 + count]
        for length in lacing:
            size += length
            if length < 255:
                packets.append(size)
                size = 0
        at += 27 + count + sum(lacing)
    return sum(packets[2:])


def through_opus(audio: np.ndarray, rate_hz: int, kbps: float) -> tuple[np.ndarray, int]:
    """Mono [T] -> [T] through opusenc at a requested bitrate, and the bytes of the packets."""
    with tempfile.TemporaryDirectory() as folder:
        wav, opus, back = (Path(folder) / name for name in ("in.wav", "a.opus", "out.wav"))
        write(wav, audio[None], rate_hz)
        subprocess.run(["opusenc", "--quiet", "--speech", "--bitrate", str(kbps), str(wav), str(opus)], check=True, capture_output=True)
        subprocess.run(["opusdec", "--quiet", "--rate", str(rate_hz), str(opus), str(back)], check=True, capture_output=True)
        out = soundfile.read(back, dtype="float32")[0]
        return out[: len(audio)], opus_payload_bytes(opus)


def lost_frames(frames: int, rate: float, burst_frames: float, seed: int) -> np.ndarray:
    """Frames [L] that a two-state channel (Gilbert, 1960) loses: a share `rate`, in bursts of `burst_frames` on average (1: no memory but the last)."""
    random = np.random.default_rng(seed)
    if burst_frames <= 1:
        return random.random(frames) < rate
    recover = 1 / burst_frames
    fail, bad, out = recover * rate / (1 - rate), random.random() < rate, []
    for _ in range(frames):
        out.append(bad)
        bad = random.random() >= recover if bad else random.random() < fail
    return np.array(out)


class Judge:
    """Means of the metrics over files."""

    def __init__(self) -> None:
        self.panels = {names: Panel(names) for names in (METRICS, OF_LOSSES)}
        self.rows: dict[str, list[dict[str, float]]] = {}

    def add(self, name: str, reference: np.ndarray, estimate: np.ndarray, rate_hz: int, **more: float) -> None:
        row = dict(self.panels[OF_LOSSES if "lost" in more else METRICS].score(Pair(name, reference, estimate, rate_hz)).scores) | more
        self.rows.setdefault(name, []).append(row)

    def means(self) -> dict[str, dict[str, float]]:
        return {name: {key: float(np.mean([row[key] for row in rows if key in row])) for key in rows[0]} for name, rows in self.rows.items()}


@torch.inference_mode()
def measure(model: Any, files: list[Path], opus_kbps: list[float], levels: list[int], losses: bool) -> Judge:
    judge = Judge()
    per_level = model.bitrate / model.num_codebooks
    for number, path in enumerate(files):
        samples, rate_hz = read(path)
        audio = samples.mean(0)
        codes = model.encode(torch.from_numpy(resample(audio, rate_hz, model.sample_rate))[None, None])
        whole = model.decode(codes)
        made: list[tuple[str, torch.Tensor, dict[str, float]]] = [(f"codec {k}", model.decode(codes[:, :k]), {"kbps": k * per_level / 1000}) for k in levels]
        for kind, burst in (("random", 1.0), ("bursts", BURST_FRAMES)) if losses else ():
            for rate in LOSS_RATES:
                lost = lost_frames(codes.shape[-1], rate, burst, seed=1000 * number + int(100 * rate))
                missing, share = torch.from_numpy(lost)[None], {"lost": float(lost.mean())}
                silent = whole * ~missing.repeat_interleave(model.hop, -1)[:, None]  # all other codes intact: the best that silence can do
                made += [(f"{kind} {rate:.0%} concealed", model.decode(codes, missing), share), (f"{kind} {rate:.0%} silence", silent, share)]
        for name, decoded, more in made:
            judge.add(name, audio, resample(decoded[0, 0].numpy(), model.sample_rate, rate_hz)[: len(audio)], rate_hz, **more)
        for kbps in opus_kbps:
            through, size = through_opus(audio, rate_hz, kbps)
            judge.add(f"opus {kbps:g}", audio[: len(through)], through, rate_hz, kbps=8 * size * rate_hz / len(audio) / 1000)
    return judge


@torch.inference_mode()
def measure_noisy(names: list[str], files: list[Path], noises: list[Path], snrs_db: list[float]) -> Judge:
    """The noisy input and what each codec makes of it, judged against the clean speech; noise and its place are drawn by the file's number."""
    judge = Judge()
    models: dict[str, Any] = {Path(name).name: wavespike.load(name) for name in names}
    for number, path in enumerate(files):
        samples, rate_hz = read(path)
        clean = samples.mean(0)
        for snr_db in snrs_db:
            random = np.random.default_rng([number, int(10 * snr_db)])
            noise_samples, noise_hz = read(noises[int(random.integers(len(noises)))])
            noise = resample(noise_samples.mean(0), noise_hz, rate_hz)
            noise = np.tile(noise, 2 + len(clean) // len(noise))[int(random.integers(len(noise))) :][: len(clean)]
            noisy = mix(clean, noise, snr_db)
            judge.add(f"noisy, {snr_db:g} dB", clean, noisy, rate_hz)
            for name, model in models.items():
                out = model(torch.from_numpy(resample(noisy, rate_hz, model.sample_rate))[None, None])[0, 0].numpy()
                judge.add(f"{name}, {snr_db:g} dB", clean, resample(out, model.sample_rate, rate_hz)[: len(clean)], rate_hz)
    return judge


def table(means: dict[str, dict[str, float]]) -> str:
    columns = ["kbps", "lost", "pesq_wb", "stoi", "visqol", "dnsmos_p808"]
    used = [c for c in columns if any(c in row for row in means.values())]
    lines = ["| | " + " | ".join(used) + " |", "|---|" + "---:|" * len(used)]
    for name, row in means.items():
        lines.append(f"| {name} | " + " | ".join("" if c not in row else f"{row[c]:.2f}" if c in ("kbps", "lost", "pesq_wb", "visqol", "dnsmos_p808") else f"{row[c]:.3f}"
                                                 for c in used) + " |")
    return "\n".join(lines)


def picture(means: dict[str, dict[str, float]], title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    from wavespike.view.spectrogram import save_figure

    labels = {"pesq_wb": "PESQ-WB", "stoi": "STOI", "visqol": "ViSQOL", "dnsmos_p808": "DNSMOS P.808"}
    shown = [m for m in labels if any(m in row for row in means.values())]
    figure = Figure(figsize=(3.4 * len(shown), 3.2), dpi=120, layout="constrained")
    for axis, metric in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for kind, color in (("codec", "#31688e"), ("opus", "#b5367a")):
            rows = sorted((row["kbps"], row[metric]) for name, row in means.items() if name.startswith(kind) and "kbps" in row)
            axis.plot(*zip(*rows, strict=True), marker="o", markersize=4, color=color, label=title if kind == "codec" else "Opus 1.3")
        axis.set_xlabel("kbit/s")
        axis.set_title(labels[metric])
        axis.grid(alpha=0.3)
    figure.axes[0].legend()
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", type=Path, help="a list of audio files")
    parser.add_argument("--opus", type=float, nargs="*", default=[6.4, 7.0, 8.0], help="kbit/s asked of opusenc")
    parser.add_argument("--codebooks", type=int, nargs="*", default=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--no-losses", action="store_true")
    parser.add_argument("--count", type=int, default=None, help="the first so many files only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--noise", type=Path, help="a list of noise: instead, what the codec (and those of --also) makes of noisy speech")
    parser.add_argument("--also", nargs="*", default=[], help="further codecs for --noise")
    parser.add_argument("--snr", type=float, nargs="*", default=[0.0, 5.0, 10.0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.noise:
        noisy = measure_noisy([args.model, *args.also], audio_files(args.files)[: args.count], audio_files(args.noise), args.snr).means()
        print(table(noisy))
        if args.json:
            args.json.write_text(json.dumps(noisy, indent=2))
        return
    if args.opus and shutil.which("opusenc") is None:
        raise SystemExit("expected opusenc and opusdec, found none; install opus-tools, or say --opus without values")
    model: Any = wavespike.load(args.model)
    judge = measure(model, audio_files(args.files)[: args.count], args.opus, args.codebooks, not args.no_losses and model.conceals)
    means = judge.means()
    print(table(means))
    if args.json:
        args.json.write_text(json.dumps({"model": args.model, "files": len(audio_files(args.files)[: args.count]), "means": means, "rows": judge.rows}, indent=2))
    if args.picture:
        picture(means, Path(args.model).name, args.picture)


if __name__ == "__main__":
    main()
