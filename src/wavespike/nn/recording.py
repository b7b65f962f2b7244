"""Recording spikes from outside: forward hooks for the length of a `with`, streaming sums, nothing kept in the model.

    with wavespike.record_spikes(model) as record:
        model(audio)
    record.rates          # {"backbone.convnext.0.neuron1": 0.031, ...}

A module records when it has `emits_spikes = True` and returns its spikes, alone or first in a tuple.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wavespike.errors import UsageError


@dataclasses.dataclass
class LayerRecord:
    """Sums over all calls of one layer: `spikes` emitted, `sites` = neurons x time steps x frames x items, `calls`.

    `channel_spikes` [C] sums over all but the last axis; `kept` are the spike tensors on the CPU, as bool, when asked for.
    """

    spikes: float = 0.0
    sites: int = 0
    calls: int = 0
    channel_spikes: Tensor | None = None
    kept: list[Tensor] = dataclasses.field(default_factory=list)

    @property
    def rate(self) -> float:
        """Mean spikes per neuron and time step, in 0..1 for binary spikes."""
        return self.spikes / self.sites if self.sites else 0.0

    @property
    def silent_channels(self) -> int:
        """Channels that never spiked."""
        return 0 if self.channel_spikes is None else int((self.channel_spikes == 0).sum())


class SpikeRecord:
    """What `record_spikes` yields: layer name -> LayerRecord, in the order of the model."""

    def __init__(self, names: list[str]):
        self.layers: dict[str, LayerRecord] = {name: LayerRecord() for name in names}

    @property
    def rates(self) -> dict[str, float]:
        """Layer name -> mean firing rate."""
        return {name: layer.rate for name, layer in self.layers.items()}

    @property
    def mean_rate(self) -> float:
        """All spikes over all sites: the size-weighted rate."""
        sites = sum(layer.sites for layer in self.layers.values())
        return sum(layer.spikes for layer in self.layers.values()) / sites if sites else 0.0

    def spikes(self, name: str) -> list[Tensor]:
        """The kept spikes of a layer, one bool tensor a call. Raises UsageError unless recorded with keep=True."""
        if name not in self.layers:
            raise UsageError(f"expected a spiking layer of {', '.join(self.layers)}, got {name!r}; see record.layers")
        if self.layers[name].calls and not self.layers[name].kept:
            raise UsageError(f"expected kept spikes of {name}, got sums only; record with keep=True")
        return self.layers[name].kept


def spiking_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of every layer that emits spikes, in the order of registration."""
    return {name: module for name, module in model.named_modules() if getattr(module, "emits_spikes", False)}


@contextmanager
def record_spikes(model: nn.Module, *, keep: bool = False) -> Iterator[SpikeRecord]:
    """Record every spiking layer of `model` inside the `with`. `keep` keeps the spikes themselves (memory: one byte a site).

    Raises UsageError when the model has no spiking layer.
    """
    layers = spiking_layers(model)
    if not layers:
        raise UsageError(f"expected a model with spiking layers, got {type(model).__name__}, which has none; record a spiking model")
    record = SpikeRecord(list(layers))

    def hook(layer: LayerRecord) -> Any:
        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            spikes = (output[0] if isinstance(output, tuple) else output).detach()
            channels = spikes.reshape(-1, spikes.shape[-1]).sum(0, dtype=torch.float64).cpu()  # [C]
            layer.calls += 1
            layer.sites += spikes.numel()
            layer.spikes += float(channels.sum())
            layer.channel_spikes = channels if layer.channel_spikes is None else layer.channel_spikes + channels
            if keep:
                layer.kept.append(spikes.bool().cpu())

        return after

    handles = [module.register_forward_hook(hook(record.layers[name])) for name, module in layers.items()]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
