"""A data-dependent start for AudioDec: the Karhunen-Loeve transform, layer by layer.

Papers: Kraehenbuehl et al., "Data-dependent initializations of convolutional neural networks", 2016, and Mishkin and Matas, "All you need is a good init", 2016,
fit every layer to the data before training; here the layers become the codec that linear theory calls best: transform coding (Goyal, 2001).
Equation: a strided convolution of stride s reads blocks b of s frames and keeps their principal components A b, the leading eigenvectors of E[b b'];
its transposed convolution is A'. The last one is lapped: A = V M with M the MDCT of two hops and V the components of E[M b b' M'], so that blocks do not show (Malvar,
1990). The projector keeps the D leading ones, z_j = g lambda_j^-w a_j, and the decoder undoes that.
Before the first step the codec then passes the D most energetic components of speech, about D / hop of the band, and quantising noise that follows
the spectrum to the power 2 w stays below it.
Departures: residual units start as the identity (their last convolution at 0; Zhang et al., Fixup, 2019), channels that carry no component keep their random filters.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from wavespike.errors import ConfigError
from wavespike.models.audiodec import AudioDec, Decoder, DecoderBlock, EncoderBlock, ResidualUnit
from wavespike.models.hifigan import HiFiGANConfig
from wavespike.signal.mdct import mdct_of_frames

FLOOR = 1e-5
"""Energy, relative to the strongest component, below which components are no longer brought to unit amplitude."""


def principal_components(vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Vectors [M, N] (not centred: audio has no mean) -> the `count` leading eigenvectors of their second moments, rows [count, N], and their energies [count].

    The largest entry of each is positive, so that the same vectors give the same rows.
    """
    energy, basis = torch.linalg.eigh(vectors.double().t() @ vectors.double() / len(vectors))
    basis = basis.flip(1).t()[:count]
    sign = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    return basis * sign, energy.flip(0)[:count].clamp_min(0)


def check_startable(model: AudioDec) -> None:
    """Raises ConfigError unless the signal's way through the model is linear, causal and long enough for the transform."""
    c = model.config
    if isinstance(c.decoder, HiFiGANConfig):
        raise ConfigError("recipe.task.start: expected the decoder audiodec-decoder for klt, got hifigan; leave start out")
    for name, got, want in (("activate", c.activate, False), ("weight_norm", c.weight_norm, False), ("causal", c.causal, True), ("projector", c.projector, "conv1d"),
                            ("input_channels", c.input_channels, 1), ("output_channels", c.output_channels, 1),
                            ("decoder.strides", c.decoder.strides, c.encoder.strides[::-1]), ("look_ahead", c.look_ahead, 2 * c.hop - 1)):
        if got != want:
            raise ConfigError(f"recipe.model.{name}: expected {want} for task.start: klt, got {got}; change it, or leave start out")


@torch.no_grad()
def klt_start(model: AudioDec, audio: Iterable[Tensor], noise_shaping: float = 0.25) -> None:
    """Set the model's weights from speech, crops [B, 1, T] or one at a time; `noise_shaping` is the exponent w, 0 for white quantising noise. Deterministic.

    Raises ConfigError for a model whose path is not linear, and for less audio than the transform has entries.
    """
    check_startable(model)
    encoder, decoder, strides = model.encoder, model.decoder, model.config.encoder.strides
    assert isinstance(decoder, Decoder)
    down = [b.conv for b in encoder.conv_blocks if isinstance(b, EncoderBlock)]
    up = [b.conv for b in decoder.conv_blocks if isinstance(b, DecoderBlock)][::-1]
    hop, size = model.config.hop, model.config.quantizer.dim
    hops = torch.cat([crop[..., : crop.shape[-1] // hop * hop].reshape(-1).cpu() for crop in audio]).double().view(-1, hop)
    if len(hops) < 2 * hop:
        raise ConfigError(f"recipe.task.start_items: expected at least {2 * hop} hops of audio for klt, got {len(hops)}; raise it")

    for part in (encoder, decoder):
        for unit in part.modules():
            if isinstance(unit, ResidualUnit):
                unit.conv2.weight.zero_()
    samples, scale = torch.eye(1, dtype=torch.float64), hops.square().mean().sqrt()[None]  # [components, samples of their block] so far and their amplitudes
    _tap(encoder.conv.weight, 1 / scale[:, None], -1)
    _tap(decoder.conv2.weight, scale[:, None], -1)
    for stage, stride in enumerate(strides):
        room = min(down[stage].out_channels, up[stage].in_channels)
        blocks = torch.block_diag(*[samples] * stride)  # type: ignore[no-untyped-call,unused-ignore]  # [components, samples] of `stride` blocks in a row
        if stage < len(strides) - 1:
            basis, energy = principal_components(hops.view(-1, blocks.shape[1]) @ blocks.t(), min(room, len(blocks)))
            kernel = basis.view(len(basis), stride, -1)
        else:  # two hops, lapped
            lapped = mdct_of_frames(torch.eye(2 * hop, dtype=torch.float64))  # [hop, 2 hop]
            basis, energy = principal_components(torch.cat([hops[:-1], hops[1:]], 1) @ lapped.t(), min(room, hop))
            kernel = (basis @ lapped).view(len(basis), 2 * stride, -1) @ samples.t()
        amplitude = (energy + FLOOR * energy[0]).sqrt()
        _path(down[stage].weight, kernel.transpose(1, 2) * (scale[None, :, None] / amplitude[:, None, None]), newest=True)
        _path(up[stage].weight, kernel.transpose(1, 2) * (amplitude[:, None, None] / scale[None, :, None]), newest=False)
        samples, scale = basis @ blocks if stage < len(strides) - 1 else basis, amplitude
    for layer in (*down, *up):
        if layer.bias is not None:
            layer.bias.zero_()

    kept = min(size, len(energy))
    shape = scale[:kept].pow(1 - 2 * noise_shaping)
    shape /= shape.square().mean().sqrt()
    _tap(model.projector.project.weight, torch.diag(shape), -1)
    decoder.conv1.weight[: len(energy)] = 0
    _tap(decoder.conv1.weight, torch.diag(1 / shape), -1)


def _path(weight: Tensor, kernel: Tensor, newest: bool) -> None:
    """Put a kernel [components, channels, taps] on the first channels of [deeper, shallower, taps]; what carries a component hears nothing else."""
    count, width, taps = kernel.shape
    place = slice(-taps, None) if newest else slice(0, taps)
    if newest:
        weight[:count] = 0
    else:
        weight[:, :width] = 0
    weight[:count, :width, place] = kernel.to(weight)


def _tap(weight: Tensor, matrix: Tensor, tap: int) -> None:
    """In a kernel [out, in, taps]: these outputs see just this matrix of these inputs at one tap."""
    rows, columns = matrix.shape
    weight[:rows] = 0
    weight[:rows, :columns, tap] = matrix.to(weight)
