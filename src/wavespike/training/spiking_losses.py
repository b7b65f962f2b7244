"""What the training of spiking networks adds: differentiable firing rates, regularisers of rate and of counted energy, distillation.

Rates are means of the spikes themselves, so their gradient is the surrogate's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.errors import ConfigError, UsageError
from wavespike.nn.recording import spiking_layers
from wavespike.nn.spiking import membrane_readout, readout_weights
from wavespike.training.losses import phase_losses

Alignment = Literal["aligned", "published"]


@contextmanager
def firing_rates(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """`with firing_rates(model) as rates: model(x)` -> layer name -> mean spikes a neuron and step, a scalar with its gradient (last call wins)."""
    rates: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            rates[name] = (output[0] if isinstance(output, tuple) else output).mean()

        return after

    handles = [module.register_forward_hook(hook(name)) for name, module in spiking_layers(model).items()]
    try:
        yield rates
    finally:
        for handle in handles:
            handle.remove()


def rate_regulariser(rates: Mapping[str, Tensor] | Sequence[Tensor], fmin: float = 0.01, fmax: float = 0.5,
                     weights: Sequence[float] | None = None) -> Tensor:
    """SpArch (Bittar and Garner, 2022): sum over layers of w (relu(fmin - r) + relu(r - fmax)), r the layers' mean rates, w 1 unless given."""
    if not 0 <= fmin <= fmax <= 1:
        raise ConfigError(f"expected 0 <= fmin <= fmax <= 1 spikes per neuron and step, got {fmin} and {fmax}")
    values = list(rates.values()) if isinstance(rates, Mapping) else list(rates)
    r = torch.stack(values)
    terms = F.relu(fmin - r) + F.relu(r - fmax)
    return terms.sum() if weights is None else (terms * terms.new_tensor(list(weights))).sum()


def accumulate_ratio(rates: Mapping[str, Tensor], sites: Mapping[str, int], fan_out: Mapping[str, int]) -> Tensor:
    """Counted accumulates (spikes x fan-out) over those of a network whose neurons always fire: the size-weighted rate, differentiable.

    `sites` are neurons a frame, `fan_out` the targets of each neuron, by layer.
    """
    weight = {name: sites[name] * fan_out[name] for name in rates}
    total = sum(weight.values())
    return torch.stack([rate * (weight[name] / total) for name, rate in rates.items()]).sum()


def target_energy_regulariser(rates: Mapping[str, Tensor], sites: Mapping[str, int], fan_out: Mapping[str, int], target: float) -> Tensor:
    """relu(size-weighted rate - target): no pull once the counted accumulates are at their target share (0..1)."""
    return F.relu(accumulate_ratio(rates, sites, fan_out) - target)


class FeatureAdapter(nn.Module):
    """Student potential [S, B, C, L] -> [B, C', L] comparable with a teacher's hidden state (Spiking Vocos, arXiv 2509.13049).

    Equation: GELU(LN(conv1x1(sum_s d^(S-1-s) u_s))). Parameter names are upstream's (`conv1x1`, `norm`).
    """

    def __init__(self, channels: int, teacher_channels: int | None = None, decay: float = 0.9):
        super().__init__()
        self.decay = decay
        self.conv1x1 = nn.Conv1d(channels, teacher_channels or channels, 1)
        self.norm = nn.LayerNorm(teacher_channels or channels)

    def forward(self, u: Tensor) -> Tensor:
        h = self.conv1x1(membrane_readout(u, self.decay)).transpose(1, 2)
        out: Tensor = F.gelu(self.norm(h)).transpose(1, 2)
        return out


class LinearAdapter(nn.Module):
    """As `FeatureAdapter`, without norm and GELU: conv1x1(sum_s d^(S-1-s) u_s / sum_s d^(S-1-s)); starts as the identity where it can."""

    def __init__(self, channels: int, teacher_channels: int | None = None, decay: float = 0.9):
        super().__init__()
        self.decay = decay
        self.conv1x1 = nn.Conv1d(channels, teacher_channels or channels, 1)
        nn.init.dirac_(self.conv1x1.weight)
        nn.init.zeros_(self.conv1x1.bias)  # type: ignore[arg-type]

    def forward(self, u: Tensor) -> Tensor:
        out: Tensor = self.conv1x1(membrane_readout(u, self.decay) / readout_weights(u.shape[0], self.decay, u).sum())
        return out


def teacher_states(backbone: nn.Module, features: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """Output [B, L, dim] of a dense backbone and the output [B, C, L] of each of its blocks, by hooks for this call. No gradient."""
    blocks = getattr(backbone, "blocks", None)
    if not blocks:
        raise UsageError(f"expected a teacher with a ConvNeXt backbone, got {type(backbone).__name__}; distil from a Vocos with one")
    states: list[Tensor] = []
    handles = [block.register_forward_hook(lambda module, inputs, output: states.append(output)) for block in blocks]
    try:
        with torch.no_grad():
            hidden: Tensor = backbone(features, condition)
    finally:
        for handle in handles:
            handle.remove()
    return hidden, states


def aligned_pairs(alignment: Alignment, temporal_shift: bool, student_layers: int, teacher_layers: int) -> list[tuple[str, int, int]]:
    """Which student state is compared with which teacher block: ("output" or "mixed", student block, teacher block).

    `aligned`: the output of every student block with that of the teacher's block at the same relative depth, last with last.
    `published`: equal numbers of layers; without temporal shift as above; with it the shifted *input* of block i with the output of teacher block i-1,
    i >= 1: the last block's output is never supervised, the first adapter never used.
    """
    if alignment == "published":
        if student_layers != teacher_layers:
            raise ConfigError(f"alignment published: expected as many student as teacher blocks, got {student_layers} and {teacher_layers}; use aligned")
        if temporal_shift:
            return [("mixed", i, i - 1) for i in range(1, student_layers)]
    return [("output", i, round((i + 1) * teacher_layers / student_layers) - 1) for i in range(student_layers)]


def feature_distillation(adapters: nn.ModuleList, outputs: list[Tensor], mixed: list[Tensor], teacher: list[Tensor], alignment: Alignment,
                         temporal_shift: bool) -> Tensor:
    """Mean squared error between adapted student states and teacher states, summed over the pairs and divided by the student's layers."""
    pairs = aligned_pairs(alignment, temporal_shift, len(outputs), len(teacher))
    terms = [F.mse_loss(adapters[i]((outputs if what == "output" else mixed)[i]), teacher[j]) for what, i, j in pairs]
    return torch.stack(terms).sum() / len(outputs)


def output_distillation(magnitude: Tensor, phase: Tensor | None, teacher_magnitude: Tensor, teacher_phase: Tensor | None, phase_weight: float = 0.05) -> Tensor:
    """L1(log(m + 1e-7), log(m_t + 1e-7)) + w (IP + GD + PTD) of magnitudes and phases [B, F, L]; the phase part has a gradient (upstream's is zero).

    Without phases the first term alone.
    """
    loss = F.l1_loss(torch.log(magnitude + 1e-7), torch.log(teacher_magnitude + 1e-7))
    if phase is None or teacher_phase is None:
        return loss
    ip, gd, ptd = phase_losses(phase, teacher_phase)
    return loss + phase_weight * (ip + gd + ptd)


def pitch_distillation(logits: Tensor, voicing_logits: Tensor, teacher_logits: Tensor, teacher_voicing_logits: Tensor) -> Tensor:
    """Cross entropy with a teacher's pitch classes [B, L, bins], weighted by its probability of voicing, and with that probability [B, L]."""
    voiced = torch.sigmoid(teacher_voicing_logits)
    each = -(torch.softmax(teacher_logits, -1) * torch.log_softmax(logits, -1)).sum(-1)
    return (voiced * each).sum() / voiced.sum().clamp_min(1.0) + F.binary_cross_entropy_with_logits(voicing_logits, voiced)
