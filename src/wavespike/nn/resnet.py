"""The ResNet backbone of Vocos's ablation (Siuzdak, 2023): HiFi-GAN's residual blocks (Kong et al., 2020) without upsampling.

Equation, for dilations d = 1, 3, 5: x <- x + gamma_d * conv(lrelu(conv_d(lrelu(x)))), kernels of 3, weight-normed, no other norm.
Departures: an option makes every convolution causal.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from wavespike.config import Config
from wavespike.errors import UsageError
from wavespike.nn.conv import Conv1d

SLOPE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig(Config):
    """`layer_scale_init_value` None means 1 / (3 num_blocks); 0 is kept as 0."""

    type_name: ClassVar[str] = "resnet"

    input_channels: int = 100
    dim: int = 512
    num_blocks: int = 3
    layer_scale_init_value: float | None = None
    causal: bool = False


def _conv(channels_in: int, channels_out: int, dilation: int, causal: bool) -> Conv1d:
    conv = Conv1d(channels_in, channels_out, 3, dilation=dilation, causal=causal)
    nn.init.trunc_normal_(conv.weight, std=0.02)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    weight_norm(conv)
    return conv


class ResBlock(nn.Module):
    """One block, [B, C, L] -> [B, C, L]. Parameter names are upstream's (`convs1`, `convs2`, `gamma`)."""

    DILATIONS = (1, 3, 5)

    def __init__(self, dim: int, layer_scale: float, causal: bool = False):
        super().__init__()
        self.convs1 = nn.ModuleList(_conv(dim, dim, d, causal) for d in self.DILATIONS)
        self.convs2 = nn.ModuleList(_conv(dim, dim, 1, causal) for _ in self.DILATIONS)
        self.gamma = nn.ParameterList(nn.Parameter(torch.full((dim, 1), float(layer_scale))) for _ in self.DILATIONS)

    @property
    def layers(self) -> list[tuple[Conv1d, Conv1d, Tensor]]:
        """The pairs of convolutions and their scales, in order."""
        return cast("list[tuple[Conv1d, Conv1d, Tensor]]", list(zip(self.convs1, self.convs2, self.gamma, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        for first, second, gamma in self.layers:
            x = x + gamma * second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x

    def initial_state(self, batch_size: int) -> list[Tensor]:
        """For each pair: past inputs of both convolutions, and the residual frames that wait for them."""
        state: list[Tensor] = []
        for first, second, _ in self.layers:
            state += [first.initial_state(batch_size), second.initial_state(batch_size), first.initial_state(batch_size)[..., :0]]
        return state

    def step(self, x: Tensor, state: list[Tensor], final: bool = False) -> tuple[Tensor, list[Tensor]]:
        after: list[Tensor] = []
        for index, (first, second, gamma) in enumerate(self.layers):
            a, b, waiting = state[3 * index : 3 * index + 3]
            h, a = first.step(F.leaky_relu(x, SLOPE), a, final)
            h, b = second.step(F.leaky_relu(h, SLOPE), b, final)
            waiting = torch.cat([waiting, x], -1)
            count = h.shape[-1]
            x, waiting = waiting[..., :count] + gamma * h, waiting[..., count:]
            after += [a, b, waiting]
        return x, after


class ResNetBackbone(nn.Module):
    """[B, C_in, L] -> [B, L, dim]. Parameter names are upstream's (`embed`, `resnet.{i}`)."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        self.config = config
        c = config
        scale = c.layer_scale_init_value if c.layer_scale_init_value is not None else 1 / (3 * c.num_blocks)
        self.embed = _conv(c.input_channels, c.dim, 1, c.causal)
        self.resnet = nn.ModuleList(ResBlock(c.dim, scale, c.causal) for _ in range(c.num_blocks))

    @property
    def blocks(self) -> list[ResBlock]:
        """The residual blocks, in order."""
        return cast("list[ResBlock]", list(self.resnet))

    @property
    def context_frames(self) -> tuple[int, int]:
        """Frames of past and of future that one output frame sees."""
        span = 2 + self.config.num_blocks * sum(2 * d + 2 for d in ResBlock.DILATIONS)
        return (span, 0) if self.config.causal else (span // 2, span // 2)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        _refuse(condition)
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x.transpose(1, 2)

    def initial_state(self, batch_size: int) -> list[Tensor]:
        """States of the embedding and of every block, in order."""
        return [self.embed.initial_state(batch_size), *(s for b in self.blocks for s in b.initial_state(batch_size))]

    def step(self, x: Tensor, state: list[Tensor], condition: Tensor | None = None, final: bool = False) -> tuple[Tensor, list[Tensor]]:
        """One chunk of frames [B, C_in, l], l >= 0 -> the hidden frames [B, m, dim] that are complete by now, and the next state."""
        _refuse(condition)
        x, first = self.embed.step(x, state[0], final)
        after = [first]
        size = 3 * len(ResBlock.DILATIONS)
        for index, block in enumerate(self.blocks):
            x, s = block.step(x, state[1 + index * size : 1 + (index + 1) * size], final)
            after += s
        return x.transpose(1, 2), after


def _refuse(condition: Tensor | None) -> None:
    if condition is not None:
        raise UsageError("got a bandwidth_id, but a ResNet backbone has no adaptive norms; leave bandwidth_id out")
