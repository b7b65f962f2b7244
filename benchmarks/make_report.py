"""The README's table and the quality section of docs/benchmarks.md, from `wavespike eval --report` over every bundled model that gives speech back and its peers.

    python benchmarks/make_report.py [--data LIST] [--about "70 utterances of ..."] [--model MORE ...] [--against NAME] [--limit N] [--out report] [--no-write]

Without --data the speech that the package ships is judged. Work that is finished is kept in OUT/cache by content: a stopped run goes on, and a second run computes only
what changed (new weights: one system; new code: the sound anew, and scores where it differs). Speed is measured every time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import common
from wavespike.assets import SAMPLE
from wavespike.cli.common import DEFAULT_MODEL
from wavespike.cli.main import main as wavespike
from wavespike.hub.cards import twin_of
from wavespike.hub.load import load, presets
from wavespike.metrics.intervals import FEWEST
from wavespike.metrics.panel import METRICS, Report, Row

README = common.ROOT / "README.md"
COMMAND = "make report"
SHORT = ("pesq_wb", "visqol", "stoi", "dnsmos_ovrl", "dnsmos_p808", "vuv_f1")
"""The README's metrics; docs/benchmarks.md has all."""


def systems() -> tuple[list[str], list[str]]:
    """(names for --model, what is left out and why): the bundled models that give speech back, codecs at half their bitrate too, then the peers that this machine has.

    The default model is first (it orders the files, and the others are compared with it), vocoders stand before codecs and models without a network behind the others.
    """
    vocoders, codecs, left_out = [], [], []
    for name in sorted(presets(), key=lambda name: (name != DEFAULT_MODEL, twin_of(name) != DEFAULT_MODEL, name)):
        model = load(name)
        if model.kind == "vocoder":
            vocoders.append((model.parameter_count() == 0, name))
        elif model.kind == "codec":
            codecs += [name, f"{name}@{model.bitrate / 2000:g}"]
        else:
            left_out.append(f"{name} is a {model.kind} (judged in docs/recognition.md)")
    names = [name for _, name in sorted(vocoders, key=lambda pair: pair[0])]
    if importlib.util.find_spec("pyworld") is not None:
        names.append("world")
    else:
        left_out.append("world needs the extra `pitch`")
    names += codecs
    if shutil.which("opusenc") and shutil.which("opusdec"):
        names += ["opus:6", "opus:12", "opus:24"]
    else:
        left_out.append("opus needs opus-tools")
    return names, left_out


NEED_WEIGHTS = {"encodec": "EnCodec needs its weights: MODELS=encodec:FOLDER:6", "pypi-vocos": "the PyPI package vocos needs a published checkpoint: MODELS=pypi-vocos:FOLDER"}
"""Peers whose weights are not on every machine -> what names them."""


def evaluate(names: list[str], data: Path, out: Path, limit: int | None, processes: int | None, against: str | None) -> tuple[dict[str, Any], str]:
    """Runs the command -> (results.json, what it said)."""
    words = ["eval", "--data", str(data), "--report", str(out), "--time-again", "--model", *names]
    words += ["--limit", str(limit)] if limit else []
    words += ["--processes", str(processes)] if processes else []
    words += ["--against", against] if against else []
    with contextlib.redirect_stdout(io.StringIO()) as said, mock.patch.object(sys, "argv", ["wavespike", *words]):  # the page shows the command
        code = wavespike(words)
    if code not in (0, 1) or not (out / "results.json").is_file():
        raise SystemExit(f"wavespike {' '.join(words)} failed with exit code {code}")
    return json.loads((out / "results.json").read_text(encoding="utf-8")), said.getvalue()


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def significant(value: float | None) -> str:
    """Three significant digits."""
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def signed(mean: float, low: float, high: float, digits: int) -> str:
    """A difference with its interval, in more digits where these would hide that it is not zero."""
    digits = min(6, max([digits, *(-math.floor(math.log10(abs(v))) for v in (mean, low, high) if v)]))
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def digits_of(metric: str) -> int:
    return 1 if METRICS[metric].unit == "cents" else 2 if METRICS[metric].unit in ("MOS", "MOS-LQO", "dB") else 3


def heading(metric: str) -> str:
    m = METRICS[metric]
    return f"{m.label}{f' ({m.unit})' if m.unit and not m.unit.startswith('MOS') else ''} {'↑' if m.better == 'higher' else '↓'}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    rule = "|---|" + "".join("---|" if name == WHAT else "---:|" for name in head[1:])
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


def measured(results: dict[str, Any], wanted: tuple[str, ...] | None = None) -> list[str]:
    found = {key for model in results["models"].values() for key in model["metrics"]["means"]}
    return [key for key in METRICS if key in found and (wanted is None or key in wanted)]


def what(name: str, results: dict[str, Any]) -> str:
    """Dense, spiking, diffusion or no network; vocoder or codec; and whose twin."""
    models = results["models"]
    model = models[name]
    twins = [other for other, m in models.items() if m["twin"] == name]
    return model["what"] + (f", twin of `{model['twin']}`" if model["twin"] in models else f", twin of `{twins[0]}`" if twins else "")


def costs(model: dict[str, Any]) -> list[str]:
    """Times real time on one thread, energy, energy over the dense twin's, bitrate."""
    speed = model["real_time_factor_1_thread"]
    return ["" if speed is None else f"{1 / speed:.0f}" if speed < 0.1 else f"{1 / speed:.1f}", "" if model["energy"] is None else significant(model["energy"]["millijoules_per_second"]),
            number(model["energy_over_twin"], 2), "" if model["bitrate_bps"] is None else f"{model['bitrate_bps'] / 1000:.1f}"]


WHAT = "what it is"
COSTS = ["x real time, 1 thread", "energy (mJ/s)", "energy / twin's", "bitrate (kbit/s)"]


def short_table(results: dict[str, Any]) -> str:
    keys = measured(results, SHORT)
    rows = [["original", "", *(number(results["original"]["metrics"]["means"].get(k), digits_of(k)) for k in keys), "", "", "", "", ""]]
    for name, model in results["models"].items():
        rows.append([f"`{name}`", what(name, results), *(number(model["metrics"]["means"].get(k), digits_of(k)) for k in keys), *costs(model),
                     f"{model['parameters'] / 1e6:.2f} M" if model["parameters"] else ""])
    return markdown(["system", WHAT, *map(heading, keys), *COSTS, "parameters"], rows)


def quality_table(results: dict[str, Any], names: list[str]) -> str:
    """Means with intervals; systems stand in columns: there are more metrics."""
    rows = []
    for key in measured(results):
        row = [heading(key), number(results["original"]["metrics"]["means"].get(key), digits_of(key))]
        for name in names:
            metrics = results["models"][name]["metrics"]
            value, interval = metrics["means"].get(key), metrics["intervals"].get(key)
            left_out = len(metrics["failures"].get(key, {}))
            text = number(value, digits_of(key))
            if interval:
                text += f" ({number(interval[0], digits_of(key))} to {number(interval[1], digits_of(key))})"
            row.append(text + (f" −{left_out}" if left_out else ""))
        if any(row[2:]):
            rows.append(row)
    return markdown(["metric", "original", *(f"`{n}`" for n in names)], rows)


def difference_table(results: dict[str, Any], names: list[str]) -> str:
    """Mean differences on the same files with intervals, bold where these leave out zero: from the system to compare with, or from the first where that is of another kind."""
    against = results["against"] if results["against"] in names else names[0]
    reports = {n: Report([Row(i["name"], {k: v for k, v in i.items() if k != "name"}, {}) for i in results["models"][n]["metrics"]["items"]], {}) for n in names}
    found = {n: reports[n].differences(reports[against], results["seed"]) for n in names if n != against}
    rows = []
    for key in measured(results):
        row = [heading(key)]
        for differences in found.values():
            d = differences.get(key)
            text = "" if d is None else signed(d.mean, *d.interval, digits=digits_of(key))
            row.append(f"**{text}** {d.verdict}" if d is not None and d.verdict else text)
        if any(row[1:]):
            rows.append(row)
    return markdown([f"difference from `{against}`", *(f"`{n}`" for n in found)], rows) if rows else ""


def long_tables(results: dict[str, Any]) -> str:
    """What stands in the tables, quality, differences and costs: vocoders first, then codecs."""
    models = results["models"]
    groups = {"Vocoders: features to waveform": [n for n, m in models.items() if m["kind"] == "vocoder"], "Codecs: waveform to bits to waveform": [n for n, m in models.items() if m["kind"] == "codec"],
              "Files of others": [n for n, m in models.items() if m["kind"] not in ("vocoder", "codec")]}
    parts = []
    for title, names in groups.items():
        if names:
            parts += [f"### {title}", quality_table(results, names), difference_table(results, names)]
    price = markdown(["system", WHAT, *COSTS, "x real time, all threads", "peak memory (MiB)", "published energy ratio", "parameters"],
                     [[f"`{n}`", what(n, results), *costs(m), "" if m["times_real_time"] is None else significant(m["times_real_time"]), number(m["peak_memory_mb"], 0),
                       "" if m["energy"] is None or m["energy"]["published_ratio"] is None else f"{m['energy']['published_ratio']:.3f}",
                       number(m["parameters"], 0) if m["parameters"] is not None else ""] for n, m in models.items()])
    return "\n\n".join(part for part in [*parts, "### Costs", price] if part)


def timed(results: dict[str, Any]) -> str:
    """How busy the machine was when the speeds were measured."""
    load = next((m["load_when_timed"] for m in results["models"].values() if m["load_when_timed"] is not None), None)
    return "" if load is None else f"; load average {load:.1f} when it was measured"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SAMPLE, help="a list, a folder or a file; default: the bundled speech")
    parser.add_argument("--about", default="", help="what the data is, for the caption")
    parser.add_argument("--model", nargs="+", default=[], help="more systems than the bundled models and the peers of this machine")
    parser.add_argument("--against", help="the system that the others are compared with (default: the bundled default model)")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--out", type=Path, default=common.ROOT / "report")
    parser.add_argument("--no-write", action="store_true", help="leave README.md and docs/ as they are")
    args = parser.parse_args()
    names, left_out = systems()
    left_out += [text for peer, text in NEED_WEIGHTS.items() if not any(name.startswith(f"{peer}:") for name in args.model)]
    results, said = evaluate([*names, *args.model], args.data, args.out, args.limit, args.processes, args.against)
    print(said)
    if args.no_write:
        return
    count = results["files"]
    seconds = max(model["seconds"] for model in results["models"].values())
    about = args.about or ("the bundled sample" if args.data == SAMPLE else args.data.name)
    data = f"{about} ({count} file{'s' * (count != 1)}, {seconds:.0f} s)"
    missing = {key: hint for model in results["models"].values() for key, hint in model["metrics"]["missing"].items()}
    notes = [f"- Left out: {text}." for text in left_out] + [f"- {METRICS[key].label} was not computed: {hint}." for key, hint in missing.items()]
    notes += [f"- {len(results['unreadable'])} files could not be used."] if results["unreadable"] else []
    common.write_section("report", f"""
{short_table(results)}

Copy-synthesis of {data}:
means; energy counted for 45 nm. All metrics with their intervals and what differs are in [docs/benchmarks.md](docs/benchmarks.md), their sources in
[docs/metrics.md](docs/metrics.md). {common.stamp(COMMAND)}
""", README, COMMAND)
    common.write_section("report", f"""
## Quality, speed, energy and bitrate of all bundled models and their peers

{long_tables(results)}

- Data: {data}. Means with bootstrap 95 % intervals over the files; −n: so many files have no value. Each metric's source and valid rate: [metrics](metrics.md).
- Differences are means over the same files with bootstrap 95 % intervals: bold where the interval leaves out zero and there are at least {FEWEST} files, and then said whether it is better or
  worse. One in twenty would be bold by chance alone.
- Energy is counted from the real tensors of 2 s of speech and priced for 45 nm; it is features to waveform for vocoders, waveform to waveform for codecs. A spiking model stands beside its
  dense twin, over whose energy its own is given. The published ratio is Spiking Vocos's accounting of the blocks, spiking over dense ([spiking](spiking.md)).
- Speed, waveform to waveform, is that of the first 5 s of the first file, spiking models by events{timed(results)}.
{chr(10).join([*notes, f"- {common.stamp(COMMAND)}"])}
""", common.PAGE, COMMAND)


if __name__ == "__main__":
    main()
