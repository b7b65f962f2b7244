"""A source-filter head behind a read-out of spikes: its linear layers, pitch and spectrum, add the weight rows of the neurons that fired."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavespike.nn.heads import SourceFilterHead
from wavespike.nn.pitch import PitchEstimator
from wavespike.runtime.compiled.head import CompiledSourceFilterHead
from wavespike.runtime.events import kernels
from wavespike.runtime.events.backbone import Precision, Rows, stamp_of

Array = np.ndarray[Any, Any]


class EventSourceFilterHead(CompiledSourceFilterHead):
    """A compiled head whose hidden frames are ones and zeros."""

    precision: Precision
    _packed: tuple[tuple[int, ...], Rows, tuple[Array, Array]] | None

    @classmethod
    def of(cls, head: SourceFilterHead, precision: Precision = "float32") -> EventSourceFilterHead:
        """The same layers (not copies) with this class's way to run them."""
        new = super().of(head)
        assert isinstance(new, cls)
        new.precision, new._packed = precision, None
        return new

    def packed(self) -> tuple[Rows, tuple[Array, Array]]:
        """The rows of the spectrum's layer and those of the pitch classes with their bias, made again when a weight has changed."""
        pitch = self.pitch.out
        stamp = stamp_of([self.out.weight, self.out.bias, pitch.weight, pitch.bias])
        if self._packed is None or self._packed[0] != stamp:
            classes = np.ascontiguousarray(pitch.weight.detach().numpy().T), pitch.bias.detach().numpy().copy()
            self._packed = stamp, Rows.of(self.out.weight, self.out.bias, self.precision), classes
        return self._packed[1:]

    def hear(self, hidden: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        plain = self.training or hidden.device.type != "cpu" or (torch.is_grad_enabled() and hidden.requires_grad)
        if plain or isinstance(self.pitch, PitchEstimator) or self.pitch.out.weight.dtype != torch.float64:
            return super().hear(hidden, features)
        rows, bias = self.packed()[1]
        out = torch.empty(*hidden.shape[:2], len(bias), dtype=torch.float64)
        for spikes, logits in zip(hidden.detach().contiguous().numpy(), out.numpy(), strict=True):
            kernels.add_exactly(spikes.view(np.int32), rows, bias, logits)
        return out[..., :-1], out[..., -1]

    def linear(self, hidden: Tensor, out: Tensor) -> None:
        rows = self.packed()[0]
        kernels.add_lines(hidden.contiguous().numpy().view(np.int32), rows.rows, rows.scale, rows.sum_type, out.numpy())
