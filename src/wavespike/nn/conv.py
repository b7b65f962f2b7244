"""Convolutions whose streaming state is a value.

A convolution sees (kernel_size - 1) * dilation samples around its output: all past when causal, half of them future when centred. Its state is the
inputs it still needs, so the outputs of `step` on any chunks, concatenated, equal `forward` on the whole; a centred one is just late.
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from wavespike.errors import UsageError

ModuleT = TypeVar("ModuleT", bound=nn.Module)

NOT_CAUSAL = "expected a causal convolution for streaming, got a centred one; build the model with causal: true"


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
        if self._depthwise and x.stride(1) == 1 and not torch.is_grad_enabled():
            return self._frame_major(x)
        return super().forward(F.pad(x, (self.left, self.span - self.left)))

    @property
    def _depthwise(self) -> bool:
        return self.groups == self.in_channels == self.out_channels and self.stride[0] == 1 and self.padding_mode == "zeros"

    def _frame_major(self, x: Tensor) -> Tensor:
        """Depthwise convolution of x [B, C, L] whose memory is [B, L, C], into the same order: what stands before and after works along C, so nothing is copied."""
        if x.dtype == torch.float64:
            frames = F.pad(x.transpose(1, 2), (0, 0, self.left, self.span - self.left))
            return self._shifted_sum(frames, self.weight[:, 0].t().contiguous(), self.bias).transpose(1, 2)
        if self.left != self.span - self.left:
            return super().forward(F.pad(x, (self.left, self.span - self.left)))
        return F.conv2d(x.unsqueeze(2), self.weight.unsqueeze(2), self.bias, 1, (0, self.left), (1, self.dilation[0]), self.groups).squeeze(2)

    def _shifted_sum(self, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """frames [B, L + span, C], weight [K, C] -> [B, L, C]. PyTorch has no fast depthwise convolution in float64: add shifted copies."""
        dilation, length = self.dilation[0], frames.shape[1] - self.span
        out = frames[:, :length] * weight[0]
        for k in range(1, weight.shape[0]):
            out.addcmul_(frames[:, k * dilation : k * dilation + length], weight[k])
        return out if bias is None else out + bias

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.dtype != torch.float64 or not self._depthwise:
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        return self._shifted_sum(input.transpose(1, 2), weight[:, 0].t(), bias).transpose(1, 2)

    @property
    def left(self) -> int:
        """Samples of past context; `span - left` is the look-ahead."""
        return self.span if self.causal else self.span // 2

    @property
    def look_ahead(self) -> int:
        """Future input samples that one output sample needs."""
        return self.span - self.left

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros [B, C_in, left]: what zero padding sees before the first sample."""
        return self.weight.new_zeros(batch_size, self.in_channels, self.left)

    def step(self, x: Tensor, state: Tensor, final: bool = False) -> tuple[Tensor, Tensor]:
        """One chunk [B, C_in, l] of any l >= 0 and the state -> the outputs that are complete, and the next state.

        With stride s a causal convolution answers at the first sample of every s. A centred one answers `look_ahead` samples late; `final` says that
        this chunk is the last and brings the rest out.
        """
        if self.stride[0] > self.span + 1:
            raise UsageError(f"expected a stride of at most {self.span + 1} (the receptive field) for streaming, got {self.stride[0]}")
        x = torch.cat([state, x], -1)
        if final and not self.causal:
            x = F.pad(x, (0, self.span - self.left))
        stride = self.stride[0]
        outputs = max(0, (x.shape[-1] - self.span - 1) // stride + 1)
        if outputs == 0:
            return x.new_zeros(x.shape[0], self.out_channels, 0), x
        return super().forward(x[..., : (outputs - 1) * stride + self.span + 1]), x[..., outputs * stride :]


class ConvTranspose1d(nn.ConvTranspose1d):
    """Transposed convolution of kernel 2 * stride that multiplies the length by the stride: [B, C_in, L] -> [B, C_out, L * stride].

    Causal: output frame i sees input frames i - 1 and i; before the first frame stands a copy of it. Centred: padding (stride + 1) // 2 and an output
    padding for odd strides. Parameter names and shapes are those of `nn.ConvTranspose1d`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, bias: bool = True, causal: bool = False):
        padding, output_padding = (0, 0) if causal else ((stride + 1) // 2, stride % 2)
        super().__init__(in_channels, out_channels, 2 * stride, stride=stride, padding=padding, output_padding=output_padding, bias=bias)
        self.causal = causal

    @property
    def look_ahead(self) -> int:
        """Future input frames that one output frame needs."""
        return 0 if self.causal else 1

    def _upsample(self, x: Tensor) -> Tensor:
        stride = self.stride[0]
        return super().forward(x)[..., stride:-stride]

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return self._upsample(F.pad(x, (1, 0), mode="replicate")) if self.causal else super().forward(x)

    def initial_state(self, batch_size: int, zeros: bool = False) -> Tensor:
        """The frame before the first: [B, C_in, 0] (a copy of the first frame, as offline) or [B, C_in, 1] zeros."""
        return self.weight.new_zeros(batch_size, self.in_channels, int(zeros))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk [B, C_in, l] and the state -> [B, C_out, l * stride] and the next state. Raises UsageError when not causal."""
        if not self.causal:
            raise UsageError(NOT_CAUSAL)
        if x.shape[-1] == 0:
            return x.new_zeros(x.shape[0], self.out_channels, 0), state
        x = torch.cat([state if state.shape[-1] else x[..., :1], x], -1)
        return self._upsample(x), x[..., -1:]


def with_weight_norm(layer: ModuleT, enabled: bool = True) -> ModuleT:
    """Weight normalisation (Salimans and Kingma, 2016), w = g v / |v|, when enabled; the norm is over all axes but the first."""
    return parametrizations.weight_norm(layer) if enabled else layer


def without_weight_norm(module: ModuleT) -> ModuleT:
    """The same function with the normalised weights computed once: a copy, or the module itself where nothing is normalised."""
    if not any(parametrize.is_parametrized(m) for m in module.modules()):
        return module
    module = copy.deepcopy(module)
    for m in module.modules():
        if parametrize.is_parametrized(m, "weight"):
            weight, kind = cast(Tensor, m.weight).detach().clone(), parametrize.type_before_parametrizations(m)
            del m._modules["parametrizations"]
            m.__class__ = kind  # torch's own removal would take the property from the class, which the original shares
            m.register_parameter("weight", nn.Parameter(weight))
    return module


def upstream_weight_norm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict with the old names of weight normalisation (`weight_g`, `weight_v`) under those of `torch.nn.utils.parametrizations`."""
    new = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    return {".".join([*key.split(".")[:-1], new.get(key.split(".")[-1], key.split(".")[-1])]): value for key, value in state.items()}
