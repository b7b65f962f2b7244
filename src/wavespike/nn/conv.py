"""Convolutions whose streaming state is a value.

A causal convolution sees (kernel_size - 1) * dilation past samples and no future one. Its state is just those past inputs, so
`step` on any chunks equals `forward` on the whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.errors import UsageError


class Conv1d(nn.Conv1d):
    """`nn.Conv1d` that keeps the length (stride 1) or divides it (stride s), centred or causal, with zero padding.

    Parameter names and shapes are those of `nn.Conv1d`. Input [B, C_in, L] -> [B, C_out, ceil(L / stride)].
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, dilation: int = 1, groups: int = 1,
                 bias: bool = True, causal: bool = False):
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups, bias=bias)
        self.causal = causal
        self.span = (kernel_size - 1) * dilation
        """Samples of context: all past when causal, half past and half future when centred."""

    def forward(self, x: Tensor) -> Tensor:
        left = self.span if self.causal else self.span // 2
        return super().forward(F.pad(x, (left, self.span - left)))

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros [B, C_in, span]: what zero padding sees before the first sample."""
        return self.weight.new_zeros(batch_size, self.in_channels, self.span)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk [B, C_in, l] (l a multiple of the stride) and the state -> output chunk and the next state.

        Raises UsageError when the convolution is not causal.
        """
        if not self.causal:
            raise UsageError("expected a causal convolution for streaming, got a centred one; build the model with causal: true")
        x = torch.cat([state, x], -1)
        keep = x[..., x.shape[-1] - self.span :]
        return super().forward(x), keep
