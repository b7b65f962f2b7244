"""Training spiking vocoders: self-architectural distillation (Spiking Vocos, arXiv 2509.13049) and regularisers of rate and of counted energy.

L = L_task + f feature + o output + q pitch + r rate + e energy, where L_task is that of the adversarial or of the reconstruction task and

    feature   mean squared error of adapted student potentials and the teacher's block outputs, / the student's layers
    output    L1(log m, log m_t) + p (IP + GD + PTD) of the heads' magnitudes and phases
    pitch     cross entropy with the teacher's pitch classes, where it hears voice, and with its voicing (Hinton et al., 2015)
    rate      sum over layers of relu(fmin - r) + relu(r - fmax)          (SpArch: Bittar and Garner, 2022)
    energy    relu(size-weighted rate - target): counted accumulates, as a share of those of a network that always fires

Departures: every student block is supervised, the last included (alignment `aligned`; `published` keeps the original's off-by-one); the phase losses have a
gradient (the original's is zero); layers that fall silent or saturate are reported.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError
from wavespike.hub.load import load
from wavespike.models.base import Model
from wavespike.models.spiking_vocos import SpikingVocos
from wavespike.models.vocos import Vocos
from wavespike.nn.convnext import ConvNeXtBackbone
from wavespike.nn.heads import ISTFTHead, SourceFilterHead, reads_pitch
from wavespike.nn.spiking import SpikingConvNeXtBackbone, spread
from wavespike.training.adversarial import AdversarialConfig, AdversarialTask
from wavespike.training.config import TaskConfig, TrainConfig
from wavespike.training.reconstruction import ReconstructionConfig, ReconstructionTask
from wavespike.training.spiking_losses import (
    Alignment,
    FeatureAdapter,
    LinearAdapter,
    feature_distillation,
    firing_rates,
    output_distillation,
    pitch_distillation,
    rate_regulariser,
    target_energy_regulariser,
    teacher_states,
)
from wavespike.training.task import Batch, Figures
from wavespike.training.vocoder import VocoderTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig(Config):
    """Learning from a dense Vocos of the same features.

    teacher             a preset, a model folder or a hub id
    feature_weight, output_weight, phase_weight   f, o and p above; 0 leaves a term out
    pitch_weight        q above, for source-filter heads; the harmonic source of training is then at the teacher's pitch
    alignment           which student and teacher layers are compared
    adapter             "published": GELU(LN(1x1)); "linear": 1x1 alone, which can follow a teacher's unbounded states
    relative            the feature term is divided by the mean square of the teacher's last state
    start_from_teacher  embedding, norms and head start as the teacher's, unless the recipe's `init` names weights to start from
    freeze              parameters whose names start so keep their values (for example head.pitch)
    """

    type_name: ClassVar[str] = "distillation"

    teacher: str | None = None
    feature_weight: float = 40.0
    output_weight: float = 10.0
    phase_weight: float = 0.05
    pitch_weight: float = 0.0
    alignment: Alignment = "aligned"
    adapter: Literal["published", "linear"] = "published"
    relative: bool = False
    start_from_teacher: bool = False
    freeze: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpikeLossConfig(Config):
    """Regularisers of firing.

    rate_weight     r, with the band fmin..fmax of mean spikes a neuron and step; `layer_weights` multiplies it by layer: part of a name -> factor
    energy_weight   e, with the target share of accumulates
    start_step, ramp_steps   no regulariser before the first, full weight so many steps later
    silent_below, saturated_above   rates that are reported after `patience_steps` in a row
    """

    type_name: ClassVar[str] = "spike-loss"

    rate_weight: float = 0.0
    fmin: float = 0.01
    fmax: float = 0.5
    layer_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    energy_weight: float = 0.0
    energy_target: float = 0.1
    start_step: int = 0
    ramp_steps: int = 0
    silent_below: float = 1e-4
    saturated_above: float = 0.9
    patience_steps: int = 200

    def __post_init__(self) -> None:
        if not 0 <= self.fmin <= self.fmax <= 1:
            raise ConfigError(f"spikes: expected 0 <= fmin <= fmax <= 1, got {self.fmin} and {self.fmax}")
        if not 0 <= self.energy_target <= 1:
            raise ConfigError(f"spikes.energy_target: expected a share in 0..1, got {self.energy_target}")

    def ramp(self, step: int) -> float:
        """Weight of the regularisers at a step, 0..1."""
        return 0.0 if step < self.start_step else min(1.0, (step - self.start_step + 1) / max(1, self.ramp_steps))

    def layer_weight(self, name: str) -> float:
        """Product of the factors whose key is part of the layer's name."""
        weight = 1.0
        for part, factor in self.layer_weights.items():
            weight *= factor if part in name else 1.0
        return weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpikingAdversarialConfig(AdversarialConfig):
    """The adversarial task with distillation (None: without) and regularisers of firing."""

    type_name: ClassVar[str] = "spiking-adversarial"

    distillation: DistillationConfig | None = None
    spikes: SpikeLossConfig = SpikeLossConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpikingReconstructionConfig(ReconstructionConfig):
    """The reconstruction task with distillation (None: without) and regularisers of firing."""

    type_name: ClassVar[str] = "spiking-reconstruction"

    distillation: DistillationConfig | None = None
    spikes: SpikeLossConfig = SpikeLossConfig()


def load_teacher(config: DistillationConfig, student: SpikingVocos) -> Vocos:
    """The frozen teacher. Raises ConfigError when it is no dense Vocos of the student's features, rate and (for the output term) head."""
    if config.teacher is None:
        raise ConfigError("recipe.task.distillation.teacher: expected a dense Vocos (a preset, a folder or a hub id), got none; add task.distillation.teacher=NAME")
    teacher = load(config.teacher)
    where = f"recipe.task.distillation.teacher {config.teacher!r}"
    if not isinstance(teacher, Vocos) or not isinstance(teacher.backbone, ConvNeXtBackbone):
        raise ConfigError(f"{where}: expected a dense Vocos with a ConvNeXt backbone, got a {type(teacher).__name__}; choose another teacher")
    if teacher.sample_rate != student.sample_rate:
        raise ConfigError(f"{where}: expected the student's {student.sample_rate} Hz, got {teacher.sample_rate} Hz; choose a teacher of the same rate")
    if teacher.config.features != student.config.features:
        mine, others = dataclasses.asdict(student.config.features), dataclasses.asdict(teacher.config.features)
        differing = [f"{k} {others.get(k)!r} instead of {v!r}" for k, v in mine.items() if others.get(k) != v]
        raise ConfigError(f"{where}: expected the student's features, got others ({', '.join(differing) or 'of another kind'}); give both the same features")
    if config.output_weight and not same_output(student.config.head, teacher.config.head):
        raise ConfigError(f"{where}: expected the student's head for output distillation, got another; give both the same head, or output_weight: 0")
    if config.pitch_weight and not (isinstance(teacher.head, SourceFilterHead) and isinstance(student.head, SourceFilterHead)):
        raise ConfigError(f"{where}: expected source-filter heads of student and teacher for distillation of pitch, got others; set pitch_weight: 0")
    return teacher.eval().requires_grad_(False)


def same_output(student: Config, teacher: Config) -> bool:
    """Whether two heads ask the same numbers of a frame: what stands before and after their linear layer may differ."""
    free = {"dim", "pitch", "pitch_dim", "pitch_layers", "consistency_steps", "momentum", "learn_momentum"}
    mine, others = dataclasses.asdict(student), dataclasses.asdict(teacher)
    return type(student) is type(teacher) and all(others[k] == v for k, v in mine.items() if k not in free)


class SpikingTask(VocoderTask):
    """What spiking adds to a task of vocoders; stands before it in the list of bases. Batches as that task's."""

    model: Any
    spike_config: SpikeLossConfig
    distillation: DistillationConfig | None

    def __init__(self, model: Model[Any], config: TrainConfig):
        if not isinstance(model, SpikingVocos):
            raise ConfigError(f"recipe.task: expected a spiking-vocos model, got {type(model).__name__}; use the task without 'spiking-'")
        super().__init__(model, config)
        task: Any = config.task
        self.spike_config, self.distillation = task.spikes, task.distillation
        self.adapters = nn.ModuleList()
        self._teacher: list[Vocos] = []  # in a list: no part of the task's parameters or checkpoints
        self._unwell: dict[str, int] = {}
        if self.distillation is not None:
            teacher = load_teacher(self.distillation, model)
            self._teacher.append(teacher)
            kind = FeatureAdapter if self.distillation.adapter == "published" else LinearAdapter
            b = model.config.backbone
            assert isinstance(teacher.backbone, ConvNeXtBackbone)
            self.adapters.extend(kind(b.dim, teacher.backbone.config.dim, b.readout_decay) for _ in range(b.num_layers))
            if self.distillation.start_from_teacher and config.init is None:
                start_from(model, teacher)
                if self.average is not None:
                    self.average.load_state_dict(model.state_dict())

    def parameters_of(self, phase: str) -> Iterator[nn.Parameter]:
        if phase != self.all_phases()[-1]:
            yield from super().parameters_of(phase)
            return
        frozen = () if self.distillation is None else self.distillation.freeze
        fixed = {id(p) for name, p in self.model.named_parameters() if frozen and name.startswith(frozen)}
        yield from (p for p in super().parameters_of(phase) if id(p) not in fixed)
        yield from self.adapters.parameters()

    def loss(self, phase: str, batch: Batch) -> tuple[Tensor, Figures]:
        if phase != self.all_phases()[-1]:
            return super().loss(phase, batch)  # type: ignore[safe-super]
        with firing_rates(self.model) as rates, observed(self.model.backbone) as seen:
            total, figures = super().loss(phase, batch)  # type: ignore[safe-super]
        figures |= {f"rate/{name}": rate.detach() for name, rate in rates.items()}
        self._look_after({name: float(rate.detach()) for name, rate in rates.items()})
        for name, (weight, term) in {**self._regularisers(rates), **self._distillation(seen)}.items():
            figures[f"loss/{name}"] = term.detach()
            total = total + weight * term
        return total, figures

    def _regularisers(self, rates: dict[str, Tensor]) -> dict[str, tuple[float, Tensor]]:
        c, out = self.spike_config, {}
        ramp = c.ramp(self.steps_done)
        if rates and c.rate_weight:
            out["rate"] = (ramp * c.rate_weight, rate_regulariser(rates, c.fmin, c.fmax, [c.layer_weight(name) for name in rates]))
        if rates and c.energy_weight:
            b = self.model.config.backbone
            by_neuron = {"neuron1": (b.dim, b.intermediate_dim), "neuron2": (b.intermediate_dim, b.dim), "readout": (b.dim, self.model.head.out.out_features)}
            sizes = {name: by_neuron[name.rsplit(".", 1)[-1]] for name in rates}
            sites, fan_out = {n: s for n, (s, _) in sizes.items()}, {n: f for n, (_, f) in sizes.items()}
            out["energy"] = (ramp * c.energy_weight, target_energy_regulariser(rates, sites, fan_out, c.energy_target))
        return out

    def _distillation(self, seen: Observed) -> dict[str, tuple[float, Tensor]]:
        c = self.distillation
        if c is None:
            return {}
        teacher = self._teacher[0].to(seen.features.device)
        hidden, states = teacher_states(teacher.backbone, seen.features, seen.condition)
        out: dict[str, tuple[float, Tensor]] = {}
        if c.feature_weight:
            term = feature_distillation(self.adapters, seen.outputs, seen.mixed, states, c.alignment, self.model.config.backbone.temporal_shift)
            out["feature"] = (c.feature_weight, term / states[-1].square().mean().clamp_min(1e-6) if c.relative else term)
        if c.output_weight:
            with torch.no_grad():
                target = head_output(teacher.head, hidden, seen.features)
            magnitude, phase, mix = head_output(self.model.head, seen.hidden, seen.features)
            term = output_distillation(magnitude, phase, target[0], target[1], c.phase_weight)
            if mix is not None and target[2] is not None:
                term = term + F.l1_loss(mix, target[2])
            out["output"] = (c.output_weight, term)
        if c.pitch_weight:
            with torch.no_grad():
                heard = teacher.head.hear(hidden, seen.features)  # type: ignore[operator]
            out["pitch"] = (c.pitch_weight, pitch_distillation(*self.model.head.hear(seen.hidden, seen.features), *heard))
        return out

    def _look_after(self, rates: dict[str, float]) -> None:
        """Warn once about a layer that has been silent or saturated for `patience_steps` steps."""
        c = self.spike_config
        for name, rate in rates.items():
            ill = "silent" if rate < c.silent_below else "saturated" if rate > c.saturated_above else ""
            self._unwell[name] = self._unwell.get(name, 0) + 1 if ill else 0
            if self._unwell[name] == c.patience_steps:
                advice = "raise task.spikes.rate_weight or model.backbone.expansion_init_std" if ill == "silent" else "lower task.spikes.fmax or the learning rate"
                warnings.warn(f"step {self.steps_done + 1}: layer {name} has been {ill} (rate {rate:.2g}) for {c.patience_steps} steps; {advice}", stacklevel=2)


class SpikingAdversarialTask(SpikingTask, AdversarialTask):
    """`AdversarialTask` with what spiking adds."""

    config_class: ClassVar[type[TaskConfig]] = SpikingAdversarialConfig


class SpikingReconstructionTask(SpikingTask, ReconstructionTask):
    """`ReconstructionTask` with what spiking adds."""

    config_class: ClassVar[type[TaskConfig]] = SpikingReconstructionConfig

    @torch.no_grad()
    def heard_pitch(self, hidden: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's pitch where pitch is learnt from it, else the head's own."""
        if self.distillation is None or not self.distillation.pitch_weight:
            return super().heard_pitch(hidden, features)
        teacher: Any = self._teacher[0].to(features.device)
        known = teacher.backbone(features) if reads_pitch(teacher.head) else hidden
        heard: tuple[Tensor, Tensor] = teacher.head.pitch.decode(*teacher.head.hear(known, features))
        return heard


@dataclasses.dataclass
class Observed:
    """What the last call of a spiking backbone took and gave: features [B, C, L], condition, each block's output and shifted input [S, B, C, L], hidden."""

    features: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))
    condition: Tensor | None = None
    outputs: list[Tensor] = dataclasses.field(default_factory=list)
    mixed: list[Tensor] = dataclasses.field(default_factory=list)
    hidden: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))


@contextmanager
def observed(backbone: SpikingConvNeXtBackbone) -> Iterator[Observed]:
    """Watch a backbone through hooks inside the `with`."""
    seen = Observed()

    def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.features, seen.condition = inputs[0], inputs[1] if len(inputs) > 1 else None
        seen.outputs, seen.mixed = [], []

    def block(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        u = inputs[0]
        seen.mixed.append(spread(*module.distinct(u)) if u.ndim == 3 else module.shift(u))
        seen.outputs.append(output)

    def end(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.hidden = output

    handles = [backbone.register_forward_pre_hook(begin), backbone.register_forward_hook(end), *(b.register_forward_hook(block) for b in backbone.blocks)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def head_output(head: nn.Module, hidden: Tensor, features: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What a head makes of hidden frames before any transform: magnitude and phase [B, F, L]; for a source-filter head, as corrections (of phase, where it
    has one), and its mixture.
    """
    if isinstance(head, ISTFTHead):
        magnitude, phase = head.spectrum(hidden, features)
        return magnitude, phase, None
    if isinstance(head, SourceFilterHead):
        change, mix, *turn = head.out(hidden).transpose(1, 2).split(head.bins, 1)
        return torch.exp(change), turn[0] if turn else None, mix
    raise ConfigError(f"recipe.task.distillation.output_weight: expected a head with magnitude and phase, got {type(head).__name__}; set it to 0")


def start_from(student: SpikingVocos, teacher: Vocos) -> list[str]:
    """Copy what has the same name and shape outside of the blocks (embedding, norms, head); the names copied."""
    own = student.state_dict()
    same = {k: v for k, v in teacher.state_dict().items() if k in own and own[k].shape == v.shape and not k.startswith("backbone.convnext.")}
    student.load_state_dict(same, strict=False)
    return sorted(same)

