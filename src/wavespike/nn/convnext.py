"""ConvNeXt for sequences (Liu et al., 2022, as in Vocos, Siuzdak, 2023).

Equation: x <- x + gamma * W2 GELU(W1 LN(dwconv7(x))).
Departures: an option makes every convolution causal; the condition of the adaptive norm is per item.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.nn.conv import Conv1d
from wavespike.nn.norm import Norm, make_norm
from wavespike.threads import cut, run_all, share


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig(Config):
    """`layer_scale_init_value` None means 1 / num_layers; 0 is kept as 0. `embed_kernel_size` is that of the first convolution."""

    type_name: ClassVar[str] = "convnext"

    input_channels: int = 100
    dim: int = 512
    intermediate_dim: int = 1536
    num_layers: int = 8
    layer_scale_init_value: float | None = None
    adanorm_num_embeddings: int | None = None
    causal: bool = False
    embed_kernel_size: int = 7


class ConvNeXtBlock(nn.Module):
    """One block, [B, C, L] -> [B, C, L]; `condition` [B] selects the adaptive norm's row."""

    def __init__(self, dim: int, intermediate_dim: int, layer_scale: float, adanorm_num_embeddings: int | None = None, causal: bool = False):
        super().__init__()
        self.dwconv = Conv1d(dim, dim, 7, groups=dim, causal=causal)
        self.norm = make_norm(dim, adanorm_num_embeddings)
        self.pwconv1 = nn.Linear(dim, intermediate_dim)
        self.pwconv2 = nn.Linear(intermediate_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), float(layer_scale)))

    def _mix(self, residual: Tensor, h: Tensor, condition: Tensor | None) -> Tensor:
        h = self.norm(h.transpose(1, 2), condition)  # [B, L, C]
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            h = self.pwconv2(F.gelu(self.pwconv1(h)))
        else:  # blocks of frames stay in the cache
            h = torch.cat([self.pwconv2(F.gelu(self.pwconv1(part))) for part in torch.split(h, 256, 1)], 1)
        return torch.addcmul(residual.transpose(1, 2), self.gamma, h).transpose(1, 2)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self._mix(x, self.dwconv(x), condition)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.dwconv.initial_state(batch_size)

    def step(self, x: Tensor, state: Tensor, condition: Tensor | None = None, final: bool = False) -> tuple[Tensor, Tensor]:
        h, after = self.dwconv.step(x, state, final)
        residual = torch.cat([state, x], -1)[..., self.dwconv.left :][..., : h.shape[-1]]  # the frames at the middle of each window
        return self._mix(residual, h, condition), after


def in_pieces(network: Callable[[Tensor], Tensor], x: Tensor, context_frames: tuple[int, int], channels: int) -> Tensor:
    """network(x), [B, C, L] -> [B, L, channels], a piece of the frames a thread where `wavespike.threads` has some; each sees the context of the network."""
    length = x.shape[-1]
    count = share(length)
    if count == 1:
        return network(x)
    left, right = context_frames
    out = x.new_empty(x.shape[0], length, channels)

    def work(piece: tuple[int, int]) -> None:
        first, stop = piece
        begin = max(0, first - left)
        out[:, first:stop] = network(x[..., begin : min(length, stop + right)])[:, first - begin : stop - begin]

    run_all(work, cut(length, count))
    return out


def initialise(backbone: nn.Module) -> None:
    """Vocos's start: truncated normal of deviation 0.02, no bias, in every convolution and linear layer."""
    for module in backbone.modules():
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ConvNeXtBackbone(nn.Module):
    """Vocos's backbone: embed, norm, blocks, final norm. [B, C_in, L] -> [B, L, dim].

    Parameter names are upstream's (`embed`, `norm`, `convnext.{i}`, `final_layer_norm`).
    """

    def __init__(self, config: ConvNeXtConfig):
        super().__init__()
        self.config = config
        c = config
        scale = c.layer_scale_init_value if c.layer_scale_init_value is not None else 1 / c.num_layers
        self.embed = Conv1d(c.input_channels, c.dim, c.embed_kernel_size, causal=c.causal)
        self.norm = make_norm(c.dim, c.adanorm_num_embeddings)
        self.convnext = nn.ModuleList(
            ConvNeXtBlock(c.dim, c.intermediate_dim, scale, c.adanorm_num_embeddings, c.causal) for _ in range(c.num_layers)
        )
        self.final_layer_norm = Norm(c.dim)
        initialise(self)

    @property
    def blocks(self) -> list[ConvNeXtBlock]:
        """The ConvNeXt blocks, in order."""
        return cast("list[ConvNeXtBlock]", list(self.convnext))

    @property
    def context_frames(self) -> tuple[int, int]:
        """Frames of past and of future that one output frame sees."""
        span = self.config.embed_kernel_size - 1 + 6 * self.config.num_layers
        return (span, 0) if self.config.causal else (span // 2, span // 2)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return in_pieces(lambda part: self._frames(part, condition), x, self.context_frames, self.config.dim)

    def _frames(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.norm(self.embed(x).transpose(1, 2), condition).transpose(1, 2)
        for block in self.blocks:
            x = block(x, condition)
        out: Tensor = self.final_layer_norm(x.transpose(1, 2))
        return out

    def initial_state(self, batch_size: int) -> list[Tensor]:
        """Past inputs of every convolution."""
        return [self.embed.initial_state(batch_size), *(b.initial_state(batch_size) for b in self.blocks)]

    def step(self, x: Tensor, state: list[Tensor], condition: Tensor | None = None, final: bool = False) -> tuple[Tensor, list[Tensor]]:
        """One chunk of frames [B, C_in, l], l >= 0 -> the hidden frames [B, m, dim] that are complete by now, and the next state.

        Every frame is computed once. A centred backbone answers `context_frames[1]` frames late; `final` brings the rest out.
        """
        after: list[Tensor] = []
        h, s = self.embed.step(x, state[0], final)
        after.append(s)
        h = self.norm(h.transpose(1, 2), condition).transpose(1, 2)
        for block, s in zip(self.blocks, state[1:], strict=True):
            h, s = block.step(h, s, condition, final)
            after.append(s)
        return self.final_layer_norm(h.transpose(1, 2)), after
