"""SpArch: spiking and dense recognition of spoken commands (Bittar and Garner, 2022).

Equation: score = sum_t softmax(readout(layers(x))_t), layers as in `wavespike.nn.recurrent`; for dense nets score = norm(W sum_t softmax(layers(x)_t)).
Departures: state starts at zero, evaluation is deterministic, padding is masked; `SpArch` puts the front end and the labels into the model.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError, FeatureError, UsageError
from wavespike.models.base import Classifier, ClassifierStream, check_audio
from wavespike.nn.recurrent import (
    GATES,
    KINDS,
    SPIKING,
    LayerState,
    MaskedBatchNorm,
    MaskedLayerNorm,
    RecurrentLayer,
    SpikingReadout,
    make_sequence_norm,
    padding_mask,
)
from wavespike.signal.filterbank import FilterbankConfig, filterbank, frame_count
from wavespike.spikes.surrogate import SurrogateConfig

ModelType = Literal["LIF", "adLIF", "RLIF", "RadLIF", "SE-adLIF", "MLP", "RNN", "LiGRU", "GRU"]


def _flatten(x: Tensor, input_size: int) -> Tensor:
    """(B, S, F) or (B, S, F, channels) -> time first (S, B, F * channels)."""
    if x.ndim == 4:
        x = x.flatten(2)
    if x.ndim != 3 or x.shape[-1] != input_size:
        raise FeatureError(f"expected features [batch, steps, {input_size}], got {list(x.shape)}; is it the right front end?")
    if x.shape[1] == 0:
        raise FeatureError(f"expected features [batch, steps, {input_size}] with at least one step, got none")
    return x.transpose(0, 1).contiguous()


def _input_size(input_shape: tuple[int, ...]) -> int:
    size = 1
    for n in input_shape[2:]:
        size *= int(n)
    return size


class SNN(nn.Module):
    """A spiking network with SpArch's constructor: (B, S, F) -> output and the firing rates of all spiking neurons.

    The output is [B, classes] (summed softmax) with `use_readout_layer`, else the spikes [B, S, size] of the last layer.
    """

    def __init__(self, input_shape: tuple[int, ...], layer_sizes: list[int] | tuple[int, ...], neuron_type: str = "LIF", threshold: float = 1.0,
                 dropout: float = 0.0, normalization: str = "batchnorm", use_bias: bool = False, bidirectional: bool = False,
                 use_readout_layer: bool = True, *, initial_state: str = "zeros", surrogate: SurrogateConfig | None = None,
                 max_delay_frames: int = 0, heterogeneous: bool = True):
        super().__init__()
        if neuron_type not in SPIKING:
            raise ConfigError(f"expected a neuron of {', '.join(SPIKING)}, got {neuron_type!r}; dense cells are in ANN")
        self.input_size = size = _input_size(tuple(input_shape))
        self.use_readout_layer, self.bidirectional = use_readout_layer, bidirectional
        self.snn = nn.ModuleList()
        for hidden in layer_sizes[:-1] if use_readout_layer else layer_sizes:
            layer = RecurrentLayer(size, hidden, neuron_type, threshold=threshold, dropout=dropout, normalization=normalization, use_bias=use_bias,
                                   bidirectional=bidirectional, initial_state=initial_state, surrogate=surrogate,
                                   max_delay_frames=max_delay_frames, heterogeneous=heterogeneous)
            self.snn.append(layer)
            size = layer.output_size
        if use_readout_layer:
            self.snn.append(SpikingReadout(size, layer_sizes[-1], normalization=normalization, use_bias=use_bias))

    @property
    def layers(self) -> list[RecurrentLayer]:
        """The spiking layers, in order."""
        return [m for m in self.snn if isinstance(m, RecurrentLayer)]

    @property
    def readout(self) -> SpikingReadout:
        return cast(SpikingReadout, self.snn[-1])

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, S, F) or (B, S, F, channels), lengths [B] in steps when padded."""
        if self.use_readout_layer:
            potentials, rates, mask = self.potentials(x, lengths)
            probabilities = torch.softmax(potentials, -1)
            if mask is not None:
                probabilities = probabilities * mask[..., None]
            return probabilities.sum(0), rates
        h, rates = self.hidden(_flatten(x, self.input_size), lengths)
        return h.transpose(0, 1), rates

    def hidden(self, h: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Time first [S, B, F] -> output of the last spiking layer [S, B, H] and all rates."""
        rates = []
        for layer in self.layers:
            h, r = layer(h, lengths)
            rates.append(r)
        return h, torch.cat(rates) if rates else h.new_zeros(0)

    def potentials(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Read-out potentials [S, B, classes], rates and the mask [S, B] of real steps (None without padding)."""
        h, rates = self.hidden(_flatten(x, self.input_size), lengths)
        mask = padding_mask(lengths, len(h))
        u, _ = self.readout.potentials(h, self.readout.initial_state(h.shape[1]), mask)
        return u, rates, mask

    def spikes(self, x: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """The spike trains [B, S, H] of every layer (before dropout in evaluation mode): what figures and energy counts read."""
        h = _flatten(x, self.input_size)
        trains = []
        for layer in self.layers:
            h, _ = layer(h, lengths)
            trains.append(h.transpose(0, 1))
        return trains

    def initial_state(self, batch_size: int) -> list[LayerState]:
        """State of every layer and of the read-out before the first step."""
        readout = [LayerState(cell=self.readout.initial_state(batch_size))] if self.use_readout_layer else []
        return [*(layer.initial_state(batch_size) for layer in self.layers), *readout]

    def step(self, x: Tensor, state: list[LayerState]) -> tuple[Tensor, list[LayerState]]:
        """A chunk (B, S, F) of any number of steps -> class probabilities (or spikes) of each step [B, S, classes] and the next state."""
        y, after = self.step_potentials(x, state)
        return (torch.softmax(y, -1) if self.use_readout_layer else y), after

    def step_potentials(self, x: Tensor, state: list[LayerState]) -> tuple[Tensor, list[LayerState]]:
        """`step` before the softmax: the read-out's potentials (or, without a read-out, spikes)."""
        h = _flatten(x, self.input_size)
        after = []
        for layer, s in zip(self.layers, state, strict=False):
            h, s = layer.step(h, s)
            after.append(s)
        if self.use_readout_layer:
            h, last = self.readout.potentials(h, cast(Tensor, state[-1].cell))
            after.append(LayerState(cell=last))
        return h.transpose(0, 1), after


class ANN(nn.Module):
    """A dense network with SpArch's constructor: (B, S, F) -> output and None (it has no firing rates)."""

    def __init__(self, input_shape: tuple[int, ...], layer_sizes: list[int] | tuple[int, ...], ann_type: str = "MLP", dropout: float = 0.0,
                 normalization: str = "batchnorm", use_bias: bool = False, bidirectional: bool = False, use_readout_layer: bool = True):
        super().__init__()
        if ann_type not in GATES:
            raise ConfigError(f"expected a cell of {', '.join(GATES)}, got {ann_type!r}; spiking neurons are in SNN")
        self.input_size = size = _input_size(tuple(input_shape))
        self.use_readout_layer, self.bidirectional = use_readout_layer, bidirectional
        self.ann = nn.ModuleList()
        for hidden in layer_sizes[:-1] if use_readout_layer else layer_sizes:
            layer = RecurrentLayer(size, hidden, ann_type, dropout=dropout, normalization=normalization, use_bias=use_bias, bidirectional=bidirectional)
            self.ann.append(layer)
            size = layer.output_size
        if use_readout_layer:
            self.ann.append(DenseReadout(size, layer_sizes[-1], normalization=normalization, use_bias=use_bias))

    @property
    def layers(self) -> list[RecurrentLayer]:
        """The recurrent layers, in order."""
        return [m for m in self.ann if isinstance(m, RecurrentLayer)]

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, None]:
        """x (B, S, F) or (B, S, F, channels), lengths [B] in steps when padded."""
        h = _flatten(x, self.input_size)
        for layer in self.layers:
            h, _ = layer(h, lengths)
        if not self.use_readout_layer:
            return h.transpose(0, 1), None
        readout = cast(DenseReadout, self.ann[-1])
        probabilities = torch.softmax(h, -1)
        mask = padding_mask(lengths, len(h))
        if mask is not None:
            probabilities = probabilities * mask[..., None]
        return readout(probabilities.sum(0)), None

    def initial_state(self, batch_size: int) -> list[LayerState]:
        """State of every layer, and the sum so far, before the first step."""
        total = self.layers[0].initial_state(batch_size).cell
        assert isinstance(total, Tensor)
        return [*(layer.initial_state(batch_size) for layer in self.layers), LayerState(cell=total.new_zeros(batch_size, self.layers[-1].output_size))]

    def step(self, x: Tensor, state: list[LayerState]) -> tuple[Tensor, list[LayerState]]:
        """A chunk (B, S, F) -> what the score would be were each step the last [B, S, classes], and the next state."""
        h = _flatten(x, self.input_size)
        after = []
        for layer, s in zip(self.layers, state, strict=False):
            h, s = layer.step(h, s)
            after.append(s)
        if not self.use_readout_layer:
            return h.transpose(0, 1), [*after, state[-1]]
        total = cast(Tensor, state[-1].cell) + torch.softmax(h, -1).cumsum(0)  # [S, B, H]
        scores = torch.stack([cast(DenseReadout, self.ann[-1])(row) for row in total.unbind(0)])
        return scores.transpose(0, 1), [*after, LayerState(cell=total[-1])]


class DenseReadout(nn.Module):
    """SpArch's dense read-out: norm(W x) of the summed softmax [B, F] -> [B, classes]."""

    def __init__(self, input_size: int, classes: int, *, normalization: str = "batchnorm", use_bias: bool = False):
        super().__init__()
        self.W = nn.Linear(input_size, classes, bias=use_bias)
        self.norm: MaskedBatchNorm | MaskedLayerNorm | None = make_sequence_norm(normalization, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.W(x)
        return y if self.norm is None else self.norm(y[None])[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpikeInputConfig(Config):
    """Input that is spikes already (SHD, SSC, `wavespike prepare spikes`): counts of `units` channels in `bins` bins over `duration_s`."""

    type_name: ClassVar[str] = "spikes"

    units: int = 700
    bins: int = 100
    duration_s: float = 1.4


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpArchConfig(Config):
    """SpArch's model options under their own names and defaults, then ours.

    `nb_layers` counts the read-out. `max_delay_frames` > 0: learnable delays; `heterogeneous` false: one time constant a layer;
    `frames_per_step`: feature frames put side by side into one step; `logits`: classify on `summed-softmax` (published) or `mean-potential`.
    """

    type_name: ClassVar[str] = "sparch"

    labels: tuple[str, ...] = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    features: FilterbankConfig | SpikeInputConfig = FilterbankConfig()
    model_type: ModelType = "LIF"
    nb_layers: int = 3
    nb_hiddens: int = 128
    pdrop: float = 0.1
    normalization: str = "batchnorm"
    use_bias: bool = False
    bidirectional: bool = False
    threshold: float = 1.0
    initial_state: Literal["zeros", "random"] = "zeros"
    surrogate: SurrogateConfig = SurrogateConfig(name="boxcar")
    max_delay_frames: int = 0
    heterogeneous: bool = True
    frames_per_step: int = 1
    logits: Literal["summed-softmax", "mean-potential"] = "summed-softmax"

    def __post_init__(self) -> None:
        if self.model_type not in KINDS:
            raise ConfigError(f"model_type: expected one of {', '.join(KINDS)}, got {self.model_type!r}")
        if self.nb_layers < 2 or self.nb_hiddens < 1 or self.frames_per_step < 1 or self.max_delay_frames < 0:
            raise ConfigError(f"expected nb_layers >= 2 (with the read-out), nb_hiddens >= 1, frames_per_step >= 1, max_delay_frames >= 0, "
                              f"got {self.nb_layers}, {self.nb_hiddens}, {self.frames_per_step}, {self.max_delay_frames}")
        if not 0 <= self.pdrop < 1:
            raise ConfigError(f"pdrop: expected 0 <= pdrop < 1, got {self.pdrop}")
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"labels: expected at least two different labels, got {list(self.labels)}")
        if self.logits == "mean-potential" and self.model_type in GATES:
            raise ConfigError("logits: expected summed-softmax for a dense network, got mean-potential, which only a spiking read-out has")

    @property
    def feature_channels(self) -> int:
        return self.features.units if isinstance(self.features, SpikeInputConfig) else self.features.num_mel_bins


class SpArch(Classifier[SpArchConfig]):
    """A recogniser with front end, network and labels. `self.net` is the `SNN` or `ANN`."""

    config_class: ClassVar[type[Config]] = SpArchConfig

    def __init__(self, config: SpArchConfig):
        super().__init__(config)
        c = config
        shape = (1, 1, c.feature_channels * c.frames_per_step)
        sizes = [c.nb_hiddens] * (c.nb_layers - 1) + [len(c.labels)]
        self.net: SNN | ANN
        if c.model_type in GATES:
            self.net = ANN(shape, sizes, c.model_type, c.pdrop, c.normalization, c.use_bias, c.bidirectional)
        else:
            self.net = SNN(shape, sizes, c.model_type, c.threshold, c.pdrop, c.normalization, c.use_bias, c.bidirectional,
                           initial_state=c.initial_state, surrogate=c.surrogate, max_delay_frames=c.max_delay_frames, heterogeneous=c.heterogeneous)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.config.labels

    @property
    def sample_rate(self) -> int:
        return 0 if isinstance(self.config.features, SpikeInputConfig) else self.config.features.sample_rate

    @property
    def feature_channels(self) -> int:
        return self.config.feature_channels

    @property
    def hop_length(self) -> int:
        """Samples a feature frame (0 for spike input)."""
        return 0 if isinstance(self.config.features, SpikeInputConfig) else self.config.features.hop_length

    def features(self, audio: Tensor, **condition: Any) -> Tensor:
        """Waveform [B, T] -> log-mel energies [B, C, L]. A clip shorter than one step is padded with silence to one."""
        front = self.config.features
        if isinstance(front, SpikeInputConfig):
            raise FeatureError("expected spike counts [batch, units, bins] for this model, got audio; make them with `wavespike prepare spikes`")
        check_audio(audio)
        least = front.frame_length_samples + (self.config.frames_per_step - 1) * front.hop_length
        if audio.shape[1] < least:
            audio = torch.nn.functional.pad(audio, (0, least - audio.shape[1]))
        return filterbank(audio, front)

    def frame_lengths(self, samples: Tensor) -> Tensor:
        """Lengths [B] in samples -> in feature frames."""
        front = self.config.features
        if isinstance(front, SpikeInputConfig):
            return samples
        least = self.config.frames_per_step
        return torch.tensor([max(least, frame_count(int(n), front)) for n in samples], device=samples.device)

    def steps(self, features: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Features [B, C, L] and lengths in frames -> the network's input [B, S, C * frames_per_step] and lengths in steps. The rest of L is dropped."""
        self.check_features(features)
        n = self.config.frames_per_step
        x = features.transpose(1, 2)  # [B, L, C]
        S = x.shape[1] // n
        if S == 0:
            raise FeatureError(f"expected at least {n} frames (one step), got {x.shape[1]}; use a longer clip")
        x = x[:, : S * n].reshape(x.shape[0], S, -1)
        return x, None if lengths is None else (lengths // n).clamp(1, S)

    def scores(self, features: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`logits` and the firing rates [neurons] (None for dense networks)."""
        x, lengths = self.steps(features, lengths)
        if self.config.logits == "mean-potential":
            assert isinstance(self.net, SNN)
            u, rates, mask = self.net.potentials(x, lengths)
            if mask is None:
                return u.mean(0), rates
            return (u * mask[..., None]).sum(0) / mask.sum(0)[:, None], rates
        out: tuple[Tensor, Tensor | None] = self.net(x, lengths)
        return out

    def logits(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features [B, C, L] (padded: with lengths [B] in frames) -> [B, classes]; the largest is the answer."""
        return self.scores(features, lengths)[0]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Scores in 0..1 that sum to 1: the mean of the steps' softmax where that is what `logits` sums, else their softmax."""
        if self.config.logits == "summed-softmax" and isinstance(self.net, SNN):
            return logits / logits.sum(-1, keepdim=True)
        return torch.softmax(logits, -1)

    def stream(self, batch_size: int = 1, **condition: Any) -> SpArchStream:
        """A session that takes chunks of audio [B, t] (or of spike counts [B, units, l]) while it comes. Raises UsageError for bidirectional models."""
        if self.config.bidirectional:
            raise UsageError("expected a causal model for streaming, got a bidirectional one, which needs the end first; use logits on the whole")
        return SpArchStream(self, batch_size)


class SpArchStream(ClassifierStream):
    """`push` returns the logits so far [B, classes] as if the audio ended here (frames that lie wholly inside it); they equal the offline ones.

    The state is `state`, `pending` (samples of unfinished frames) and `frames` (frames of an unfinished step).
    """

    def __init__(self, model: SpArch, batch_size: int):
        self.model, self.batch_size = model, batch_size
        self.state = model.net.initial_state(batch_size)
        weight = next(model.parameters())
        front = model.config.features
        self.pending = weight.new_zeros(batch_size, 0)
        self.frames = weight.new_zeros(batch_size, model.feature_channels, 0)
        self.front = None if isinstance(front, SpikeInputConfig) else front
        self.total = weight.new_zeros(batch_size, len(model.labels))
        self.steps = 0
        self.heard_samples = 0

    @torch.inference_mode()
    def push(self, chunk: Tensor) -> Tensor:
        if self.front is not None:
            if chunk.ndim != 2 or chunk.shape[0] != self.batch_size:
                raise FeatureError(f"expected audio [{self.batch_size}, samples], got {list(chunk.shape)}")
            self.heard_samples += chunk.shape[1]
            self.pending = torch.cat([self.pending, chunk], 1)
            count = frame_count(self.pending.shape[1], self.front)
            if count == 0:
                return self.logits
            new = filterbank(self.pending, self.front)
            self.pending = self.pending[:, count * self.front.hop_length :]
        else:
            new = chunk
        self.frames = torch.cat([self.frames, new], 2)
        n = self.model.config.frames_per_step
        ready = self.frames.shape[2] // n * n
        if ready:
            self._advance(self.frames[..., :ready])
            self.frames = self.frames[..., ready:]
        return self.logits

    def _advance(self, features: Tensor) -> None:
        x, _ = self.model.steps(features)
        net = self.model.net
        if isinstance(net, ANN):
            scores, self.state = net.step(x, self.state)
            self.total = scores[:, -1]
        elif self.model.config.logits == "summed-softmax":
            scores, self.state = net.step(x, self.state)
            self.total = self.total + scores.sum(1)
        else:
            u, self.state = net.step_potentials(x, self.state)
            self.total = self.total + u.sum(1)
        self.steps += x.shape[1]

    @property
    def logits(self) -> Tensor:
        """[B, classes] of what was heard so far; zeros before the first step."""
        return self.total / max(1, self.steps) if self.model.config.logits == "mean-potential" else self.total

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The final logits. A clip shorter than one step is padded with silence, as offline."""
        if self.steps == 0 and self.front is not None and self.heard_samples:
            least = self.front.frame_length_samples + (self.model.config.frames_per_step - 1) * self.front.hop_length
            missing = least - self.heard_samples
            return self.push(self.pending.new_zeros(self.batch_size, max(0, missing)))
        return self.logits
