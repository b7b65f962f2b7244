"""What several verbs share: the default model, loading a vocoder, a progress bar, the option for sample formats."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from wavespike.models.base import Codec, Model, Vocoder

DEFAULT_MODEL = "vocos-24k"
"""The model of a verb that is not told one."""
DEFAULT_CODEC = "codec-24k"
"""The same for the verbs of codecs."""


def add_model(parser: Any) -> None:
    parser.add_argument("--model", type=str, default=DEFAULT_MODEL, help="a model's name (wavespike models), a folder with a checkpoint, or a hub id")


def add_sample_format(parser: Any) -> None:
    parser.add_argument("--sample-format", choices=["int16", "int24", "int32", "float"], default="int16", help="samples of WAV (and int16, int24 of FLAC) files")


def add_bandwidth(parser: Any) -> None:
    parser.add_argument("--bandwidth-id", type=int, default=None, help="which bitrate, 0 is the lowest (models with EnCodec features only)")


def add_sampling(parser: Any, seed: bool = True) -> None:
    parser.add_argument("--steps", type=int, default=None, help="sampling steps (diffusion models only)")
    parser.add_argument("--sampler", type=str, default=None, help="ddpm, ddim or dpm2 (diffusion models only)")
    if seed:
        parser.add_argument("--seed", type=int, default=None, help="seed of the noise; the same seed gives the same audio (diffusion models only)")


def sampling(args: Any) -> dict[str, Any]:
    """Those of the options of `add_sampling` that were given."""
    return {name: value for name in ("steps", "sampler", "seed") if (value := getattr(args, name, None)) is not None}


def samples(model: Any) -> bool:
    """Whether a model is a diffusion model: one that samples in steps."""
    return hasattr(model, "plan")


def bandwidth(args: Any) -> dict[str, Any]:
    """The condition of `add_bandwidth`, where it was given."""
    if args.bandwidth_id is None:
        return {}
    import torch

    return {"bandwidth_id": torch.tensor([args.bandwidth_id])}


def condition(args: Any, model: Any) -> dict[str, Any]:
    """What a model's `features`, `decode` and `stream` are told besides the signal. Raises UsageError for sampling options where nothing is sampled."""
    from wavespike.errors import UsageError

    out = sampling(args)
    if out and not samples(model):
        raise UsageError(f"--{next(iter(out))}: expected a diffusion model for sampling options, got a {model.config.type_name}; leave it out")
    if out:
        model.plan(**out)  # a wrong value is told before any work
    return {**out, **bandwidth(args)}


def by_steps(model: Any, told: dict[str, Any], advance: Callable[[float], None]) -> tuple[dict[str, Any], Callable[[float], None]]:
    """For a diffusion model a bar that moves with every sampling step, instead of with the input: the condition and the advance to use."""
    if not samples(model):
        return told, advance
    each = 1.0 / (model.sample_rate * len(model.plan(**told).levels))
    return {**told, "progress": lambda step, count: advance(count * each)}, lambda seconds: None


ENGINES = ("auto", "dense", "compiled", "events", "onnx")
"""Those of `runtime.engines`, which a parser cannot ask without importing PyTorch."""


def add_engine(parser: Any, int8: bool = True) -> None:
    parser.add_argument("--engine", choices=ENGINES, default="auto",
                        help="what runs the network: PyTorch, PyTorch with a compiled head, its spikes one by one, or ONNX Runtime; auto: events for spiking models where Numba is installed")
    if int8:
        parser.add_argument("--int8", action="store_true", help="8-bit weights, for events and onnx: faster, a little less exact")


def load_vocoder(name: str, engine: str = "dense", int8: bool = False) -> Vocoder[Any]:
    """`wavespike.load`, refusing what is no vocoder with UsageError."""
    from wavespike.errors import UsageError
    from wavespike.hub.load import load
    from wavespike.models.base import Vocoder

    model: Model[Any] = load(name, engine=engine, int8=int8)
    if not isinstance(model, Vocoder):
        raise UsageError(f"{name}: expected a vocoder, got a {model.kind}; `wavespike models` lists what each model is")
    return model


def load_codec(name: str, decoder: str | None = None) -> Codec[Any]:
    """`wavespike.load`, refusing what is no codec with UsageError."""
    from wavespike.errors import UsageError
    from wavespike.hub.load import load
    from wavespike.models.base import Codec

    model: Model[Any] = load(name, decoder=decoder)
    if not isinstance(model, Codec):
        raise UsageError(f"{name}: expected a codec, got a {model.kind}; `wavespike models` lists what each model is")
    return model


def note(text: str) -> None:
    """A line for the person, beside the output proper."""
    print(f"wavespike: {' '.join(text.split())}", file=sys.stderr)


@contextlib.contextmanager
def progress(what: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr when it is a terminal; yields advance(amount). `total` None shows work of unknown length."""
    if not sys.stderr.isatty():
        yield lambda amount: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)


def duration_text(seconds: float) -> str:
    """`0.52 s`, `1 min 5 s`, `60 min 0 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.2f} s"


def load_mono(path: str, rate_hz: int) -> Tensor:
    """An audio file as [1, T] at a rate, its channels averaged. Raises AudioError."""
    import torch

    from wavespike.signal.files import read

    samples, _ = read(path, rate_hz)
    return torch.from_numpy(samples).mean(0, keepdim=True)
