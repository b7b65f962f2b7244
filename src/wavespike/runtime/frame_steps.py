"""Codecs of frames folded into few operations of fixed shape, one hop at a time: a transform is a matrix with its window, layer scale is inside the second
pointwise layer, a causal convolution of one frame is a weighted sum over its window, the search in a codebook is one product with 2 e and |e|^2.

A step takes one frame and its past and returns the result and the next past; a decoder's `feed` makes its inputs out of codes, its `finish` the windowed frames out of results.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.models.fourier_codec import FLOOR, SCALE, FourierCodec
from wavespike.models.frame_codec import FrameCodec
from wavespike.models.source_filter_codec import QUIET, SourceFilterCodec, VoiceState
from wavespike.nn.convnext import ConvNeXtBackbone
from wavespike.nn.pitch import PitchClasses
from wavespike.nn.pitch_code import NOT_SENT
from wavespike.nn.rvq import ResidualVQ, beam_search
from wavespike.signal.lapped import lapped_window
from wavespike.signal.mdct import imdct_frames, mdct_of_frames
from wavespike.signal.mel import mel_filterbank
from wavespike.signal.stft import hann_window


class BackboneStep(nn.Module):
    """One frame [B, C_in] through a causal ConvNeXt backbone with its past [B, k - 1, C_in] and [N, B, 6, dim] -> hidden [B, dim] and the next past."""

    def __init__(self, backbone: ConvNeXtBackbone):
        super().__init__()
        c = backbone.config
        self.dim, self.count, self.before = c.dim, c.num_layers, c.embed_kernel_size - 1
        self.embed = nn.Parameter(backbone.embed.weight.permute(0, 2, 1).flatten(1).contiguous())  # [dim, k * C_in]
        assert backbone.embed.bias is not None
        self.embed_bias = backbone.embed.bias
        self.norms = nn.ModuleList([backbone.norm, *(b.norm for b in backbone.blocks), backbone.final_layer_norm])
        blocks = backbone.blocks
        self.kernels = nn.ParameterList([b.dwconv.weight[:, 0].t().contiguous() for b in blocks])  # [7, dim]
        self.kernel_biases = nn.ParameterList([b.dwconv.bias for b in blocks])
        self.first = nn.ParameterList([b.pwconv1.weight.t().contiguous() for b in blocks])
        self.first_bias = nn.ParameterList([b.pwconv1.bias for b in blocks])
        self.second = nn.ParameterList([(b.pwconv2.weight * b.gamma[:, None]).t().contiguous() for b in blocks])
        self.second_bias = nn.ParameterList([b.pwconv2.bias * b.gamma for b in blocks])

    def past(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Zeros before the first frame."""
        inputs = self.embed.shape[1] // (self.before + 1)
        return self.embed.new_zeros(batch_size, self.before, inputs), self.embed.new_zeros(self.count, batch_size, 6, self.dim)

    def _norm(self, x: Tensor, index: int) -> Tensor:
        norm = self.norms[index]
        assert isinstance(norm, nn.LayerNorm)
        return F.layer_norm(x, (self.dim,), norm.weight, norm.bias, norm.eps)

    def forward(self, x: Tensor, inputs: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        window = torch.cat([inputs, x[:, None]], 1)  # [B, k, C_in]
        h = self._norm(F.linear(window.flatten(1), self.embed, self.embed_bias), 0)
        after = []
        for i in range(self.count):
            frames = torch.cat([past[i], h[:, None]], 1)  # [B, 7, dim]
            y = self._norm((frames * self.kernels[i]).sum(1) + self.kernel_biases[i], 1 + i)
            y = F.gelu(torch.addmm(self.first_bias[i], y, self.first[i]))
            h = h + torch.addmm(self.second_bias[i], y, self.second[i])
            after.append(frames[:, 1:])
        return self._norm(h, 1 + self.count), window[:, 1:], torch.stack(after)


class Search(nn.Module):
    """Residuals [B, D] -> codes [B, K] of the first `levels` codebooks: the search of `ResidualVQ.encode`."""

    def __init__(self, quantizer: ResidualVQ, levels: int | None):
        super().__init__()
        books = quantizer.codebooks[:levels]  # [K, N, D]
        self.beam = quantizer.config.beam
        self.books = nn.Parameter(books)
        self.rows = nn.Parameter(2 * books.transpose(1, 2).contiguous())  # [K, D, N]
        self.squares = nn.Parameter(-books.square().sum(2))

    def forward(self, residual: Tensor) -> Tensor:
        if self.beam > 1:
            return beam_search(residual, self.books, self.beam)
        codes = []
        for k in range(self.books.shape[0]):
            index = torch.addmm(self.squares[k], residual, self.rows[k]).argmax(1)
            codes.append(index)
            residual = residual - self.books[k][index]
        return torch.stack(codes, 1)


class Lookup(nn.Module):
    """Codes [B, K], N for a level that was not sent -> the sum of their codewords [B, D]."""

    def __init__(self, quantizer: ResidualVQ):
        super().__init__()
        books = quantizer.codebooks
        self.levels, self.size, _ = books.shape
        self.rows = nn.Parameter(torch.cat([books, books.new_zeros(books.shape[0], 1, books.shape[2])], 1).flatten(0, 1))  # [K * (N + 1), D]
        self.offsets = nn.Parameter(torch.arange(self.levels) * (self.size + 1), requires_grad=False)

    def padded(self, codes: Tensor) -> Tensor:
        """Codes [B, k, l] -> [B, l, K], N at the levels that were not sent."""
        return F.pad(codes, (0, 0, 0, self.levels - codes.shape[1]), value=self.size).transpose(1, 2)

    def forward(self, codes: Tensor) -> Tensor:
        return self.rows[codes + self.offsets].sum(1)


def _lost(codes: Tensor, missing: Tensor | None, like: Tensor) -> Tensor:
    """Lost frames of codes [B, k, l] as numbers [B, l], 1 or 0."""
    return like.new_zeros(codes.shape[0], codes.shape[-1]) if missing is None else missing.to(like)


class FourierEncoderStep(nn.Module):
    """One frame [B, frame_length] -> codes [B, K] of the first `levels` levels and the next past."""

    def __init__(self, model: FourierCodec, levels: int | None = None):
        super().__init__()
        c, encoder = model.config, model.encoder
        self.config = c
        frame = torch.eye(c.frame_length, dtype=torch.float64)
        if c.transform == "mdct":
            transform = mdct_of_frames(frame).t()
        else:
            spectrum = torch.fft.rfft(frame * lapped_window(c.frame_length, c.hop_length, dtype=torch.float64), norm="ortho")
            transform = torch.cat([spectrum.real, spectrum.imag], -1)
        self.transform = nn.Parameter(transform.to(encoder.project.weight).contiguous())  # [frame_length, features]
        self.backbone = BackboneStep(encoder.backbone)
        shortcut = torch.zeros(c.quantizer.dim, c.input_features) if encoder.shortcut is None else encoder.shortcut
        self.project = nn.Parameter(torch.cat([encoder.project.weight, shortcut.to(encoder.project.weight)], 1).t().contiguous())
        self.bias = encoder.project.bias
        self.search = Search(model.quantizer, levels)

    def past(self, batch_size: int) -> tuple[Tensor, ...]:
        return self.backbone.past(batch_size)

    def forward(self, frame: Tensor, inputs: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        x = frame @ self.transform
        power = x.square()
        if c.transform == "stft":
            real, imaginary = power.chunk(2, -1)
            power = torch.cat([real + imaginary, real + imaginary], -1)
        x = SCALE * x * (power + 1e-8).pow(0.5 * (c.compression - 1))
        h, inputs, past = self.backbone(x, inputs, past)
        residual = torch.addmm(self.bias, torch.cat([h, x], -1), self.project)
        return self.search(residual), inputs, past


class FourierDecoderStep(nn.Module):
    """Codes [B, K], N for a level that was not sent, and lost [B] (1.0 or 0.0) -> one windowed frame [B, frame_length] and the next past."""

    def __init__(self, model: FourierCodec):
        super().__init__()
        c, decoder = model.config, model.decoder
        assert isinstance(decoder.backbone, ConvNeXtBackbone)
        self.config = c
        self.lookup = Lookup(model.quantizer)
        self.lost = decoder.lost
        self.backbone = BackboneStep(decoder.backbone)
        self.out = nn.Parameter(decoder.out.weight.t().contiguous())
        self.bias = decoder.out.bias
        shortcut = torch.zeros(c.input_features, c.quantizer.dim) if decoder.shortcut is None else decoder.shortcut
        self.shortcut = nn.Parameter(shortcut.to(decoder.out.weight).t().contiguous())
        if c.transform == "mdct":
            inverse = imdct_frames(torch.eye(c.bins, dtype=torch.float64), c.frame_length)
        else:
            one = torch.eye(c.bins, dtype=torch.complex128)
            window = lapped_window(c.frame_length, c.hop_length, dtype=torch.float64)
            inverse = torch.cat([torch.fft.irfft(one, n=c.frame_length, norm="ortho"), torch.fft.irfft(1j * one, n=c.frame_length, norm="ortho")]) * window
        self.inverse = nn.Parameter(inverse.to(decoder.out.weight).contiguous())  # [input_features, frame_length]

    def past(self, batch_size: int) -> tuple[Tensor, ...]:
        return self.backbone.past(batch_size)

    def feed(self, codes: Tensor, missing: Tensor | None) -> tuple[Tensor, ...]:
        """Codes [B, k, l] and lost frames [B, l] -> what `forward` takes, for l frames: each [B, l, ...]."""
        return self.lookup.padded(codes), _lost(codes, missing, self.lost)

    def finish(self, frames: Tensor) -> Tensor:
        return frames

    def forward(self, codes: Tensor, lost: Tensor, inputs: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        z = self.lookup(codes)
        z = z + lost[:, None] * (self.lost - z)
        h, inputs, past = self.backbone(z, inputs, past)
        out = torch.addmm(self.bias, h, self.out)
        gain, s = out[:, : c.bins], out[:, c.bins :]
        s = (s + z @ self.shortcut) * (1 / SCALE)
        gain, square = torch.exp(gain.clamp(max=6.0)), s.square()
        if c.transform == "stft":
            real, imaginary = square.chunk(2, -1)
            square, gain = torch.cat([real + imaginary, real + imaginary], -1), torch.cat([gain, gain], -1)
        return (gain * s * ((square + 1e-8).pow(0.5 * (1 / c.compression - 1)) + FLOOR)) @ self.inverse, inputs, past


class VoiceEncoderStep(nn.Module):
    """One frame [B, analysis_length] -> codes [B, K] of the first `levels` levels, the pitch among them, and the next pasts of both networks."""

    def __init__(self, model: SourceFilterCodec, levels: int | None = None):
        super().__init__()
        c, encoder = model.config, model.encoder
        count = c.quantizer.num_codebooks if levels is None else levels
        self.config, self.place = c, c.pitch_level if count > c.pitch_level else None
        weight = encoder.project.weight
        self.short = nn.Parameter(_spectrum_matrix(c.frame_length, c.bins, 0).to(weight))
        self.long = nn.Parameter(_spectrum_matrix(c.analysis_length, c.low_bins, 1).to(weight))
        self.bank = nn.Parameter(mel_filterbank(c.mel).t().to(weight).contiguous())
        self.backbone, self.pitch = BackboneStep(encoder.backbone), BackboneStep(encoder.pitch.backbone)
        self.project, self.classes, self.scale = encoder.project, encoder.pitch.out, encoder.scale
        residual_levels = count - (self.place is not None)
        self.search = Search(model.quantizer.residual, residual_levels) if residual_levels else None

    def past(self, batch_size: int) -> tuple[Tensor, ...]:
        return *self.backbone.past(batch_size), *self.pitch.past(batch_size)

    def forward(self, frame: Tensor, inputs: Tensor, past: Tensor, pitch_inputs: Tensor, pitch_past: Tensor) -> tuple[Tensor, ...]:
        c = self.config
        real, imaginary = (frame[:, -c.frame_length :] @ self.short).square().chunk(2, -1)
        low_real, low_imaginary = (frame @ self.long).square().chunk(2, -1)
        x = 0.1 * torch.log(torch.cat([(real + imaginary) @ self.bank, low_real + low_imaginary], -1) + QUIET)
        hidden, inputs, past = self.backbone(x, inputs, past)
        periods = torch.cat([x, c.correlation(frame)], -1) if c.correlations else x
        heard, pitch_inputs, pitch_past = self.pitch(periods, pitch_inputs, pitch_past)
        classes = self.classes(heard)
        index = self.scale.index(PitchClasses.hertz(classes[:, :-1]), classes[:, -1] > 0)[:, None]
        if self.search is None:
            codes = index
        else:
            codes = self.search(self.project(hidden))
            codes = codes if self.place is None else torch.cat([codes[:, : self.place], index, codes[:, self.place :]], 1)
        return codes, inputs, past, pitch_inputs, pitch_past


class VoiceDecoderStep(nn.Module):
    """Codes of the envelope [B, K - 1], lost [B] and pitch [B, 3] -> log gains [B, 2 * s * bins] and the next past. What makes and filters the sources is no part
    of the step: `feed` and `finish`."""

    def __init__(self, model: SourceFilterCodec):
        super().__init__()
        c, decoder = model.config, model.decoder
        assert isinstance(decoder.backbone, ConvNeXtBackbone)
        self.config = c
        self.lookup = Lookup(model.quantizer.residual)
        self.lost, self.out = decoder.lost, decoder.out
        self.backbone = BackboneStep(decoder.backbone)
        self.speaker = [decoder]  # its parameters are no part of the graph
        self.state: VoiceState | None = None
        self.sources: tuple[Tensor, Tensor] | None = None

    def past(self, batch_size: int) -> tuple[Tensor, ...]:
        return self.backbone.past(batch_size)

    def feed(self, codes: Tensor, missing: Tensor | None) -> tuple[Tensor, ...]:
        """Codes [B, k, l] and lost frames [B, l] -> what `forward` takes, for l frames: each [B, l, ...]."""
        place, decoder = self.config.pitch_level, self.speaker[0]
        if self.state is None:
            self.state = decoder.initial_state(codes.shape[0])
        index = codes[:, place] if codes.shape[1] > place else torch.full_like(codes[:, 0], NOT_SENT)
        index = self.state.train.hold(index, missing)
        rest = torch.cat([codes[:, :place], codes[:, place + 1 :]], 1)
        self.sources = decoder.excitation(index, self.state)
        return self.lookup.padded(rest), _lost(codes, missing, self.lost), decoder.pitch_input(index).transpose(1, 2)

    def finish(self, gains: Tensor) -> Tensor:
        """What `forward` gave for the frames of the last `feed` [B, l, ...] -> the sound of every hop [B, l, span]."""
        assert self.sources is not None
        spoken: Tensor = self.speaker[0].speak(gains, *self.sources)
        return spoken

    def forward(self, codes: Tensor, lost: Tensor, told: Tensor, inputs: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        z = self.lookup(codes)
        z = z + lost[:, None] * (self.lost - z)
        hidden, inputs, past = self.backbone(torch.cat([told, z], -1), inputs, past)
        return self.out(hidden), inputs, past


def _spectrum_matrix(length: int, bins: int, first: int) -> Tensor:
    """Real and imaginary parts of the windowed transform as a matrix [length, 2 * bins], from bin `first`, float64."""
    window = hann_window(length, dtype=torch.float64)
    spectrum = torch.fft.rfft(torch.eye(length, dtype=torch.float64) * window)[:, first : first + bins]
    return torch.cat([spectrum.real, spectrum.imag], -1).contiguous()


def steps_of(model: FrameCodec[Any], levels: int | None) -> tuple[Any, Any]:
    """The folded encoder and decoder of a codec of frames, for inference; no decoder where its backbone spikes."""
    encoder: nn.Module
    decoder: nn.Module | None = None
    dense = isinstance(model.decoder.backbone, ConvNeXtBackbone)
    if isinstance(model, SourceFilterCodec):
        encoder = VoiceEncoderStep(model, levels)
        decoder = VoiceDecoderStep(model) if dense else None
    else:
        assert isinstance(model, FourierCodec)
        encoder = FourierEncoderStep(model, levels)
        decoder = FourierDecoderStep(model) if dense else None
    return encoder.eval().requires_grad_(False), None if decoder is None else decoder.eval().requires_grad_(False)
