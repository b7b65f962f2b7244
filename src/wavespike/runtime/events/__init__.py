"""Inference by events: after every neuron only the indices of those that fired go on, and the next product adds their weight rows.

    from wavespike.runtime import events
    fast = events.accelerate(model)                      # a model like any other; parameters are shared with the first
    fast = events.accelerate(model, precision="int8")    # 8-bit weight rows, one scale an output
    audio = fast.decode(features)

Needs Numba (`pip install 'wavespike[events]'`). The first call compiles, a few seconds once a machine; the code is kept in Numba's cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from wavespike.errors import UsageError
from wavespike.nn.recording import spiking_layers
from wavespike.runtime.compiled import available, replaced, with_children

if TYPE_CHECKING:
    from wavespike.runtime.events.backbone import Precision

__all__ = ["accelerate", "available", "suits"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def suits(model: nn.Module) -> bool:
    """Whether a model has spiking layers for the engine to work on."""
    return bool(spiking_layers(model))


def accelerate(model: ModuleT, precision: Precision = "float32", **options: Any) -> ModuleT:
    """The same model with its spiking parts by events, for inference on the CPU (in evaluation mode). Parameters are shared, the given model stays as it is.

    Where a head reads the pitch from a backbone's frames, `int8` leaves that backbone and the pitch in full precision and rounds the spectrum's layer alone: a
    pitch that is a little off turns the phase of everything after it.

    Raises UsageError for a model without spiking layers, MissingDependencyError without Numba.
    """
    if not suits(model):
        raise UsageError(f"expected a model with spiking layers for the engine 'events', got {type(model).__name__}, which has none; use engine 'auto' or 'dense'")
    from wavespike.models.sparch import SpArch
    from wavespike.nn.heads import SourceFilterHead, reads_pitch
    from wavespike.nn.recurrent import RecurrentLayer, SpikingReadout
    from wavespike.nn.spiking import SpikingConvNeXtBackbone
    from wavespike.runtime.compiled.head import CompiledSourceFilterHead
    from wavespike.runtime.events.backbone import EventBackbone, fits
    from wavespike.runtime.events.head import EventSourceFilterHead
    from wavespike.runtime.events.recurrent import EventLayer, EventReadout, EventSpArch

    spikes_come = any(isinstance(m, SpikingConvNeXtBackbone) and m.config.readout == "spikes" for m in model.modules())
    pitch_hangs_on_it = any(reads_pitch(m) for m in model.modules())

    def by_events(module: nn.Module) -> nn.Module | None:
        if isinstance(module, SpikingConvNeXtBackbone) and fits(module):
            return EventBackbone.of(module, "float32" if pitch_hangs_on_it and precision == "int8" else precision, **options)
        if isinstance(module, SourceFilterHead):
            return EventSourceFilterHead.of(module, precision) if spikes_come else CompiledSourceFilterHead.of(module)
        if isinstance(module, RecurrentLayer) and module.spiking:
            return EventLayer.of(module)
        if isinstance(module, SpikingReadout):
            return EventReadout.of(module)
        if type(module) is SpArch and (new := with_children(module, by_events)) is not module:
            new.__class__ = EventSpArch
            return new
        return None

    out = replaced(model, by_events)
    assert isinstance(out, type(model))
    return out
