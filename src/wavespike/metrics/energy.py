"""Energy, counted from the real tensors of one input (operations: NeuroBench, Yik et al., 2025; prices: Horowitz, ISSCC 2014).

Equation: E = sum over operations of count x price. A product with weights counts as accumulates (ACs: one a non-zero input and target) where every value of
its input is -1, 0 or 1, as multiply-accumulates (MACs) otherwise. Two accountings stand side by side:

`published`   Spiking Vocos's formula: depthwise and pointwise layers of the blocks only, E = blocks 7 C L S 4.6 pJ + sum over pointwise layers C I L S r 0.9 pJ
              against blocks (7 C + 2 C I) L 4.6 pJ, with the measured rate r of each layer.
`complete`    everything that is executed: embedding, head, pitch network, FFTs, consistency steps, norms, activations, shortcuts, scales, neurons.

Departures: dense MACs are priced whether or not an operand is zero, because dense hardware does not skip them; `effective_macs` is NeuroBench's figure.
Neurons are counted by their equation (a leak product, two sums, a comparison a step), not by how this package computes them; so are the neurons, recurrent
synapses and delays of recognisers. What depends on the weights alone (clamped time constants, kernels of delays) is prepared once and costs nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wavespike.errors import UsageError, nearest
from wavespike.models.base import Classifier, Codec, Model, Vocoder
from wavespike.models.frame_codec import FrameCodec
from wavespike.models.spiking_vocos import SpikingVocos
from wavespike.models.vocos import Vocos
from wavespike.nn.recording import record_spikes, spiking_layers
from wavespike.nn.recurrent import DelayedLinear, RecurrentLayer
from wavespike.nn.spiking import Neuron
from wavespike.spikes.neurons import decay_of, initial_potential, neuron_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Technology:
    """Prices in picojoules an operation, `byte_pj` a byte from a 32-kilobyte memory. `source` says where the figures are from."""

    add_pj: float
    multiply_pj: float
    byte_pj: float
    source: str

    DIVISION_MULTIPLIES = 4.0
    """A division is priced as so many multiplications (Newton-Raphson), a function (exp, sin, erf, root ...) as so many MACs (a polynomial)."""
    FUNCTION_MACS = 8.0

    @property
    def mac_pj(self) -> float:
        """A multiply-accumulate."""
        return self.add_pj + self.multiply_pj


HOROWITZ = "Horowitz, Computing's energy problem, ISSCC 2014, 45 nm"
JOUPPI = "Jouppi et al., Ten lessons from three generations of TPUs, ISCA 2021, table 2, 7 nm"
TECHNOLOGIES: dict[str, Technology] = {
    "45nm": Technology(add_pj=0.9, multiply_pj=3.7, byte_pj=2.5, source=f"{HOROWITZ}, float32"),
    "45nm-fp16": Technology(add_pj=0.4, multiply_pj=1.1, byte_pj=2.5, source=f"{HOROWITZ}, float16"),
    "45nm-int8": Technology(add_pj=0.03, multiply_pj=0.2, byte_pj=2.5, source=f"{HOROWITZ}, int8"),
    "7nm": Technology(add_pj=0.38, multiply_pj=1.31, byte_pj=1.0625, source=f"{JOUPPI}, float32"),
    "7nm-int8": Technology(add_pj=0.007, multiply_pj=0.07, byte_pj=1.0625, source=f"{JOUPPI}, int8"),
}


def technology(name: str) -> Technology:
    """Prices by name. Raises UsageError naming the nearest."""
    if name not in TECHNOLOGIES:
        raise UsageError(f"expected a technology of {', '.join(TECHNOLOGIES)}, got {name!r}{nearest(name, TECHNOLOGIES)}")
    return TECHNOLOGIES[name]


@dataclasses.dataclass
class Operations:
    """Counts of one layer. `effective_macs` <= `macs` leaves out products with a zero; `fft_*` are those of Fourier transforms; `bytes` is traffic, each
    operand read once and each result written once; `membrane_updates` are potentials that changed (information only: not priced)."""

    macs: float = 0.0
    effective_macs: float = 0.0
    acs: float = 0.0
    multiplies: float = 0.0
    adds: float = 0.0
    comparisons: float = 0.0
    divisions: float = 0.0
    functions: float = 0.0
    neuron_multiplies: float = 0.0
    neuron_adds: float = 0.0
    neuron_comparisons: float = 0.0
    membrane_updates: float = 0.0
    fft_multiplies: float = 0.0
    fft_adds: float = 0.0
    bytes: float = 0.0

    def __iadd__(self, other: Operations) -> Operations:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    def parts_pj(self, t: Technology, memory: bool = False) -> dict[str, float]:
        """Picojoules by kind of work."""
        parts = {
            "MACs": self.macs * t.mac_pj,
            "ACs": self.acs * t.add_pj,
            "neurons": self.neuron_multiplies * t.multiply_pj + (self.neuron_adds + self.neuron_comparisons) * t.add_pj,
            "elementwise": (self.multiplies + self.divisions * t.DIVISION_MULTIPLIES) * t.multiply_pj + (self.adds + self.comparisons) * t.add_pj
            + self.functions * t.FUNCTION_MACS * t.mac_pj,
            "FFTs": self.fft_multiplies * t.multiply_pj + self.fft_adds * t.add_pj,
        }
        return parts | {"memory": self.bytes * t.byte_pj} if memory else parts

    def energy_pj(self, t: Technology, memory: bool = False) -> float:
        """Picojoules."""
        return sum(self.parts_pj(t, memory).values())


def _each(names: str, **cost: float) -> dict[str, dict[str, float]]:
    return {name: cost for name in names.split()}


# elementwise operators of PyTorch -> operations an element of the result
_COST: dict[str, dict[str, float]] = {
    **_each("mul square", multiplies=1),
    **_each("add sub rsub floor ceil round trunc frac bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_right_shift bitwise_left_shift", adds=1),
    **_each("__rshift__ __lshift__ __and__ __xor__ __or__", adds=1),
    **_each("ge gt le lt eq ne abs maximum minimum clamp clamp_min clamp_max relu leaky_relu sign heaviside", comparisons=1),
    **_each("isnan isfinite isinf logical_and logical_or logical_not fmod", comparisons=1),
    **_each("div reciprocal remainder floor_divide", divisions=1),
    **_each("exp exp2 expm1 log log2 log10 log1p sin cos tan tanh sigmoid erf sqrt rsqrt pow acos asin atan atan2 angle softplus sinc", functions=1),
    **_each("gelu silu elu", functions=1, multiplies=1),
    **_each("addcmul", multiplies=1, adds=1),
    **_each("addcdiv", divisions=1, adds=1),
    **_each("lerp", multiplies=1, adds=2),
    **_each("_softmax", functions=1, adds=2, divisions=1),
    **_each("_log_softmax", functions=1, adds=3),
    **_each("polar", functions=2, multiplies=2),
    **_each("searchsorted bucketize", comparisons=10),  # a binary search in about a thousand
}
# reductions -> operations an element of the input
_REDUCE: dict[str, dict[str, float]] = {
    **_each("sum mean cumsum col2im", adds=1),
    **_each("prod cumprod", multiplies=1),
    **_each("_weight_norm_interface", multiplies=2, adds=1),
    **_each("nonzero", comparisons=1),
    **_each("amax amin max min cummax cummin argmax argmin topk sort any all", comparisons=1),
    **_each("var var_mean std linalg_vector_norm norm", multiplies=1, adds=2),
    **_each("native_layer_norm", multiplies=3, adds=4),
    **_each("native_batch_norm", multiplies=1, adds=1),
}
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "mv", "dot", "addmv")
_MOVES = frozenset(_each(
    "view _unsafe_view reshape transpose permute t expand slice select unsqueeze squeeze cat stack split split_with_sizes chunk unbind clone "
    "copy _to_copy contiguous detach alias as_strided empty empty_like new_empty empty_strided zeros zeros_like new_zeros ones ones_like "
    "new_ones full full_like new_full fill zero arange linspace index index_select index_put _index_put_impl gather scatter embedding "
    "constant_pad_nd reflection_pad1d replication_pad1d pad flip roll repeat unfold view_as_real view_as_complex _conj _neg_view "
    "resolve_conj real imag complex where masked_fill lift_fresh scalar_tensor _local_scalar_dense is_same_size item im2col tril triu "
    "diagonal set resize hann_window repeat_interleave narrow select_scatter slice_scatter upsample_nearest1d movedim _reshape_alias randn "
    "rand randint random uniform normal neg resolve_neg equal size sym_size stride numel storage_offset is_nonzero "
))
_FFTS = ("_fft_r2c", "_fft_c2r", "_fft_c2c")


def _numbers(x: Tensor) -> float:
    return float(x.numel())


def is_ternary(x: Tensor) -> bool:
    """Whether every value is -1, 0 or 1: then products with it are accumulates (NeuroBench)."""
    return bool(((x == 0) | (x.abs() == 1)).all())


def _nonzero(x: Tensor) -> Tensor:
    return (x != 0).to(torch.float64)


def count_product(x: Tensor, weight: Tensor, dense: float, effective: float) -> Operations:
    """Operations of a product of an input with weights, given NeuroBench's dense and effective counts."""
    if not x.is_complex() and is_ternary(x):
        return Operations(acs=effective)
    return Operations(macs=dense, effective_macs=effective)


def count_linear(x: Tensor, weight: Tensor) -> Operations:
    """x [..., in] times weight [out, in]; bias excluded."""
    rows, nonzero_rows = x.numel() / x.shape[-1], _nonzero(x).reshape(-1, x.shape[-1]).sum(0)
    effective = float((nonzero_rows * _nonzero(weight).sum(0)).sum())
    return count_product(x, weight, rows * weight.numel(), effective)


def count_convolution(x: Tensor, weight: Tensor, *arguments: Any) -> Operations:
    """A convolution [B, C, ...] of any kind, `arguments` as in aten.convolution after the bias (stride, padding, dilation, transposed, output padding, groups).

    Padding that the operator itself adds is no input and left out, as in NeuroBench; padding that the model added before is (as in the published formula).
    """
    ones = torch.ones_like(x, dtype=torch.float32)
    dense = float(torch.ops.aten.convolution(ones, torch.ones_like(weight, dtype=torch.float32), None, *arguments).sum(dtype=torch.float64))
    effective = float(torch.ops.aten.convolution(_nonzero(x).float(), _nonzero(weight).float(), None, *arguments).sum(dtype=torch.float64))
    return count_product(x, weight, dense, effective)


def count_fft(transforms: float, length: int, real: bool) -> Operations:
    """Radix 2: length/2 log2(length) butterflies of 4 products and 6 sums; half of that for real signals."""
    half = 0.5 if real else 1.0
    log = math.log2(length)
    return Operations(fft_multiplies=transforms * half * 2 * length * log, fft_adds=transforms * half * 3 * length * log)


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operator that PyTorch executes inside the `with`, by the innermost module that is running ("" outside of all).

    `uncounted` lists operators without a rule and their elements, so that nothing is left out in silence.
    """

    def __init__(self, model: nn.Module):
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: dict[str, Operations] = {}
        self.uncounted: dict[str, int] = {}
        self._stack: list[str] = [""]
        self._quiet: list[bool] = [False]
        self._model = model

    def _here(self) -> Operations:
        return self.layers.setdefault(self._stack[-1], Operations())

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Follow which module is running."""
        handles = []
        for name, module in self._model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(name, module)))
            handles.append(module.register_forward_hook(self._leave(module), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, module: nn.Module) -> Any:
        def before(m: nn.Module, inputs: Any) -> None:
            self._stack.append(name)
            self._quiet.append(by_equation(module))

        return before

    def _leave(self, module: nn.Module) -> Any:
        def after(m: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(module, Neuron):
                if isinstance(output, tuple):
                    self._here().__iadd__(count_neurons(module, *inputs, spikes=output[0]))
            elif isinstance(module, RecurrentLayer) and module.spiking and isinstance(output, tuple):
                self._here().__iadd__(count_spiking_layer(module, inputs[0], output[0]))
            self._quiet.pop()
            self._stack.pop()

        return after

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name: str = func.overloadpacket.__name__
        name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        if not self._quiet[-1] and name not in _COST and name not in _REDUCE and name not in _PRODUCTS and name not in _MOVES and name not in _FFTS:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if not self._quiet[-1]:
            self._here().__iadd__(self._count(name, args, kwargs, out))
        return out

    def _count(self, name: str, args: Any, kwargs: Any, out: Any) -> Operations:
        tensors = [a for a in args if isinstance(a, Tensor)]
        result = out[0] if isinstance(out, (tuple, list)) and out else out
        if name in _MOVES or not isinstance(result, Tensor):
            copied = name in ("cat", "clone", "copy", "_to_copy", "index", "gather", "constant_pad_nd", "reflection_pad1d", "stack", "index_select", "repeat")
            return Operations(bytes=2.0 * result.numel() * result.element_size() if copied and isinstance(result, Tensor) else 0.0)
        traffic = float(sum(t.numel() * t.element_size() for t in [*tensors, result]))
        if name in _PRODUCTS:
            ops = self._product(name, args, result)
        elif name in _FFTS:
            real = name != "_fft_c2c"
            dims = args[1]
            length = args[3] if name == "_fft_c2r" else math.prod(tensors[0].shape[d] for d in dims)
            whole = result if name == "_fft_c2r" else tensors[0]
            ops = count_fft(whole.numel() / length, int(length), real)
        elif name in _REDUCE:
            ops = Operations(**{k: v * _numbers(tensors[0]) for k, v in _REDUCE[name].items()})
            if name == "native_layer_norm":
                ops.functions += _numbers(out[1])  # a root a row
        elif name in _COST:
            ops = self._elementwise(name, args, tensors, result)
        else:
            self.uncounted[name] = self.uncounted.get(name, 0) + result.numel()
            return Operations()
        ops.bytes += traffic
        return ops

    @staticmethod
    def _elementwise(name: str, args: Any, tensors: list[Tensor], result: Tensor) -> Operations:
        n = _numbers(result)
        if name == "pow" and len(args) > 1 and not isinstance(args[1], Tensor) and args[1] == 2:
            name = "mul"
        if any(t.is_complex() for t in tensors):
            both = len(tensors) == 2 and all(t.is_complex() for t in tensors)
            if name == "mul":
                return Operations(multiplies=4 * n, adds=2 * n) if both else Operations(multiplies=2 * n)
            if name in ("add", "sub", "rsub"):
                return Operations(adds=2 * n)
            if name == "div":
                return Operations(divisions=2 * n)
            if name == "abs":
                return Operations(multiplies=2 * n, adds=n, functions=n)
        return Operations(**{k: v * n for k, v in _COST[name].items()})

    def _product(self, name: str, args: Any, result: Tensor) -> Operations:
        if name == "convolution":
            ops = count_convolution(args[0], args[1], *args[3:])
            return _plus(ops, adds=_numbers(result) if args[2] is not None else 0.0)
        bias = name in ("addmm", "baddbmm", "addmv")
        a, b = (args[1], args[2]) if bias else (args[0], args[1])
        if name in ("mv", "addmv", "dot"):
            b = b[:, None]
            a = a if a.ndim > 1 else a[None]
        # [.., n, k] @ [.., k, m]: which factor is the input? one that is spikes; otherwise it does not matter
        spikes, other = (a, b.transpose(-1, -2)) if not is_ternary(b) or is_ternary(a) else (b.transpose(-1, -2), a)
        if spikes.ndim == 2:
            ops = count_linear(spikes, other)
        else:
            effective = float(torch.bmm(_nonzero(spikes).sum(1, keepdim=True), _nonzero(other).sum(1, keepdim=True).transpose(1, 2)).sum())
            ops = count_product(spikes, other, float(spikes.numel()) * other.shape[-2], effective)
        return _plus(ops, adds=_numbers(result) if bias else 0.0)


def _plus(ops: Operations, **more: float) -> Operations:
    for name, value in more.items():
        setattr(ops, name, getattr(ops, name) + value)
    return ops


def count_neurons(neuron: Neuron, x: Tensor, v: Tensor | None = None, *, spikes: Tensor) -> Operations:
    """Operations of a neuron layer by its equation, for inputs [S, ...]: IF one sum, LIF and PLIF two sums and a product, a comparison; a soft reset one sum
    a spike, a hard reset none (a choice). Potentials that change are counted from the trajectory."""
    c = neuron.config
    sites = float(x.numel())
    ops = Operations(neuron_adds=sites * (1 if c.kind == "if" else 2), neuron_multiplies=0.0 if c.kind == "if" else sites, neuron_comparisons=sites)
    if c.reset == "soft":
        ops.neuron_adds += float(spikes.sum())
    potential = initial_potential(x, c) if v is None else v
    decay = decay_of(c, neuron.w)
    for current in x:
        _, after = neuron_step(current, potential, decay, c)
        ops.membrane_updates += float((after != potential).sum())
        potential = after
    ops.bytes = 2.0 * x.numel() * x.element_size() + 2.0 * potential.numel() * potential.element_size() * x.shape[0]
    return ops


def by_equation(module: nn.Module) -> bool:
    """Whether a module's own operators (not those of the layers inside it) are left out, because its equation is counted instead."""
    return isinstance(module, Neuron) or (isinstance(module, RecurrentLayer) and module.spiking)


def count_spiking_layer(layer: RecurrentLayer, x: Tensor, spikes: Tensor) -> Operations:
    """Neurons, recurrent synapses and delays of a layer [S, B, F] -> [S, B, H (x 2)]; its linear map and norm count themselves where there is no delay.

    alpha (u - q s) + (1 - alpha) I: two products, a sum, a comparison, and a sum a spike for the reset. Adaptation beta w + a u and I - w: two products,
    two sums, and a sum a spike for b.
    """
    sites, fired = float(spikes.numel()), float(torch.count_nonzero(spikes))
    adaptive = layer.adaptive
    ops = Operations(neuron_multiplies=sites * (4 if adaptive else 2), neuron_adds=sites * (3 if adaptive else 1) + fired * (2 if adaptive else 1),
                     neuron_comparisons=sites, bytes=spikes.element_size() * sites * (3 if adaptive else 2))
    sides = 2 if layer.bidirectional else 1
    if layer.recurrent:
        V = layer.get_parameter("V.weight")
        targets = (_nonzero(V) * (1 - torch.eye(len(V), device=V.device))).sum(1)  # [H], row-vector product s V
        halves = spikes.chunk(sides, -1)
        heard = halves[0][:-1].flatten(0, 1).sum(0) + (halves[1][1:].flatten(0, 1).sum(0) if sides == 2 else 0)  # spikes that a step follows
        ops.acs += float((heard * targets).sum())
    if isinstance(layer.W, DelayedLinear):  # one product a synapse, whatever its delay
        weight = layer.W.weight
        rows = x.flatten(0, -2)
        effective = float((_nonzero(rows).sum(0) * _nonzero(weight).sum(0)).sum())
        done = count_product(x, weight, float(len(rows)) * weight.numel(), effective)
        for _ in range(sides):  # each direction has its own delays in time
            ops += done
    return ops


@dataclasses.dataclass(frozen=True)
class Counted:
    """One model on one input: operations by layer, in the order of the model; rates of its spiking layers; operators without a rule."""

    layers: dict[str, Operations]
    rates: dict[str, float]
    uncounted: dict[str, int]

    @property
    def total(self) -> Operations:
        total = Operations()
        for ops in self.layers.values():
            total += ops
        return total

    def grouped(self) -> dict[str, Operations]:
        """Layers of a block together: `backbone.convnext.3`, `head.pitch`, ..."""
        out: dict[str, Operations] = {}
        for name, ops in self.layers.items():
            words = name.split(".")
            cut = next((i + 1 for i, w in enumerate(words) if w.isdigit()), min(len(words), 2))
            key = "head" if words[0] == "head" and (len(words) == 1 or words[1] != "pitch") else ".".join(words[:2] if words[0] == "head" else words[:cut])
            out.setdefault(key or "outside of layers", Operations()).__iadd__(ops)
        return out


def count(model: Model[Any], audio: Tensor, **condition: Any) -> Counted:
    """Operations of a model on audio [B, T]: of `decode` for a vocoder and of `logits` for a recogniser (the features are given to them), of the whole
    call otherwise."""
    with torch.no_grad():
        if isinstance(model, (Vocoder, Classifier)):
            features = model.features(audio, **condition).detach()
            if isinstance(model, Classifier):
                return count_run(model, lambda: model.logits(features))
            return count_run(model, lambda: model.decode(features, **condition))
        if isinstance(model, Codec) and audio.ndim == 2:
            return count_run(model, lambda: model(audio[:, None], **condition))
        return count_run(model, lambda: model(audio, **condition))


def count_run(model: nn.Module, run: Callable[[], Any], *, rates: bool = True) -> Counted:
    """Operations of anything that runs `model`, and the firing rates of its layers unless `rates` is false."""
    with torch.no_grad():
        measured: dict[str, float] = {}
        if rates and spiking_layers(model):  # a run of its own: recording costs operations too
            with record_spikes(model) as record:
                run()
            measured = record.rates
        counter = OperationCounter(model)
        with counter.modules(), counter:
            run()
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    layers = dict(sorted(counter.layers.items(), key=lambda item: order.get(item[0], -1)))
    return Counted(layers, measured, counter.uncounted)


@dataclasses.dataclass(frozen=True)
class Published:
    """The paper's accounting for one backbone, picojoules a frame. `rate` is the size-weighted mean of the measured rates of the pointwise layers' inputs."""

    rate: float
    spiking_pj: float
    dense_pj: float
    other_pj: float
    """Embedding and the head's linear layer, which the paper leaves out."""
    other_dense_pj: float
    """The same in the dense network; less in the spiking one only where its head reads spikes."""

    @property
    def ratio(self) -> float:
        """Spiking over dense: 0.1465 for r = 0.176, S = 4, C = 512, I = 1536."""
        return self.spiking_pj / self.dense_pj

    @property
    def ratio_with_embed_and_head(self) -> float:
        """The same with embedding and head on both sides: 0.202 for the published sizes."""
        return (self.spiking_pj + self.other_pj) / (self.dense_pj + self.other_dense_pj)

    def to_dict(self) -> dict[str, float]:
        return {"ratio": self.ratio, "ratio_with_embed_and_head": self.ratio_with_embed_and_head, "rate": self.rate,
                "spiking_pj_per_frame": self.spiking_pj, "dense_pj_per_frame": self.dense_pj}


def published_energy(rates: Sequence[tuple[float, float]], dim: int, intermediate_dim: int, time_steps: int, other_macs: int = 0,
                     prices: Technology = TECHNOLOGIES["45nm"]) -> Published:
    """The paper's formula a frame, `rates` the firing rates of (first, second) neurons of every block, `other_macs` those of embedding and head.

    spiking = sum over blocks of 7 C S E_mac + C I S (r1 + r2) E_ac; dense = blocks (7 C + 2 C I) E_mac.
    """
    blocks, mac, ac = len(rates), prices.mac_pj, prices.add_pj
    fired = sum(first + second for first, second in rates)
    spiking = blocks * 7 * dim * time_steps * mac + dim * intermediate_dim * time_steps * fired * ac
    dense = blocks * (7 * dim + 2 * dim * intermediate_dim) * mac
    return Published(fired / (2 * blocks), spiking, dense, other_macs * mac, other_macs * mac)


def published_of(model: SpikingVocos, rates: Mapping[str, float], prices: Technology = TECHNOLOGIES["45nm"]) -> Published:
    """`published_energy` of a model with measured rates (the record of `record_spikes`)."""
    b = model.config.backbone
    pairs = [(0.0, 0.0)] * b.num_layers
    if b.mlp == "spiking":
        pairs = [(rates[f"backbone.convnext.{i}.neuron1"], rates[f"backbone.convnext.{i}.neuron2"]) for i in range(b.num_layers)]
    elif b.mlp == "silenced":
        pairs = [(rates[f"backbone.convnext.{i}.neuron1"], 0.0) for i in range(b.num_layers)]
    embed, head = model.backbone.embed.weight.numel(), model.head.out.weight.numel()
    if b.readout == "membrane":
        return published_energy(pairs, b.dim, b.intermediate_dim, b.time_steps, embed + head, prices)
    fired = head * rates["backbone.readout"]  # a weight for every neuron and step
    found = published_energy(pairs, b.dim, b.intermediate_dim, b.time_steps, embed + head // b.time_steps, prices)
    return dataclasses.replace(found, other_pj=embed * prices.mac_pj + fired * prices.add_pj)


@dataclasses.dataclass(frozen=True)
class EnergyReport:
    """What a model costs on one input, beside a baseline (None: it has none)."""

    model: Counted
    baseline: Counted | None
    baseline_name: str | None
    published: Published | None
    technology_name: str
    seconds: float
    memory: bool = False

    @property
    def technology(self) -> Technology:
        return TECHNOLOGIES[self.technology_name]

    @property
    def rates(self) -> dict[str, float]:
        return self.model.rates

    @property
    def energy_pj(self) -> float:
        """Of the whole input, complete accounting."""
        return self.model.total.energy_pj(self.technology, self.memory)

    @property
    def baseline_pj(self) -> float | None:
        return None if self.baseline is None else self.baseline.total.energy_pj(self.technology, self.memory)

    @property
    def ratio(self) -> float | None:
        """Complete accounting: model over baseline."""
        return None if self.baseline_pj is None else self.energy_pj / self.baseline_pj

    def to_dict(self) -> dict[str, Any]:
        """Plain data: `published.ratio`, `complete.ratio`, `layers`, `rates`, ..."""
        t = self.technology

        def millijoules(pj: float | None) -> float | None:
            return None if pj is None else pj * 1e-9 / self.seconds

        return {
            "technology": {"name": self.technology_name, **dataclasses.asdict(t), "mac_pj": t.mac_pj},
            "seconds": self.seconds,
            "baseline": self.baseline_name,
            "published": None if self.published is None else self.published.to_dict(),
            "complete": {"ratio": self.ratio, "millijoules_per_second": millijoules(self.energy_pj), "baseline_millijoules_per_second": millijoules(self.baseline_pj),
                         "microjoules": self.energy_pj * 1e-6, "baseline_microjoules": None if self.baseline_pj is None else self.baseline_pj * 1e-6,
                         "memory": self.memory, "parts_pj": self.model.total.parts_pj(t, self.memory),
                         "baseline_parts_pj": None if self.baseline is None else self.baseline.total.parts_pj(t, self.memory)},
            "operations": dataclasses.asdict(self.model.total),
            "baseline_operations": None if self.baseline is None else dataclasses.asdict(self.baseline.total),
            "layers": _rows(self.model, t, self.memory),
            "baseline_layers": None if self.baseline is None else _rows(self.baseline, t, self.memory),
            "rates": self.rates,
            "uncounted": {**self.model.uncounted, **({} if self.baseline is None else self.baseline.uncounted)},
        }


def _rows(counted: Counted, t: Technology, memory: bool) -> list[dict[str, Any]]:
    return [{"name": name, **dataclasses.asdict(ops), "energy_pj": ops.energy_pj(t, memory)} for name, ops in counted.layers.items()]


def energy(model: Model[Any], audio: Tensor, *, baseline: Model[Any] | None = None, technology_name: str = "45nm", memory: bool = False,
           **condition: Any) -> EnergyReport:
    """Count what `model` costs on audio [B, T] or [T] at its rate, beside `baseline`; the default baseline of a spiking vocoder or codec of frames is its dense twin.

    For a recogniser the audio is one inference (`complete.microjoules`).

    The twin has random weights: what a dense network costs does not depend on them.
    """
    prices = technology(technology_name)
    audio = audio[None] if audio.ndim == 1 else audio
    counted = count(model, audio, **condition)
    name = None if baseline is None else "given model"
    published = None
    if isinstance(model, SpikingVocos):
        published = published_of(model, counted.rates, prices)
        if baseline is None:
            with torch.random.fork_rng():
                baseline, name = Vocos(model.config.dense_twin()).eval().to(audio.device), "dense twin"
    if isinstance(model, FrameCodec) and baseline is None:
        with torch.random.fork_rng():
            baseline = model.dense_twin()
        if baseline is not None:
            baseline, name = baseline.to(audio.device), "dense twin"
    if baseline is not None and baseline.sample_rate != model.sample_rate:
        raise UsageError(f"expected a baseline at {model.sample_rate} Hz, got {baseline.sample_rate} Hz; choose one of the same rate")
    other = None if baseline is None else count(baseline, audio, **condition)
    return EnergyReport(counted, other, name, published, technology_name, audio.numel() / model.sample_rate, memory)
