"""Convolutions whose streaming state is a value.

A convolution sees (kernel_size - 1) * dilation samples around its output: all past when causal, half of them future when centred. Its state is the
inputs it still needs, so the outputs of `step` on any chunks, concatenated, equal `forward` on the whole; a centred one is just late.
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
        return super().forward(F.pad(x, (self.left, self.span - self.left)))

    @property
    def left(self) -> int:
        """Samples of past context; `span - left` is the look-ahead."""
        return self.span if self.causal else self.span // 2

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros [B, C_in, left]: what zero padding sees before the first sample."""
        return self.weight.new_zeros(batch_size, self.in_channels, self.left)

    def step(self, x: Tensor, state: Tensor, final: bool = False) -> tuple[Tensor, Tensor]:
        """One chunk [B, C_in, l] (l >= 0, a multiple of the stride) and the state -> the outputs that are complete, and the next state.

        A centred convolution answers `span // 2` samples late; `final` says that this chunk is the last and brings the rest out.
        Raises UsageError for a centred convolution with a stride.
        """
        if not self.causal and self.stride[0] != 1:
            raise UsageError("expected a causal convolution or stride 1 for streaming, got a centred one with a stride; build it with causal: true")
        x = torch.cat([state, x], -1)
        if final and not self.causal:
            x = F.pad(x, (0, self.span - self.left))
        if x.shape[-1] <= self.span:
            return x.new_zeros(x.shape[0], self.out_channels, 0), x
        return super().forward(x), x[..., x.shape[-1] - self.span :]
