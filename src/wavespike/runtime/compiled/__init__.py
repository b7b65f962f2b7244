"""The dense vocoder with its head compiled by Numba: the backbone stays PyTorch's, what follows it is one pass instead of dozens.

    from wavespike.runtime import compiled
    fast = compiled.accelerate(wavespike.load("vocos-24k"))      # a vocoder like any other; parameters are shared with the first

Needs Numba (`pip install 'wavespike[events]'`). The first call compiles, a few seconds once a machine; the code is kept in Numba's cache. The engine `events`
uses the same head.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from wavespike.errors import UsageError
from wavespike.nn.heads import SourceFilterHead

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Replacement = Callable[[nn.Module], nn.Module | None]


def available() -> bool:
    """Whether Numba is installed."""
    try:
        return importlib.util.find_spec("numba") is not None
    except ValueError:  # a module that was put in its place
        return False


def suits(model: nn.Module) -> bool:
    """Whether a model has a head that can be compiled."""
    return any(isinstance(module, SourceFilterHead) for module in model.modules())


def accelerate(model: ModuleT) -> ModuleT:
    """The same model with its head compiled, for inference on the CPU (in evaluation mode); what the compiled head does not know it does as before.

    Raises UsageError for a model without such a head, MissingDependencyError without Numba.
    """
    if not suits(model):
        raise UsageError(f"expected a model with a source-filter head for the engine 'compiled', got {type(model).__name__}, which has none; use engine 'auto' or 'dense'")
    from wavespike.runtime.compiled.head import CompiledSourceFilterHead

    def compiled(module: nn.Module) -> nn.Module | None:
        return CompiledSourceFilterHead.of(module) if isinstance(module, SourceFilterHead) else None

    out = replaced(model, compiled)
    assert isinstance(out, type(model))
    return out


def replaced(module: nn.Module, by: Replacement) -> nn.Module:
    """The module with those in it for which `by` has another; all others are shared, the given one stays as it is."""
    other = by(module)
    return with_children(module, by) if other is None else other


def with_children(module: nn.Module, by: Replacement) -> nn.Module:
    """`replaced` for what is inside a module."""
    children = {name: replaced(child, by) for name, child in module.named_children()}
    if all(child is module._modules[name] for name, child in children.items()):
        return module
    new = copy.copy(module)
    new._modules = {**module._modules, **children}
    return new
