"""An evaluation as one HTML page to read, look at and listen to, with everything inside it: no network, no other file.

The page (view/page/) draws itself from one JSON object: means with intervals, Pareto pictures, players with spectrograms and pitch tracks for the worst files.
Audio is embedded as MP3, Opus or FLAC, spectrograms as small PNG pictures (log mel magnitude, 70 dB below the loudest point of the original).
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import os
import shlex
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

import wavespike
from wavespike.errors import WavespikeError
from wavespike.metrics import pitch
from wavespike.metrics.evaluation import RETRIED, Evaluation
from wavespike.metrics.intervals import FEWEST
from wavespike.metrics.panel import METRICS
from wavespike.signal.files import replacing
from wavespike.signal.mel import MelConfig, log_mel
from wavespike.signal.resample import Samples, resample

AudioFormat = Literal["mp3", "opus", "flac"]
PAGE = Path(__file__).parent / "page"
ALL_PAIRS = 16
"""Up to so many systems the reader chooses which one the others are compared with."""
RANGE_DB, LEVELS, MEL_BANDS, WIDEST = 70.0, 24, 96, 900
_CONTAINERS = {"mp3": ("MP3", "MPEG_LAYER_III", "audio/mpeg"), "opus": ("OGG", "OPUS", "audio/ogg"), "flac": ("FLAC", "PCM_16", "audio/flac")}
_RATES = {"mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000), "opus": (8000, 12000, 16000, 24000, 48000)}
_COLOURS = ("000004", "180f3d", "440f76", "721f81", "9e2f7f", "cd4071", "f1605d", "fd9668", "feca8d", "fcfdbf")
MAIN = ("pesq_wb", "visqol", "dnsmos_ovrl", "stoi", "mel_l1")
"""The first of these that was scored orders the files and stands in the Pareto pictures, until the reader chooses another."""

COSTS: tuple[dict[str, str], ...] = (
    {"key": "real_time_factor_1_thread", "label": "RTF, 1 thread", "unit": "s/s", "better": "lower", "against": "speed",
     "title": "Real-time factor: seconds of computing a second of audio, waveform to waveform, on one thread; median of three calls on the start of the first file, the systems in turns"},
    {"key": "real_time_factor", "label": "RTF, all threads", "unit": "s/s", "better": "lower", "against": "", "title": "Real-time factor on as many threads as the machine gives"},
    {"key": "energy", "label": "energy", "unit": "mJ/s", "better": "lower", "against": "energy",
     "title": "Counted operations of features to waveform (codecs: of the whole way) priced for 45 nm, millijoules a second of audio, memory left out"},
    {"key": "energy_over_twin", "label": "energy / twin's", "unit": "", "better": "lower", "against": "", "title": "Energy of a spiking model over that of its dense twin, same input"},
    {"key": "bitrate_bps", "label": "bitrate", "unit": "bit/s", "better": "lower", "against": "bitrate", "title": "Bits of the whole coded files over the seconds of the audio"},
    {"key": "peak_memory_mb", "label": "peak memory", "unit": "MiB", "better": "lower", "against": "",
     "title": "Largest resident set of a process of its own, less that of Python with its packages, one thread"},
    {"key": "parameters", "label": "parameters", "unit": "", "better": "lower", "against": "", "title": "Trainable parameters"},
)


def write_report(found: Evaluation, folder: str | Path, *, files: int = 10, audio: AudioFormat = "mp3", command: Sequence[str] = ()) -> Path:
    """Write `index.html` (players for `files` files, the worst first) and `results.json` into a folder that exists -> the page. Raises OutputError."""
    folder = Path(folder)
    payload = page_data(found, files=files, audio=audio, command=command)
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
    parts = {"css": (PAGE / "report.css").read_text(encoding="utf-8"), "js": (PAGE / "report.js").read_text(encoding="utf-8"),
             "data": text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")}
    html = (PAGE / "report.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        head, tail = html.split("{{" + name + "}}", 1)
        html = head + part + tail
    for name, content in (("results.json", json.dumps(found.as_dict(), indent=2)), ("index.html", html)):
        with replacing(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return folder / "index.html"


def page_data(found: Evaluation, *, files: int = 10, audio: AudioFormat = "mp3", command: Sequence[str] = ()) -> dict[str, Any]:
    """What the page draws: plain data, audio and pictures as data: addresses."""
    facts = found.as_dict()
    names, labels = list(found.seconds), _short(list(found.seconds))
    systems = _systems(found, facts)
    main = next((m for m in MAIN if any(m in s["means"] for s in systems)), next((m for s in systems for m in s["means"]), None))
    scores: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
    for system, result in found.results.items():
        for row in result.report.rows:
            scores[row.name][system] = {key: float(f"{value:.5g}") for key, value in row.scores.items()}
    order = worst_first(found, main)
    players = [_player(found, name, labels[name], names.index(name), audio) for name in order[:files]]
    shown = len(players)
    machine, count = facts["machine"], len(names)
    hint = (f"Players for the {shown} worst of {count} files, worst first by the first system; --report-files asks for more." if shown < count
            else f"Players for all {count} files, worst first." if count > 1 else "One file.") if shown else "The page was made without players; --report-files N asks for them."
    return {
        "title": "wavespike report", "files_hint": hint, "main_metric": main,
        "subtitle": f"{len(systems)} system{'s' * (len(systems) != 1)} on {count} file{'s' * (count != 1)} ({sum(found.seconds.values()):.0f} s) of {Path(found.data).name}",
        "metrics": [_metric(key) for key in _measured(found)], "costs": list(COSTS), "systems": systems, "original": {"means": found.original.means()},
        "files": [{"name": name, "label": labels[name], "seconds": round(found.seconds[name], 3), "scores": scores[name]} for name in names],
        "against": found.against, "differences": _differences(found), "fewest": FEWEST,
        "players": players, "alerts": _alerts(found), "notes": _notes(found),
        "about": [
            ["command", shlex.join(command) if command else "made from Python"],
            ["made", f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, wavespike {wavespike.__version__}"],
            ["data", f"{found.data}: {count} files, {sum(found.seconds.values()):.1f} s"],
            ["settings", f"seed {found.settings.seed}, {'level as it is' if found.settings.peak is None else f'every file scaled to a peak of {found.settings.peak:g}'}, "
                         f"metrics {', '.join(METRICS[m].label for m in _measured(found))}"],
            ["machine", f"{machine['processor']} ({machine['instructions']}), {machine['cores']} cores, {machine['memory_gib']} GiB; {machine['system']}, Python {machine['python']}; "
                        f"{found.threads} thread{'s' * (found.threads != 1)}{_load(found)}"],
            ["versions", ", ".join(f"{k} {v}" for k, v in facts["versions"].items())],
        ],
    }


def _differences(found: Evaluation) -> dict[str, dict[str, dict[str, list[float]]]]:
    """first -> second -> metric -> [mean, low, high, items] of second - first, each pair once; with many systems only against the chosen one."""
    names = list(found.results)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]] if len(names) <= ALL_PAIRS else [(found.against, b) for b in names if b != found.against]
    out: dict[str, dict[str, dict[str, list[float]]]] = {}
    for first, second in pairs:
        out.setdefault(first, {})[second] = {metric: [*(float(f"{x:.4g}") for x in (d.mean, *d.interval)), d.items] for metric, d in found.differences(second, first).items()}
    return out


def worst_first(found: Evaluation, metric: str | None) -> list[str]:
    """The files by the first system's score, the worst first; those it failed at before all others."""
    names = list(found.seconds)
    if metric is None or not found.results:
        return names
    first = next(iter(found.results.values()))
    scores = {row.name: row.scores.get(metric) for row in first.report.rows}
    sign = 1.0 if METRICS[metric].better == "higher" else -1.0

    def badness(name: str) -> tuple[bool, float]:
        value = scores.get(name)
        return (value is not None, 0.0 if value is None else sign * value)

    return sorted(names, key=badness)


def _measured(found: Evaluation) -> list[str]:
    seen = {key for result in found.results.values() for row in result.report.rows for key in (*row.scores, *row.failures)}
    return [key for key in METRICS if key in seen]


def _metric(key: str) -> dict[str, Any]:
    m = METRICS[key]
    low, high = (("−∞" if edge < 0 else "∞") if not np.isfinite(edge) else f"{edge:g}" for edge in m.span)
    return {"key": key, "label": m.label, "unit": m.unit, "better": m.better, "source": m.source, "rate": f"{m.rate_hz / 1000:g} kHz", "range": f"{low} to {high}",
            "digits": 1 if m.unit == "cents" else 2 if m.unit in ("MOS", "MOS-LQO", "dB") else 3}


def _systems(found: Evaluation, facts: dict[str, Any]) -> list[dict[str, Any]]:
    labels = _short(list(found.results), names_are_paths=False)
    out = []
    for name, model in facts["models"].items():
        energy = model["energy"]
        failures = {key: {"count": len(items), "first": next(iter(items.values()))} for key, items in model["metrics"]["failures"].items()}
        twins = [other for other, m in facts["models"].items() if m["twin"] == name]
        about = [model["what"], f"twin of {labels[model['twin']]}" if model["twin"] in labels else f"twin of {labels[twins[0]]}" if twins else "", "" if model["sample_rate"] is None else f"{model['sample_rate'] / 1000:g} kHz"]
        rates = [] if energy is None or not energy["rates"] else list(energy["rates"].values())
        if rates:
            about.append(f"spikes at {100 * sum(rates) / len(rates):.1f} %")
        out.append({"name": name, "label": labels[name], "about": ", ".join(a for a in about if a), "means": model["metrics"]["means"],
                    "intervals": model["metrics"]["intervals"], "failures": failures, "energy": None if energy is None else energy["millijoules_per_second"],
                    **{cost["key"]: model[cost["key"]] for cost in COSTS if cost["key"] != "energy"}})
    return out


def _alerts(found: Evaluation) -> list[str]:
    out = []
    if found.unreadable:
        out.append(f"{len(found.unreadable)} file{'s' * (len(found.unreadable) > 1)} could not be used: {next(iter(found.unreadable.values()))}")
    missing = {key: hint for result in found.results.values() for key, hint in result.report.missing.items()}
    out += [f"{METRICS[key].label} was not computed: {hint}" for key, hint in missing.items()]
    for name, result in found.results.items():
        out += [f"{name}: {problem}" for problem in result.problems]
        failures = result.report.failures()
        if failures:
            out.append(f"{name} has no value for {', '.join(f'{METRICS[k].label} in {len(v)}' for k, v in failures.items())} of {len(found.seconds)} files; they are left out "
                       "of its means (see the notes below).")
    return out


def _notes(found: Evaluation) -> list[list[str]]:
    rows = [["", name, reason] for name, reason in found.unreadable.items()]
    for system, result in found.results.items():
        rows += [[system, name, text] for name, texts in result.notes.items() for text in texts]
        rows += [[system, f"{METRICS[key].label}: {name}", reason] for key, items in result.report.failures().items() for name, reason in items.items()]
    return rows


def _load(found: Evaluation) -> str:
    load = next((result.load for result in found.results.values() if result.load is not None), None)
    return "" if load is None else f"; load average {load:.1f} when speed was measured"


def _short(names: list[str], names_are_paths: bool = True) -> dict[str, str]:
    """Names without what all have in common; for systems the last part of a path where that tells them apart."""
    if not names_are_paths:
        last = {name: name if "/" not in name else name.rstrip("/").rsplit("/", 1)[-1] for name in names}
        short = list(last.values())
        return {name: text if short.count(text) == 1 else name for name, text in last.items()}
    if len(names) == 1:
        return {names[0]: Path(names[0]).name}
    common = os.path.commonpath([str(Path(name).parent) for name in names]) if len({Path(n).is_absolute() for n in names}) == 1 else ""
    return {name: os.path.relpath(name, common) if common else name for name in names}


def _player(found: Evaluation, name: str, label: str, index: int, audio: AudioFormat) -> dict[str, Any]:
    original, rate_hz = found.read(name)
    loudest = [float(_mel(original, rate_hz).max())]
    tracks = next((row.tracks for result in found.results.values() for row in result.report.rows if row.name == name and row.tracks), {})
    out: dict[str, Any] = {"file": index, "label": label, "seconds": original.size / rate_hz, "rate_hz": rate_hz, "hop_s": pitch.HOP_S,
                           "f_min_hz": pitch.F_MIN_HZ, "f_max_hz": pitch.F_MAX_HZ,
                           "original": {**_medium(original, rate_hz, loudest[0], audio), "pitch": tracks.get("reference")}, "systems": {}}
    for system, result in found.results.items():
        try:
            made = found.made(system, name).at(rate_hz)
        except RETRIED as error:
            out["systems"][system] = {"audio": None, "error": str(error) if isinstance(error, WavespikeError) else f"{type(error).__name__}: {error}"}
            continue
        row = next(row for row in result.report.rows if row.name == name)
        length = original.size
        made = made[:length] if made.size >= length else np.pad(made, (0, length - made.size))
        if not np.isfinite(made).all():
            out["systems"][system] = {"audio": None, "error": "the output is not finite"}
            continue
        out["systems"][system] = {**_medium(made, rate_hz, loudest[0], audio), "pitch": row.tracks.get("estimate")}
    return out


def _medium(samples: Samples, rate_hz: int, loudest: float, audio: AudioFormat) -> dict[str, str]:
    return {"audio": audio_address(samples, rate_hz, audio), "image": "data:image/png;base64," + base64.b64encode(spectrogram_png(samples, rate_hz, loudest)).decode()}


def audio_address(samples: Samples, rate_hz: int, audio: AudioFormat) -> str:
    """Mono samples [T] as a data: address; a rate that the format cannot hold is resampled to the next higher one."""
    if rate_hz not in _RATES.get(audio, (rate_hz,)):
        to_hz = next((r for r in _RATES[audio] if r > rate_hz), _RATES[audio][-1])
        samples, rate_hz = resample(samples, rate_hz, to_hz), to_hz
    container, subtype, kind = _CONTAINERS[audio]
    buffer = io.BytesIO()
    options: dict[str, Any] = {"compression_level": 0.0, "bitrate_mode": "VARIABLE"} if audio == "mp3" else {}
    soundfile.write(buffer, np.clip(samples, -1.0, 1.0), rate_hz, format=container, subtype=subtype, **options)
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _mel(samples: Samples, rate_hz: int) -> NDArray[np.float32]:
    """Natural-log mel magnitude [MEL_BANDS, L] of every 8 ms or, for long signals, of `WIDEST` steps."""
    n_fft = max(256, 2 ** round(np.log2(0.043 * rate_hz)))
    hop = max(round(0.008 * rate_hz), -(-samples.size // WIDEST))
    config = MelConfig(sample_rate=rate_hz, n_fft=max(n_fft, 2 ** int(np.ceil(np.log2(hop)))), hop_length=hop, n_mels=MEL_BANDS)
    short = np.pad(samples, (0, max(0, config.n_fft - samples.size)))
    with torch.inference_mode():
        out: NDArray[np.float32] = log_mel(torch.from_numpy(np.ascontiguousarray(short, np.float32)), config).numpy()
    return out


def spectrogram_png(samples: Samples, rate_hz: int, loudest: float) -> bytes:
    """A palette PNG of the log-mel spectrogram of samples [T]; `loudest` is the natural-log magnitude drawn brightest."""
    level_db = (_mel(samples, rate_hz) - loudest) * (20.0 / np.log(10.0))
    indices = np.clip(np.round((level_db / RANGE_DB + 1.0) * (LEVELS - 1)), 0, LEVELS - 1).astype(np.uint8)[::-1]
    return palette_png(np.ascontiguousarray(indices), _palette(LEVELS))


def _palette(size: int) -> NDArray[np.uint8]:
    """[size, 3] from black over purple and orange to pale yellow, evenly brighter (matplotlib's magma, at ten points)."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in _COLOURS], np.float64)
    at = np.linspace(0, len(anchors) - 1, size)
    return np.stack([np.interp(at, np.arange(len(anchors)), anchors[:, k]) for k in range(3)], 1).round().astype(np.uint8)


def palette_png(indices: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """Indices [H, W] and colours [n <= 256, 3] -> a PNG file (RFC 2083)."""
    height, width = indices.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.concatenate([np.zeros((height, 1), np.uint8), indices], 1)  # filter 0 before each row
    return b"".join((b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)), chunk(b"PLTE", palette.tobytes()),
                     chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)), chunk(b"IEND", b"")))
