"""Spiking ConvNeXt for sequences (Spiking Vocos, arXiv 2509.13049; Liu et al., 2022; PLIF: Fang et al., 2021; temporal shift: Lin et al., 2019).

Equation, with u_s the potential of spiking time step s = 1..S (S steps a frame; the audio frames l are a separate axis):

    x_s = LN(dwconv7(u_s + alpha shift(u)_s)),   y_s = W2 PLIF(GELU(W1 PLIF(x)))_s,   u_s <- u_s + gamma * y_s * x_s

The input is the same at every step; the output is the read-out sum_s d^(S-s) u_s, or with `readout: spikes` the spikes PLIF(LN(u))_s of all steps side by
side: then the layer behind it only adds weights as well. Neurons start at rest for every input, so no state survives a call.
Departures: one block with options instead of four files; what does not differ between steps of the first block is computed once; AdaLN works, per item;
convolutions may be causal; an option takes the spiking MLP out, for ablation.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError, UsageError
from wavespike.nn.conv import Conv1d
from wavespike.nn.convnext import initialise
from wavespike.nn.norm import Norm, make_norm
from wavespike.spikes.neurons import NeuronConfig, decay_of, neuron_scan

MLP = Literal["spiking", "silenced", "absent"]
Activation = Literal["gelu", "identity"]
Readout = Literal["membrane", "spikes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpikingConvNeXtConfig(Config):
    """Options of the backbone; the defaults are the published plain variant.

    `time_steps` S. `temporal_shift` cuts the channels into `shift_segments` and mixes the first `shift_fold` with the
    next step, as many with the previous, weighted by alpha (initial value `shift_penalty`, learnable by `learn_shift_penalty`). `amplitude_shortcut` multiplies the MLP's output by its continuous input.
    `initial_norm` puts Vocos's norm after the embedding. `readout_decay` d weighs the steps. `mlp`: "spiking", "silenced" (parameters kept, spikes
    of the second neuron zeroed) or "absent" (no parameters): for asking what the spikes contribute. `expansion_init_std` is that of W1: at the published 0.02 the second
    neurons are silent at first and only the tail of the surrogate wakes them; 0.4 lets them fire from the first step. `activation` stands before the
    second neuron: GELU as published, or none (a neuron is a nonlinearity). `readout`: the weighted potential as published, or spikes.
    """

    type_name: ClassVar[str] = "spiking-convnext"

    input_channels: int = 100
    dim: int = 512
    intermediate_dim: int = 1536
    num_layers: int = 8
    layer_scale_init_value: float | None = None
    adanorm_num_embeddings: int | None = None
    causal: bool = False
    time_steps: int = 4
    neuron: NeuronConfig = NeuronConfig()
    temporal_shift: bool = False
    shift_segments: int = 32
    shift_fold: int = 8
    shift_penalty: float = 0.5
    learn_shift_penalty: bool = True
    amplitude_shortcut: bool = True
    initial_norm: bool = False
    readout_decay: float = 0.9
    mlp: MLP = "spiking"
    expansion_init_std: float = 0.02
    activation: Activation = "gelu"
    readout: Readout = "membrane"

    def __post_init__(self) -> None:
        if self.time_steps < 1:
            raise ConfigError(f"backbone.time_steps: expected at least 1, got {self.time_steps}; a neuron needs a step to spike")
        if self.temporal_shift and (self.shift_segments < 1 or self.dim % self.shift_segments):
            raise ConfigError(f"backbone.shift_segments: expected a divisor of the {self.dim} channels, got {self.shift_segments}; "
                              "change dim or shift_segments so that the channels fold evenly")
        if self.temporal_shift and not 1 <= self.shift_fold <= self.shift_segments // 2:
            raise ConfigError(f"backbone.shift_fold: expected 1..{self.shift_segments // 2} (half of shift_segments), got {self.shift_fold}; "
                              "as many segments come from the next step as from the previous")
        if not 0.0 <= self.readout_decay <= 1.0:
            raise ConfigError(f"backbone.readout_decay: expected 0..1, got {self.readout_decay}")
        if self.num_layers < 1:
            raise ConfigError(f"backbone.num_layers: expected at least 1, got {self.num_layers}")

    @property
    def output_dim(self) -> int:
        """Channels of the output: `dim`, or a place for every neuron and step."""
        return self.dim * self.time_steps if self.readout == "spikes" else self.dim

    @property
    def shifted_channels(self) -> int:
        """Channels that the temporal shift takes from the next step; as many come from the previous."""
        return self.dim // self.shift_segments * self.shift_fold


class Neuron(nn.Module):
    """Integrate-and-fire layer: input [S, ...] -> spikes [S, ...] and potential [...]. The one parameter, `w`, is a PLIF's decay."""

    emits_spikes = True
    w: nn.Parameter | None

    def __init__(self, config: NeuronConfig):
        super().__init__()
        self.config = config
        if config.kind == "plif":
            self.w = nn.Parameter(torch.tensor(config.initial_decay_logit()))
        else:
            self.register_parameter("w", None)

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return neuron_scan(x, v, decay_of(self.config, self.w), self.config)


def temporal_shift(u: Tensor, shifted_channels: int) -> Tensor:
    """u [S, B, C, L] -> the same shape: the first `shifted_channels` come from the next step, as many again from the previous, the rest stay.

    Steps beyond either end are zero.
    """
    n = shifted_channels
    later = F.pad(u[1:, :, :n], (0, 0, 0, 0, 0, 0, 0, 1))
    earlier = F.pad(u[:-1, :, n : 2 * n], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat([later, earlier, u[:, :, 2 * n :]], 2)


def readout_weights(time_steps: int, decay: float, like: Tensor) -> Tensor:
    """d^(S-1-s) for s = 0..S-1, [S]."""
    return torch.tensor([decay ** (time_steps - 1 - s) for s in range(time_steps)], dtype=like.dtype, device=like.device)


def membrane_readout(u: Tensor, decay: float) -> Tensor:
    """sum_s d^(S-1-s) u_s, [S, B, C, L] -> [B, C, L]."""
    return (u * readout_weights(u.shape[0], decay, u)[:, None, None, None]).sum(0)


class SpikingConvNeXtBlock(nn.Module):
    """One block on [S, B, C, L]. Parameter names are upstream's (`dwconv`, `norm`, `neuron1.w`, `pwconv1`, `neuron2.w`, `pwconv2`, `gamma`, `alpha`)."""

    alpha: Tensor

    def __init__(self, config: SpikingConvNeXtConfig):
        super().__init__()
        c = config
        self.config = config
        scale = c.layer_scale_init_value if c.layer_scale_init_value is not None else 1 / c.num_layers
        self.dwconv = Conv1d(c.dim, c.dim, 7, groups=c.dim, causal=c.causal)
        self.norm = make_norm(c.dim, c.adanorm_num_embeddings)
        if c.mlp != "absent":
            self.neuron1 = Neuron(c.neuron)
            self.pwconv1 = nn.Linear(c.dim, c.intermediate_dim)
            self.neuron2 = Neuron(c.neuron)
            self.pwconv2 = nn.Linear(c.intermediate_dim, c.dim)
        self.gamma = nn.Parameter(torch.full((c.dim,), float(scale)))
        if c.temporal_shift:
            alpha = torch.tensor(float(c.shift_penalty))
            if c.learn_shift_penalty:
                self.alpha = nn.Parameter(alpha)
            else:
                self.register_buffer("alpha", alpha)

    def shift(self, u: Tensor) -> Tensor:
        """u + alpha shift(u), or u without temporal shift."""
        c = self.config
        return u + self.alpha * temporal_shift(u, c.shifted_channels) if c.temporal_shift else u

    def _mlp(self, x: Tensor) -> Tensor:
        """x [S, B, L, C] -> gamma * y * x, the residual [S, B, L, C]."""
        c = self.config
        if c.mlp == "absent":
            return self.gamma * x
        first, _ = self.neuron1(x)
        current = self.pwconv1(first)
        second, _ = self.neuron2(F.gelu(current) if c.activation == "gelu" else current)
        y = self.pwconv2(torch.zeros_like(second) if c.mlp == "silenced" else second)
        out: Tensor = self.gamma * (y * x if c.amplitude_shortcut else y)
        return out

    def forward(self, u: Tensor, condition: Tensor | None = None) -> Tensor:
        """u [S, B, C, L] -> the same shape; for the first block, whose input is the same at every step, [B, C, L] -> [S, B, C, L]."""
        mixed, which = self.distinct(u) if u.ndim == 3 else (self.shift(u), None)
        return self._residual(u, self.dwconv(mixed.flatten(0, 1)), mixed.shape[0], which, condition)

    def _residual(self, u: Tensor, h: Tensor, count: int, which: list[int] | None, condition: Tensor | None) -> Tensor:
        """u plus the block's answer to the convolution's output h [D*B, C, L], D = `count`; `which` spreads D distinct steps over S."""
        if condition is not None and condition.shape[0] > 1:
            condition = condition.repeat(count)  # the steps of an item share its condition
        x: Tensor = self.norm(h.transpose(1, 2), condition)  # [D*B, L, C]
        x = x.reshape(count, -1, *x.shape[1:])
        return u + self._mlp(x if which is None else spread(x, which)).transpose(2, 3)

    def distinct(self, u: Tensor) -> tuple[Tensor, list[int]]:
        """For an input [B, C, L] equal at every step: the steps of `shift` that differ [D, B, C, L] and, for each of S, which of them it is.

        Without temporal shift D = 1. With it only the first and the last step see an end: D = min(S, 3).
        """
        c = self.config
        count = min(c.time_steps, 3 if c.temporal_shift else 1)
        which = [0] * c.time_steps if count == 1 else [0, *[1] * (c.time_steps - 2), count - 1]
        return self.shift(u.expand(count, *u.shape)), which

    def initial_state(self, batch_size: int, first: bool) -> Tensor:
        """Potentials before the first frame, zeros: [S, B, C, left], without S for the first block."""
        state = self.dwconv.initial_state(batch_size)
        return state if first else state.expand(self.config.time_steps, *state.shape)

    def step(self, u: Tensor, state: Tensor, condition: Tensor | None = None, final: bool = False) -> tuple[Tensor, Tensor]:
        """`forward` of the next frames, l >= 0 -> the frames that are complete by now, and the next state; see `Conv1d.step`."""
        conv = self.dwconv
        window = torch.cat([state, u], -1)
        after = window[..., max(0, window.shape[-1] - conv.span) :]
        if final and not conv.causal:
            window = F.pad(window, (0, conv.span - conv.left))
        mixed, which = self.distinct(window) if u.ndim == 3 else (self.shift(window), None)
        flat = mixed.flatten(0, 1)
        h, _ = conv.step(flat, flat[..., :0])
        middle = window[..., conv.left :][..., : h.shape[-1]]
        if h.shape[-1] == 0:
            return middle if u.ndim == 4 else middle.expand(self.config.time_steps, *middle.shape), after
        return self._residual(middle, h, mixed.shape[0], which, condition), after


def spread(x: Tensor, which: list[int]) -> Tensor:
    """Distinct steps [D, ...] -> all steps [S, ...]; a view when there is one."""
    return x.expand(len(which), *x.shape[1:]) if x.shape[0] == 1 else x[which]


class SpikingConvNeXtBackbone(nn.Module):
    """Embedding, spiking blocks, read-out, final norm. [B, C_in, L] -> [B, L, output_dim]. Parameter names are upstream's."""

    def __init__(self, config: SpikingConvNeXtConfig):
        super().__init__()
        self.config = config
        c = config
        self.embed = Conv1d(c.input_channels, c.dim, 7, causal=c.causal)
        if c.initial_norm:
            self.norm = make_norm(c.dim, c.adanorm_num_embeddings)
        self.convnext = nn.ModuleList(SpikingConvNeXtBlock(c) for _ in range(c.num_layers))
        self.final_layer_norm = Norm(c.dim)
        if c.readout == "spikes":
            self.readout = Neuron(c.neuron)
        initialise(self)
        if c.mlp != "absent" and c.expansion_init_std != 0.02:
            for block in self.blocks:
                nn.init.trunc_normal_(block.pwconv1.weight, std=c.expansion_init_std)

    @property
    def blocks(self) -> list[SpikingConvNeXtBlock]:
        """The blocks, in order."""
        return cast("list[SpikingConvNeXtBlock]", list(self.convnext))

    @property
    def context_frames(self) -> tuple[int, int]:
        """Frames of past and of future that one output frame sees."""
        span = 6 * (1 + self.config.num_layers)
        return (span, 0) if self.config.causal else (span // 2, span // 2)

    def _start(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """After the embedding: Vocos's norm, when there is one."""
        if condition is not None and self.config.adanorm_num_embeddings is None:
            raise UsageError("got a bandwidth_id, but this model was built without adanorm_num_embeddings; leave bandwidth_id out")
        return self.norm(h.transpose(1, 2), condition).transpose(1, 2) if self.config.initial_norm else h

    def _finish(self, u: Tensor) -> Tensor:
        if self.config.readout == "spikes":
            spikes, _ = self.readout(self.final_layer_norm(u.transpose(2, 3)))  # [S, B, L, C]
            side_by_side: Tensor = spikes.permute(1, 2, 0, 3).flatten(2)
            return side_by_side
        out: Tensor = self.final_layer_norm(membrane_readout(u, self.config.readout_decay).transpose(1, 2))
        return out

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        u = self._start(self.embed(x), condition)
        for block in self.blocks:
            u = block(u, condition)
        return self._finish(u)

    def states(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """For distillation: the output [B, L, output_dim]; each block's output; each block's input after the shift, [S, B, C, L]."""
        u = self._start(self.embed(x), condition)
        outputs, mixed = [], []
        for block in self.blocks:
            mixed.append(spread(*block.distinct(u)) if u.ndim == 3 else block.shift(u))
            u = block(u, condition)
            outputs.append(u)
        return self._finish(u), outputs, mixed

    def initial_state(self, batch_size: int) -> list[Tensor]:
        """What every convolution sees before the first frame."""
        return [self.embed.initial_state(batch_size), *(b.initial_state(batch_size, i == 0) for i, b in enumerate(self.blocks))]

    def step(self, x: Tensor, state: list[Tensor], condition: Tensor | None = None, final: bool = False) -> tuple[Tensor, list[Tensor]]:
        """One chunk of frames [B, C_in, l], l >= 0 -> the hidden frames [B, m, output_dim] that are complete by now, and the next state.

        Neurons start at rest in every frame, so the state is that of the convolutions alone. A centred backbone answers `context_frames[1]` frames late.
        """
        h, s = self.embed.step(x, state[0], final)
        u, after = self._start(h, condition), [s]
        for block, s in zip(self.blocks, state[1:], strict=True):
            u, s = block.step(u, s, condition, final)
            after.append(s)
        return self._finish(u), after
