"""HiFi-GAN (Kong et al., 2020) in the causal form that AudioDec (Wu et al., 2023) decodes with.

Equation: x = conv7((c - mean) / scale); four times x <- fuse(upsample(lrelu(x))); waveform = tanh(conv7(lrelu(x))).
`fuse` is either the mean of residual stacks of several kernels (v0), or one stack of grouped convolutions over `groups` copies, mixed by a 1x1 (v1, v2, v3).
Departures: causality is an option; the same network also takes mel spectrograms (`features`).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import CheckpointError, ConfigError, UsageError
from wavespike.models.base import Stream, Vocoder, check_audio
from wavespike.nn.conv import Conv1d, ConvTranspose1d, with_weight_norm, without_weight_norm
from wavespike.signal.mel import MelConfig, log_mel


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiFiGANConfig(Config):
    """The defaults are AudioDec's vocoder v1. `features` None: it decodes quantised latents; a mel configuration: it is a mel vocoder."""

    type_name: ClassVar[str] = "hifigan"

    sample_rate: int = 48000
    in_channels: int = 64
    out_channels: int = 1
    channels: int = 512
    kernel_size: int = 7
    upsample_scales: tuple[int, ...] = (5, 5, 4, 3)
    resblock_kernel_sizes: tuple[int, ...] = (11,)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),)
    groups: int = 3
    """1: the mean over the stacks of all kernels; more: one stack, grouped."""
    bias: bool = True
    additional_convs: bool = True
    negative_slope: float = 0.1
    weight_norm: bool = True
    causal: bool = True
    features: MelConfig | None = None

    def __post_init__(self) -> None:
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilations):
            raise ConfigError(f"resblock_dilations: expected one list for each of the {len(self.resblock_kernel_sizes)} kernels, got {len(self.resblock_dilations)}")
        if self.groups > 1 and len(self.resblock_kernel_sizes) != 1:
            raise ConfigError(f"resblock_kernel_sizes: expected one kernel with groups {self.groups}, got {len(self.resblock_kernel_sizes)}; use groups: 1")
        if self.channels < 2 ** len(self.upsample_scales):
            raise ConfigError(f"channels: expected at least {2 ** len(self.upsample_scales)} to halve at every upsampling, got {self.channels}")
        if self.features is not None:
            if self.features.n_mels != self.in_channels:
                raise ConfigError(f"in_channels: expected the features' {self.features.n_mels}, got {self.in_channels}")
            if self.features.hop_length != self.hop or self.features.sample_rate != self.sample_rate:
                raise ConfigError(f"features: expected hop_length {self.hop} and sample_rate {self.sample_rate}, got {self.features.hop_length} and {self.features.sample_rate}")

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.upsample_scales)


class ResidualStack(nn.Module):
    """For each dilation: x <- x + conv(lrelu(conv_dilated(lrelu(x)))), [B, C, T] -> [B, C, T]."""

    def __init__(self, config: HiFiGANConfig, channels: int, kernel_size: int, dilations: tuple[int, ...], groups: int):
        super().__init__()
        self.slope = config.negative_slope

        def conv(dilation: int) -> Conv1d:
            layer = Conv1d(channels, channels, kernel_size, dilation=dilation, groups=groups, bias=config.bias, causal=config.causal)
            return with_weight_norm(layer, config.weight_norm)

        self.convs1 = nn.ModuleList(conv(d) for d in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations if config.additional_convs)

    def _pairs(self) -> list[list[Conv1d]]:
        return [[c for convs in (self.convs1, self.convs2) for c in list(convs)[i : i + 1] if isinstance(c, Conv1d)] for i in range(len(self.convs1))]

    @property
    def look_ahead(self) -> int:
        return sum(conv.look_ahead for pair in self._pairs() for conv in pair)

    def forward(self, x: Tensor) -> Tensor:
        for pair in self._pairs():
            y = x
            for conv in pair:
                y = conv(F.leaky_relu(y, self.slope))
            x = x + y
        return x

    def initial_state(self, batch_size: int) -> list[Tensor]:
        return [conv.initial_state(batch_size) for pair in self._pairs() for conv in pair]

    def step(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        after, left = [], iter(state)
        for pair in self._pairs():
            y = x
            for conv in pair:
                y, s = conv.step(F.leaky_relu(y, self.slope), next(left))
                after.append(s)
            x = x + y
        return x, after


class Fusion(nn.Module):
    """The mean of the stacks (groups 1), or one grouped stack over copies of the input and a 1x1 convolution back. [B, C, T] -> [B, C, T]"""

    def __init__(self, config: HiFiGANConfig, channels: int):
        super().__init__()
        self.groups = config.groups
        sizes = zip(config.resblock_kernel_sizes, config.resblock_dilations, strict=True)
        self.stacks = nn.ModuleList(ResidualStack(config, channels * self.groups, k, d, self.groups) for k, d in sizes)
        self.conv_out = None if self.groups == 1 else with_weight_norm(Conv1d(channels * self.groups, channels, 1, bias=False), config.weight_norm)

    def _stacks(self) -> list[ResidualStack]:
        return [s for s in self.stacks if isinstance(s, ResidualStack)]

    @property
    def look_ahead(self) -> int:
        return max(s.look_ahead for s in self._stacks())

    def _copies(self, x: Tensor) -> Tensor:
        return x if self.groups == 1 else x.repeat(1, self.groups, 1)

    def _mix(self, outputs: list[Tensor]) -> Tensor:
        if self.conv_out is not None:
            mixed: Tensor = self.conv_out(outputs[0])
            return mixed
        return torch.stack(outputs).sum(0) / len(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self._copies(x)
        return self._mix([stack(x) for stack in self._stacks()])

    def initial_state(self, batch_size: int) -> list[list[Tensor]]:
        return [s.initial_state(batch_size) for s in self._stacks()]

    def step(self, x: Tensor, state: list[list[Tensor]]) -> tuple[Tensor, list[list[Tensor]]]:
        x = self._copies(x)
        done = [stack.step(x, s) for stack, s in zip(self._stacks(), state, strict=True)]
        return self._mix([y for y, _ in done]), [s for _, s in done]


class HiFiGANGenerator(nn.Module):
    """The network: [B, D, L] -> [B, C, L * hop]. Buffers `mean` and `scale` [D] normalise the input."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: HiFiGANConfig):
        super().__init__()
        c = self.config = config
        self.register_buffer("mean", torch.zeros(c.in_channels))
        self.register_buffer("scale", torch.ones(c.in_channels))
        self.input_conv = with_weight_norm(Conv1d(c.in_channels, c.channels, c.kernel_size, bias=c.bias, causal=c.causal), c.weight_norm)
        widths = [c.channels // 2**i for i in range(len(c.upsample_scales) + 1)]
        self.upsamples = nn.ModuleList(
            with_weight_norm(ConvTranspose1d(widths[i], widths[i + 1], s, bias=c.bias, causal=c.causal), c.weight_norm) for i, s in enumerate(c.upsample_scales)
        )
        self.blocks = nn.ModuleList(Fusion(c, width) for width in widths[1:])
        self.output_conv = with_weight_norm(Conv1d(widths[-1], c.out_channels, c.kernel_size, bias=c.bias, causal=c.causal), c.weight_norm)

    def _layers(self) -> list[tuple[ConvTranspose1d, Fusion]]:
        return [(u, b) for u, b in zip(self.upsamples, self.blocks, strict=True) if isinstance(u, ConvTranspose1d) and isinstance(b, Fusion)]

    @property
    def look_ahead(self) -> int:
        """Samples at the output rate that one output sample waits for at most."""
        hop = self.config.hop
        total, rate = self.input_conv.look_ahead * hop, hop
        for up, block in self._layers():
            total += up.look_ahead * rate
            rate //= up.stride[0]
            total += block.look_ahead * rate
        return total + self.output_conv.look_ahead

    def set_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """Normalise inputs by these [D]. Raises CheckpointError when their dimension is another or a scale is not positive."""
        dim = self.config.in_channels
        if mean.shape != (dim,) or scale.shape != (dim,):
            raise CheckpointError(f"expected statistics of {dim} dimensions, got {list(mean.shape)} and {list(scale.shape)}; compute them with this codec")
        if not bool(torch.isfinite(mean).all()) or not bool((torch.isfinite(scale) & (scale > 0)).all()):
            raise CheckpointError("expected finite means and positive scales, got others; compute the statistics again")
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def _normalised(self, latents: Tensor) -> Tensor:
        return (latents - self.mean[:, None]) / self.scale[:, None]

    def _last(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.01)  # upstream leaves the default slope here

    def forward(self, latents: Tensor) -> Tensor:
        x = self.input_conv(self._normalised(latents))
        for up, block in self._layers():
            x = block(up(F.leaky_relu(x, self.config.negative_slope)))
        return torch.tanh(self.output_conv(self._last(x)))

    def initial_state(self, batch_size: int, zeros: bool = False) -> list[Any]:
        state: list[Any] = [self.input_conv.initial_state(batch_size)]
        for up, block in self._layers():
            state += [up.initial_state(batch_size, zeros), block.initial_state(batch_size)]
        return [*state, self.output_conv.initial_state(batch_size)]

    def step(self, latents: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """One chunk of frames [B, D, l] -> [B, C, l * hop] and the next state."""
        left = iter(state)
        x, s = self.input_conv.step(self._normalised(latents), next(left))
        after: list[Any] = [s]
        for up, block in self._layers():
            x, s = up.step(F.leaky_relu(x, self.config.negative_slope), next(left))
            x, s2 = block.step(x, next(left))
            after += [s, s2]
        x, s = self.output_conv.step(self._last(x), next(left))
        return torch.tanh(x), [*after, s]


def read_statistics(path: str | Path) -> tuple[Tensor, Tensor]:
    """A `.npy` of float [2, D] (row 0 means, row 1 scales) -> mean [D] and scale [D]. Raises CheckpointError; nothing is unpickled."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected statistics in a .npy file, got one that cannot be read ({error})") from error
    if array.ndim != 2 or array.shape[0] != 2 or not np.issubdtype(array.dtype, np.floating):
        raise CheckpointError(f"{path}: expected floating statistics [2, dimensions], got {list(array.shape)} {array.dtype}")
    mean, scale = torch.from_numpy(array.astype(np.float32))
    return mean, scale


class HiFiGAN(Vocoder[HiFiGANConfig]):
    """A vocoder of quantised latents (AudioDec) or of mel spectrograms (`features`)."""

    config_class: ClassVar[type[Config]] = HiFiGANConfig

    def __init__(self, config: HiFiGANConfig):
        super().__init__(config)
        self.generator = HiFiGANGenerator(config)

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def feature_channels(self) -> int:
        return self.config.in_channels

    @property
    def hop_length(self) -> int:
        return self.config.hop

    def features(self, audio: Tensor, **condition: Any) -> Tensor:
        """Waveform [B, T] -> log-mel [B, n_mels, L]. Raises UsageError for a vocoder of quantised latents: a codec makes those."""
        if self.config.features is None:
            raise UsageError("expected a mel vocoder, got one of quantised latents; join it with its codec: load(encoder, decoder=this)")
        check_audio(audio)
        return log_mel(audio, self.config.features)

    def decode(self, features: Tensor, **condition: Any) -> Tensor:
        """Features [B, D, L] -> waveform [B, L * hop]."""
        self.check_features(features)
        if self.config.out_channels != 1:
            raise UsageError(f"expected one output channel, got a vocoder of {self.config.out_channels}; call model.generator(latents) for [B, C, T]")
        audio: Tensor = self.generator(features)[:, 0]
        return audio

    def stream(self, batch_size: int = 1, start: str = "offline", **condition: Any) -> Stream:
        """A session: `push` frames [B, D, l] -> audio [B, l * hop]. `start`: "offline" as `decode`, or "zeros"."""
        return HiFiGANStream(self, batch_size, start)


class HiFiGANStream(Stream):
    """A session of `HiFiGAN.stream`."""

    def __init__(self, model: HiFiGAN, batch_size: int, start: str):
        if start not in ("offline", "zeros"):
            raise UsageError(f"start: expected 'offline' or 'zeros', got {start!r}")
        if not model.config.causal:
            raise UsageError("expected a causal model for streaming, got a centred one; build it with causal: true")
        self._model, self._batch = model, batch_size
        self._network = without_weight_norm(model.generator)
        self._state = self._network.initial_state(batch_size, zeros=start == "zeros")

    @torch.inference_mode()
    def push(self, chunk: Tensor) -> Tensor:
        if chunk.ndim == 3 and chunk.shape[2] == 0:
            return chunk.new_zeros(self._batch, 0)
        self._model.check_features(chunk)
        audio, self._state = self._network.step(chunk, self._state)
        return audio[:, 0]

    def flush(self) -> Tensor:
        """Nothing is held back: [B, 0]."""
        return self._network.mean.new_zeros(self._batch, 0)
