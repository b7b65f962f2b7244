"""A source-filter codec hop by hop in compiled code: the same function as the folded steps of `runtime.frame_steps`, without the cost of their many operations."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavespike.models.source_filter_codec import QUIET, SourceFilterCodec, fading, minimum_phase_matrix
from wavespike.nn.convnext import ConvNeXtBackbone
from wavespike.nn.pitch import PitchClasses
from wavespike.nn.pitch_code import NOT_SENT
from wavespike.runtime.compiled import codec_kernels as kernels
from wavespike.runtime.frame_steps import BackboneStep
from wavespike.signal.correlation import weight_of
from wavespike.signal.mel import mel_filterbank
from wavespike.signal.stft import hann_window

Array = np.ndarray[Any, Any]
f4 = np.float32


def suits(model: object) -> bool:
    """Whether this codec can run so: dense, in single precision on the CPU, a quantiser that takes the nearest codeword."""
    return (isinstance(model, SourceFilterCodec) and isinstance(model.decoder.backbone, ConvNeXtBackbone) and model.config.quantizer.beam == 1
            and model.decoder.out.weight.dtype == torch.float32 and model.decoder.out.weight.device.type == "cpu")


def numbers(x: Tensor) -> Array:
    return np.ascontiguousarray(x.detach().float().numpy())


def _backbone(module: ConvNeXtBackbone) -> kernels.Backbone:
    """The weights of the folded step, and a state of zeros."""
    c, step = module.config, BackboneStep(module)

    def stacked(parts: Iterable[Any]) -> Array:
        return numbers(torch.stack([p.detach() for p in parts]))

    norms: list[Any] = list(step.norms)
    return kernels.Backbone(
        embed=numbers(step.embed.t()), embed_bias=numbers(step.embed_bias),
        norms=stacked(n.weight for n in norms), norm_biases=stacked(n.bias for n in norms), epsilon=float(norms[0].eps),
        kernels=stacked(step.kernels), kernel_biases=stacked(step.kernel_biases), first=stacked(step.first), first_biases=stacked(step.first_bias),
        second=stacked(step.second), second_biases=stacked(step.second_bias),
        inputs=np.zeros((c.embed_kernel_size - 1, c.input_channels), f4), past=np.zeros((c.num_layers, 6, c.dim), f4), y=np.zeros(c.dim, f4),
        wide=np.zeros(step.first[0].shape[1], f4))


def _anew(backbone: kernels.Backbone) -> kernels.Backbone:
    """The same weights before the first frame."""
    return backbone._replace(inputs=np.zeros_like(backbone.inputs), past=np.zeros_like(backbone.past))


class HopEncoder:
    """Frames [analysis_length] of one stream -> codes [K] of the first `levels` levels."""

    def __init__(self, model: SourceFilterCodec, levels: int | None = None):
        c, encoder, residual = model.config, model.encoder, model.quantizer.residual
        self.config = c
        count = c.quantizer.num_codebooks if levels is None else levels
        self.codes = np.zeros(count, np.int64)
        self.place = c.pitch_level if count > c.pitch_level else None
        self.envelope = np.zeros(count - (self.place is not None), np.int64)
        self.short, self.long = (hann_window(n).numpy() for n in (c.frame_length, c.analysis_length))
        self.bank = numbers(mel_filterbank(c.mel).t())
        correlation = c.correlation
        lengths = [n // correlation.factor for n in c.correlations]
        self.lengths = np.array(lengths, np.int64)
        self.weights = np.zeros((len(lengths), max(lengths, default=0)), f4)
        for row, n in zip(self.weights, lengths, strict=True):
            row[:n] = numbers(weight_of(n))
        self.low_pass = numbers(correlation.low_pass(torch.zeros(1))[0, 0])
        self.lags = correlation.shortest, correlation.longest, correlation.factor
        self.decimated = np.zeros((c.analysis_length - correlation.taps) // correlation.factor + 1 if lengths else 0, f4)
        self.backbone, self.pitch = _backbone(encoder.backbone), _backbone(encoder.pitch.backbone)
        classes = encoder.pitch.out
        self.classes, self.classes_bias = numbers(classes.weight.t()), numbers(classes.bias)
        self.project, self.project_bias = numbers(encoder.project.weight.t()), numbers(encoder.project.bias)
        books = residual.codebooks[: len(self.envelope)].detach()
        self.books, self.rows, self.squares = numbers(books), numbers(2 * books.transpose(1, 2)), numbers(-books.square().sum(2))
        self.heard = np.zeros(c.bands + c.low_bins + correlation.features, f4)
        self.hidden, self.listened = np.zeros(c.encoder.dim, f4), np.zeros(c.pitch_dim, f4)
        self.score, self.size = np.zeros(c.quantizer.codebook_size, f4), c.quantizer.codebook_size

    def another(self) -> HopEncoder:
        """One for a further stream of the same session: weights and room to work in are shared, and nothing has been heard."""
        new = copy.copy(self)
        new.backbone, new.pitch = _anew(self.backbone), _anew(self.pitch)
        return new

    def __call__(self, frame: Array) -> Array:
        c = self.config
        spectrum = np.fft.rfft(frame[-c.frame_length :] * self.short)
        low = np.fft.rfft(frame * self.long)
        own = self.heard[: c.bands + c.low_bins]
        kernels.features(spectrum.astype(np.complex64), low.astype(np.complex64), self.bank, 1, QUIET, own)
        if len(self.lengths):
            shortest, longest, factor = self.lags
            kernels.correlations(frame, self.low_pass, factor, self.lengths, self.weights, shortest, longest, self.decimated, self.heard[len(own) :])
        if self.place is not None:
            kernels.backbone(self.heard, self.pitch, self.listened)
            logits = self.classes_bias.copy()
            kernels.product(self.listened, self.classes, logits)
            self.codes[self.place] = kernels.pitch_class(logits, PitchClasses.REACH, PitchClasses.F_MIN_HZ, PitchClasses.F_MAX_HZ, PitchClasses.STEP_CENTS, self.size)
        if len(self.envelope):
            kernels.backbone(own, self.backbone, self.hidden)
            residual = self.project_bias.copy()
            kernels.product(self.hidden, self.project, residual)
            kernels.search(residual, self.books, self.rows, self.squares, self.score, self.envelope)
            at = len(self.codes) if self.place is None else self.place
            self.codes[:at], self.codes[at + 1 :] = self.envelope[:at], self.envelope[at:]
        return self.codes


class HopDecoder:
    """Codes [k] of one stream, or a lost hop -> its sound [span]."""

    def __init__(self, model: SourceFilterCodec):
        c, decoder = model.config, model.decoder
        assert isinstance(decoder.backbone, ConvNeXtBackbone)
        self.config = c
        classes = torch.arange(NOT_SENT, decoder.scale.size)
        self.told_of = numbers(decoder.pitch_input(classes[None])[0].t())  # [1 + size, 3], of NOT_SENT first
        self.hertz = decoder.scale.hertz(classes).tolist()
        self.books, self.lost = numbers(model.quantizer.residual.codebooks), numbers(decoder.lost)
        self.backbone = _backbone(decoder.backbone)
        self.out, self.out_bias = numbers(decoder.out.weight.t()), numbers(decoder.out.bias)
        self.matrix = minimum_phase_matrix(c.bins, c.filter_length, torch.float32, "cpu").contiguous().numpy()
        self.window = fading(c.stretch, c.crossfade, torch.float32, "cpu").numpy()
        start = decoder.initial_state(1)
        self.index, self.position = int(start.train.index), int(start.position)
        self.train = np.array([float(start.train.f0_hz), float(start.train.voiced), float(start.train.phase)])
        self.sources = np.zeros((2, c.crossfade + c.hop_length), f4)
        self.start = self.index, self.position, self.train.copy()
        rows = 2 * c.subframes
        self.filter_size, self.filter_phase = (np.zeros((rows, c.filter_length // 2 + 1), f4) for _ in range(2))
        self.hidden, self.told = np.zeros(c.decoder.dim, f4), np.zeros(c.decoder.input_channels, f4)

    def another(self) -> HopDecoder:
        """One for a further stream of the same session: weights and room to work in are shared, and nothing has been said."""
        new = copy.copy(self)
        new.backbone, new.sources = _anew(self.backbone), np.zeros_like(self.sources)
        new.index, new.position, train = self.start
        new.train = train.copy()
        return new

    def __call__(self, codes: Array, lost: bool) -> Array:
        c, place = self.config, self.config.pitch_level
        if not lost:
            self.index = int(codes[place]) if len(codes) > place else NOT_SENT
        index, told = self.index, self.told
        told[:3] = self.told_of[index - NOT_SENT]
        z = told[3:]
        z[:] = self.lost if lost else 0
        if not lost:
            for level, code in enumerate(code for k, code in enumerate(codes) if k != place):
                z += self.books[level, code]
        kernels.backbone(told, self.backbone, self.hidden)
        gains = self.out_bias.copy()
        kernels.product(self.hidden, self.out, gains)
        kernels.filters(gains.reshape(2 * c.subframes, c.bins), self.matrix, self.filter_size, self.filter_phase)
        self.sources[:, : c.crossfade] = self.sources[:, c.hop_length :]
        fresh = self.sources[:, c.crossfade :]
        kernels.pulses(self.hertz[index - NOT_SENT], index > 0, self.train, c.hop_length, float(c.sample_rate), fresh[0])
        kernels.noise(self.position, fresh[1])
        self.position += c.hop_length
        stretches = np.lib.stride_tricks.as_strided(self.sources, (2, c.subframes, c.stretch), (self.sources.strides[0], 4 * c.step, 4))
        spectra = np.fft.rfft(stretches * self.window, c.filter_length)
        turned = (self.filter_size * (np.cos(self.filter_phase) + 1j * np.sin(self.filter_phase))).reshape(2, c.subframes, -1)
        spoken = np.fft.irfft((spectra * turned).sum(0), c.filter_length)
        out = np.zeros(c.span, f4)
        for s in range(c.subframes):
            out[s * c.step : s * c.step + c.filter_length] += spoken[s]
        return out
