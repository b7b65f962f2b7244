"""`wavespike doctor`: versions, which extras are installed and the pip line for those that are not, threads, and a self-test."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import platform
import re
import sys
from typing import Any

from wavespike.cli.common import DEFAULT_MODEL


def add_arguments(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    import torch

    import wavespike

    core, extras = _packages()
    test = _self_test()
    report = {"wavespike": wavespike.__version__, "python": platform.python_version(), "system": platform.platform(), "executable": sys.executable,
              "processors": os.cpu_count(), "torch_threads": torch.get_num_threads(), "cuda": torch.cuda.is_available(),
              "libsndfile": _libsndfile(), "core": core, "extras": extras, "self_test": test}
    good = bool(test["passed"]) and all(core.values())
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _show(report)
    return 0 if good else 1


def _packages() -> tuple[dict[str, str | None], dict[str, dict[str, Any]]]:
    """(core package -> version, extra -> {packages, complete, install}), from the installed package's own metadata."""
    core: dict[str, str | None] = {}
    extras: dict[str, dict[str, Any]] = {}
    try:
        lines = metadata.requires("wavespike") or []
    except metadata.PackageNotFoundError:  # run from a folder of sources
        lines = []
    for line in lines:
        name = re.split(r"[\s<>=!~;\[(]", line, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        if extra:
            extras.setdefault(extra[1], {"packages": {}})["packages"][name] = _version(name)
        else:
            core[name] = _version(name)
    for name, entry in extras.items():
        entry["complete"] = all(entry["packages"].values())
        entry["install"] = None if entry["complete"] else f"pip install 'wavespike[{name}]'"
    return core, extras


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _libsndfile() -> str:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return f"missing ({error})"
    return str(soundfile.__libsndfile_version__)


def _self_test() -> dict[str, Any]:
    """Half a second of a tone through the default model, twice: finite, of the right length, close to the tone's mel, and the same both times."""
    import torch

    from wavespike.errors import WavespikeError
    from wavespike.hub.load import load
    from wavespike.metrics.quality import mel_l1
    from wavespike.metrics.speed import measure

    name = DEFAULT_MODEL
    try:
        model: Any = load(name)
        samples = model.hop_length * (model.sample_rate // 2 // model.hop_length)
        time = torch.arange(samples) / model.sample_rate
        tone = sum(torch.cos(2 * torch.pi * 150 * k * time) / k for k in range(1, 20)) * 0.1
        assert isinstance(tone, torch.Tensor)
        with torch.inference_mode():
            first, second = model(tone[None])[0], model(tone[None])[0]
            speed = measure(lambda: model(tone[None]), samples / model.sample_rate, warm_up=0)
        distance = mel_l1(tone, first, model.sample_rate)
    except (WavespikeError, RuntimeError, ImportError, OSError) as error:
        return {"model": name, "passed": False, "reason": f"{type(error).__name__}: {error}"}
    checks = {"finite": bool(torch.isfinite(first).all()), "length": first.numel() == samples, "repeatable": bool(torch.equal(first, second)),
              "mel_l1_below_1": distance < 1.0}
    return {"model": name, "passed": all(checks.values()), "checks": checks, "mel_l1": round(distance, 4), "times_real_time": round(speed.times_real_time, 1)}


def _show(report: dict[str, Any]) -> None:
    print(f"wavespike {report['wavespike']}, Python {report['python']}, {report['system']}")
    print(f"{report['processors']} processors, torch uses {report['torch_threads']} thread(s){', CUDA' if report['cuda'] else ''}, libsndfile {report['libsndfile']}")
    print("core    " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in report["core"].items()))
    for name, entry in report["extras"].items():
        if entry["complete"]:
            print(f"[{name}] " + ", ".join(f"{package} {version}" for package, version in entry["packages"].items()))
        else:
            absent = ", ".join(package for package, version in entry["packages"].items() if version is None)
            print(f"[{name}] lacks {absent}: {entry['install']}")
    test = report["self_test"]
    if test["passed"]:
        print(f"self-test passed: {test['model']}, {test['times_real_time']} x real time")
    else:
        failed = test.get("reason") or "failed: " + ", ".join(name for name, good in test["checks"].items() if not good)
        print(f"self-test FAILED: {test['model']}, {failed}")
