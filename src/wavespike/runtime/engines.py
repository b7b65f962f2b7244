"""Which code runs a model: PyTorch (`dense`), PyTorch with a compiled head (`compiled`), the event-driven kernels (`events`), or ONNX Runtime (`onnx`). The model
stays the same model.

    model = wavespike.load("spiking-vocos-24k", engine="auto")

`auto` takes events for a model with spiking layers where Numba is installed, and dense otherwise: to load compiled code costs a third of a second, which half a
minute of audio has to win back.
"""

from __future__ import annotations

from typing import Any

from wavespike.errors import UsageError, nearest
from wavespike.models.base import Model

ENGINES = ("auto", "dense", "compiled", "events", "onnx")


def check_engine(engine: str, int8: bool = False) -> None:
    """Raises UsageError for an unknown name, or 8-bit weights for an engine without them."""
    if engine not in ENGINES:
        raise UsageError(f"expected an engine of {', '.join(ENGINES)}, got {engine!r}{nearest(engine, ENGINES)}")
    if int8 and engine in ("dense", "compiled"):
        raise UsageError(f"expected engine events or onnx for 8-bit weights, got {engine}; leave int8 out or choose another engine")


def chosen(model: Model[Any], engine: str) -> str:
    """What `auto` means for a model."""
    from wavespike.runtime import events

    if engine != "auto":
        return engine
    return "events" if events.suits(model) and events.available() else "dense"


def with_engine(model: Model[Any], engine: str = "auto", *, int8: bool = False) -> Model[Any]:
    """The same model, for inference, run by an engine; `int8` asks events and onnx for 8-bit weights.

    Raises UsageError where the engine cannot run this model, MissingDependencyError where its package is not installed.
    """
    check_engine(engine, int8)
    name = chosen(model, engine)
    if name == "events":
        from wavespike.runtime import events

        return events.accelerate(model, "int8" if int8 else "float32")
    if name == "compiled":
        from wavespike.runtime import compiled

        return compiled.accelerate(model)
    if name == "onnx":
        from wavespike.models.vocos import Vocos
        from wavespike.runtime.onnx import accelerate

        if not isinstance(model, Vocos):
            raise UsageError(f"expected a Vocos for the engine 'onnx', got {type(model).__name__}; use engine 'auto' or 'dense'")
        return accelerate(model, int8=int8)
    return model
