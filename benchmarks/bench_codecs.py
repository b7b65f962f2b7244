"""Speed of codecs on one thread: one hop at a time as in a live session, and ten seconds at once; many sessions on two threads.

All contenders run in one process, one after another in every round, on the same speech; a ratio is the median over the rounds of (computing time a
second of audio of the reference in that round / that of the contender). Encoding, the search in the codebooks and decoding count, from waveform to
waveform. Weights are random where a model is not bundled: speed does not ask for them.

    python benchmarks/bench_codecs.py [--rounds 9] [--hops 80] [--seconds 10] [--no-write] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import common
import wavespike
from wavespike.assets import SAMPLE
from wavespike.models.registry import build
from wavespike.runtime import compiled
from wavespike.runtime.frame_codec import frame_stream
from wavespike.signal.files import read
from wavespike.training.config import train_config
from wavespike.training.recipe import read_recipe

REFERENCE = "AudioDec 24 kHz (symAD, LibriTTS)"
RECIPES = common.ROOT / "recipes" / "codec"
SESSIONS = 50


class Skip(Exception):
    """A contender that cannot run here, with the reason."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """`live` opens a session of so many streams: a function from a chunk [B, 1, t] to nothing of interest; `whole` takes audio [1, 1, T] to audio."""

    name: str
    sample_rate: int
    hop: int
    live: Callable[[int], Callable[[Tensor], Any]] | None
    whole: Callable[[Tensor], Any] | None


def of_recipe(name: str) -> Any:
    """The model of a recipe with random weights."""
    torch.manual_seed(0)
    return build_of(train_config(read_recipe(RECIPES / f"{name}.yaml")))


def build_of(config: Any) -> Any:
    from wavespike.config import to_dict

    return build(to_dict(config.model)).eval().requires_grad_(False)


def session_of(open_session: Callable[[], Any]) -> Callable[[Tensor], Any]:
    session = open_session()
    return lambda chunk: session.decode(session.encode(chunk))


def ours(name: str, model: Any) -> Contender:
    return Contender(name, model.sample_rate, model.hop, lambda n: session_of(lambda: model.stream(n)), model)


def of_frames(name: str, engines: tuple[str, ...]) -> list[Contender]:
    """A codec of frames, with its bundled weights where there are some, by every engine that can run it here."""
    model = (wavespike.load(name) if name in wavespike.presets() else of_recipe(name)).requires_grad_(False)
    spelled = {"compiled": "compiled hops", "onnx": "ONNX Runtime", "torch": "PyTorch, folded steps"}

    def by(engine: Any) -> Contender:
        return Contender(f"{name}, {spelled[engine]}", model.sample_rate, model.hop,
                         lambda n: session_of(lambda: frame_stream(model, n, engine=engine, threads=torch.get_num_threads())), None)

    return [*(by(engine) for engine in engines), ours(f"{name}, PyTorch, model.stream", model)]


def encodec() -> Contender:
    try:
        from transformers import EncodecConfig, EncodecModel
    except ImportError as error:
        raise Skip("transformers is not installed") from error
    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig()).eval().requires_grad_(False)

    def whole(audio: Tensor) -> Any:
        coded = model.encode(audio, bandwidth=6.0)
        return model.decode(coded.audio_codes, coded.audio_scales)

    return Contender("EnCodec 24 kHz, 6 kbit/s (transformers)", 24000, 320, None, whole)


def contenders() -> tuple[list[Contender], dict[str, str]]:
    found = [ours(REFERENCE, of_recipe("symad-libritts-24k"))]
    quick = ("compiled",) if compiled.available() else ()
    found += [*of_frames("codec-24k", (*quick, "onnx", "torch")), *of_frames("fourier-24k", ("onnx",))]
    found += [ours("AudioDec 24 kHz, narrow (audiodec-24k)", of_recipe("audiodec-24k")), ours("AudioDec 48 kHz (symAD, VCTK)", of_recipe("symad-vctk-48k")),
              ours("AudioDec 48 kHz (v1, VCTK)", of_recipe("vocoder-v1-vctk-48k"))]
    skipped = {}
    try:
        found.append(encodec())
    except Skip as reason:
        skipped["EnCodec"] = str(reason)
    return found, skipped


def speech(sample_rate: int, seconds: float) -> Tensor:
    """The bundled speech, repeated to `seconds` [1, 1, T]."""
    samples, rate_hz = read(SAMPLE, sample_rate)
    mono = torch.from_numpy(samples[:1].copy())
    return mono.repeat(1, 1 + int(seconds * rate_hz / mono.shape[1]))[None, :, : int(seconds * rate_hz)]


def timed(work: Callable[[Tensor], Any], x: Tensor) -> float:
    start = time.perf_counter()
    work(x)
    return time.perf_counter() - start


@torch.inference_mode()
def run(found: list[Contender], rounds: int, hops: int, seconds: float) -> tuple[dict[str, list[list[float]]], dict[str, list[float]]]:
    """Seconds of every hop by round, for contenders with sessions; seconds a second of audio of the whole by round."""
    torch.set_num_threads(1)
    sessions = {c.name: c.live(1) for c in found if c.live is not None}
    audio = {c.name: speech(c.sample_rate, seconds) for c in found}
    chunks = {c.name: audio[c.name].split(c.hop, -1)[:hops] for c in found}
    for c in found:  # warm
        if c.name in sessions:
            for chunk in chunks[c.name][:20]:
                sessions[c.name](chunk)
        if c.whole is not None:
            c.whole(audio[c.name][..., : c.sample_rate // c.hop * c.hop])
    live: dict[str, list[list[float]]] = {name: [] for name in sessions}
    whole: dict[str, list[float]] = {c.name: [] for c in found if c.whole is not None}
    for _ in range(rounds):
        for c in found:
            if c.name in sessions:
                push = sessions[c.name]
                live[c.name].append([timed(push, chunk) for chunk in chunks[c.name]])
            if c.whole is not None:
                whole[c.name].append(timed(c.whole, audio[c.name]) / seconds)
    return live, whole


@torch.inference_mode()
def many(found: list[Contender], hops: int) -> dict[str, tuple[float, float]]:
    """Median and 99th percentile in seconds of one hop of `SESSIONS` sessions at once, on two threads."""
    torch.set_num_threads(2)
    out = {}
    for c in found:
        if c.live is None or "codec-24k" not in c.name:
            continue
        push = c.live(SESSIONS)
        chunks = [x.repeat(SESSIONS, 1, 1) for x in speech(c.sample_rate, 2.0).split(c.hop, -1)[:-1]]
        for x in chunks[:10]:
            push(x)
        times = sorted(timed(push, chunks[i % len(chunks)]) for i in range(hops))
        out[c.name] = times[len(times) // 2], times[int(0.99 * len(times))]
    torch.set_num_threads(1)
    return out


def ratios(reference: list[float], own: list[float]) -> tuple[float, float, float]:
    """Median and middle half of the ratios inside a round."""
    values = sorted(a / b for a, b in zip(reference, own, strict=True))
    quarter = len(values) // 4
    return statistics.median(values), values[quarter], values[-1 - quarter]


def summary(found: list[Contender], live: dict[str, list[list[float]]], whole: dict[str, list[float]]) -> list[dict[str, Any]]:
    by_name = {c.name: c for c in found}

    def a_second(name: str) -> list[float]:
        c = by_name[name]
        return [statistics.mean(hops) * c.sample_rate / c.hop for hops in live[name]]

    rows = []
    for c in found:
        row: dict[str, Any] = {"name": c.name, "hop_ms": 1000 * c.hop / c.sample_rate}
        if c.name in live:
            times = sorted(t for hops in live[c.name] for t in hops)
            row |= {"p50_ms": 1000 * times[len(times) // 2], "p99_ms": 1000 * times[int(0.99 * len(times))],
                    "live_times_real_time": 1 / statistics.median(a_second(c.name)), "live_ratio": ratios(a_second(REFERENCE), a_second(c.name))}
        if c.name in whole:
            row |= {"whole_times_real_time": 1 / statistics.median(whole[c.name]), "whole_ratio": ratios(whole[REFERENCE], whole[c.name])}
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| contender | hop (ms) | one hop, p50 / p99 (ms) | x real time | speed | ten seconds at once, x real time | speed |", "|---|" + "---:|" * 6]
    for r in rows:
        live = [f"{r['p50_ms']:.2f} / {r['p99_ms']:.2f}", f"{r['live_times_real_time']:.1f}", "{:.2f} ({:.2f} to {:.2f})".format(*r["live_ratio"])] if "p50_ms" in r else ["-"] * 3
        whole = [f"{r['whole_times_real_time']:.1f}", "{:.2f} ({:.2f} to {:.2f})".format(*r["whole_ratio"])] if "whole_ratio" in r else ["-"] * 2
        lines.append("| " + " | ".join([r["name"], f"{r['hop_ms']:.2f}", *live, *whole]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--hops", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--no-write", action="store_true", help="leave docs/ as it is")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    found, skipped = contenders()
    live, whole = run(found, args.rounds, args.hops, args.seconds)
    rows = summary(found, live, whole)
    together = many(found, args.hops)
    print(table(rows))
    for name, (p50, p99) in together.items():
        print(f"{SESSIONS} sessions, 2 threads: {name}: {1000 * p50:.2f} ms a hop of 12.5 ms, p99 {1000 * p99:.2f} ms")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "sessions": together, "skipped": skipped, "machine": common.machine()}, indent=2))
    if args.no_write:
        return
    notes = "".join(f"\n- Not run: {name} ({reason})." for name, reason in skipped.items())
    sessions = "\n".join(f"| {name} | {1000 * p50:.2f} | {1000 * p99:.2f} | {0.0125 / p50:.2f} |" for name, (p50, p99) in together.items())
    common.write_section("bench_codecs", f"""
## Codecs: waveform to codes to waveform, one thread

{table(rows)}

{SESSIONS} sessions at once, in one batch, on two threads; a hop is 12.5 ms, so 1 x real time keeps all of them going:

| contender | one hop of all, p50 (ms) | p99 (ms) | x real time |
|---|---:|---:|---:|
{sessions}

- Speed is relative to {REFERENCE}: the median over {args.rounds} rounds of the ratio of computing time a second of audio (in brackets the middle half). A
  live session codes and decodes one hop at a time; EnCodec's port has no session. Compare ratios; times change with the machine and what else it does.{notes}
- {common.stamp("make bench")}
""")


if __name__ == "__main__":
    main()
