"""The Fourier codec one hop at a time, as fast as one core allows: the same function as `model.stream`, folded into few operations of fixed shape.

Folded: the transform is a matrix with its window, layer scale is inside the second pointwise layer, a causal convolution of one frame is a weighted sum
over its window, the search in a codebook is one product with 2 e and |e|^2. Through ONNX Runtime where it is installed, else PyTorch.

    session = frame_stream(model, batch_size=50)     # a CodecStream like model.stream: chunks of any size
    session.engine                                   # "onnx" or "torch"

It pays for short chunks; a long one runs better through `model.stream`, many frames at a time.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.errors import MissingDependencyError
from wavespike.models.fourier_codec import FLOOR, SCALE, FourierCodec
from wavespike.models.frame_codec import FrameCodecStream
from wavespike.nn.convnext import ConvNeXtBackbone
from wavespike.nn.rvq import beam_search
from wavespike.signal.lapped import lapped_window
from wavespike.signal.mdct import imdct_frames, mdct_of_frames

Engine = Literal["auto", "onnx", "torch"]


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


class EncoderStep(nn.Module):
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
        books = _codebooks(model)[:levels]  # [K, N, D]
        self.books = nn.Parameter(books)
        self.search = nn.Parameter(2 * books.transpose(1, 2).contiguous())  # [K, D, N]
        self.squares = nn.Parameter(-books.square().sum(2))

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
        if c.quantizer.beam > 1:
            return beam_search(residual, self.books, c.quantizer.beam), inputs, past
        codes = []
        for k in range(self.books.shape[0]):
            index = torch.addmm(self.squares[k], residual, self.search[k]).argmax(1)
            codes.append(index)
            residual = residual - self.books[k][index]
        return torch.stack(codes, 1), inputs, past


class DecoderStep(nn.Module):
    """Codes [B, K], N for a level that was not sent, and lost [B] (1.0 or 0.0) -> one windowed frame [B, frame_length] and the next past."""

    def __init__(self, model: FourierCodec):
        super().__init__()
        c, decoder = model.config, model.decoder
        assert isinstance(decoder.backbone, ConvNeXtBackbone)
        self.config = c
        books = _codebooks(model)
        size = c.quantizer.codebook_size
        self.rows = nn.Parameter(torch.cat([books, books.new_zeros(books.shape[0], 1, books.shape[2])], 1).flatten(0, 1))  # [K * (N + 1), D]
        self.offsets = nn.Parameter(torch.arange(books.shape[0]) * (size + 1), requires_grad=False)
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

    def forward(self, codes: Tensor, lost: Tensor, inputs: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        z = self.rows[codes + self.offsets].sum(1)
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


def _codebooks(model: FourierCodec) -> Tensor:
    return torch.stack([model.quantizer.get_buffer(f"levels.{k}.codebook") for k in range(model.num_codebooks)])


def frame_stream(model: FourierCodec, batch_size: int = 1, num_codebooks: int | None = None, *, engine: Engine = "auto", threads: int | None = None) -> FrameStream:
    """A session that is fast for chunks of about a hop. Raises MissingDependencyError for engine "onnx" without the extra `export`."""
    return FrameStream(model, batch_size, num_codebooks, engine, threads)


class FrameStream(FrameCodecStream):
    """`FrameCodecStream`, frame by frame through the folded steps. A decoder with a spiking backbone runs as there; the encoder is fast all the same."""

    def __init__(self, model: FourierCodec, batch_size: int, num_codebooks: int | None, engine: Engine, threads: int | None):
        super().__init__(model, batch_size, num_codebooks)
        self.engine = _choose(engine, model)
        c = model.config
        encoder = EncoderStep(model, num_codebooks).eval().requires_grad_(False)
        self._encoder_past = encoder.backbone.past(batch_size)
        self._encode_one: Any = encoder
        self._decode_one: Any = None
        if isinstance(model.decoder.backbone, ConvNeXtBackbone):
            self._decode_one = DecoderStep(model).eval().requires_grad_(False)
            self._decoder_past = self._decode_one.backbone.past(batch_size)
        self._all_there = self._like.new_zeros(batch_size)
        if self.engine == "onnx":
            frame, codes = self._like.new_zeros(batch_size, c.frame_length), torch.zeros(batch_size, c.quantizer.num_codebooks, dtype=torch.int64)
            self._encode_one = OnnxStep(encoder, (frame, *self._encoder_past), threads)
            if self._decode_one is not None:
                self._decode_one = OnnxStep(self._decode_one, (codes, self._all_there, *self._decoder_past), threads)

    def _encode_frames(self, frames: Tensor) -> Tensor:
        out = []
        for frame in frames.unbind(1):
            codes, *past = self._encode_one(frame.contiguous(), *self._encoder_past)
            self._encoder_past = tuple(past)
            out.append(codes)
        return torch.stack(out, -1)

    def _decode_frames(self, codes: Tensor, missing: Tensor | None) -> Tensor:
        if self._decode_one is None:
            return super()._decode_frames(codes, missing)
        q = self._model.config.quantizer
        codes = F.pad(codes, (0, 0, 0, q.num_codebooks - codes.shape[1]), value=q.codebook_size)
        lost = None if missing is None else missing.to(self._like)
        out = []
        for i in range(codes.shape[-1]):
            frame, *past = self._decode_one(codes[..., i].contiguous(), self._all_there if lost is None else lost[:, i].contiguous(), *self._decoder_past)
            self._decoder_past = tuple(past)
            out.append(frame)
        return torch.stack(out, 1)


def _choose(engine: Engine, model: FourierCodec) -> Engine:
    """ONNX Runtime where it is installed, for single precision on the CPU."""
    if engine != "auto":
        return engine
    weight = model.encoder.project.weight
    installed = all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "onnx"))
    return "onnx" if installed and weight.dtype == torch.float32 and weight.device.type == "cpu" else "torch"


class OnnxStep:
    """A step module as an ONNX Runtime session of fixed shapes: called like the module."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...], threads: int | None = None):
        from wavespike.runtime.onnx import quiet

        try:
            runtime = importlib.import_module("onnxruntime")
            importlib.import_module("onnx")
        except ImportError as error:
            raise MissingDependencyError("ONNX", "onnxruntime", "export") from error
        self.names = [f"in{i}" for i in range(len(inputs))]
        with tempfile.TemporaryDirectory() as folder, quiet(), torch.no_grad():  # by tracing: a quarter of a second, where the other exporter takes ten
            path = Path(folder) / "step.onnx"
            torch.onnx.export(module, inputs, path, input_names=self.names, dynamo=False, opset_version=17)
            graph = path.read_bytes()
        options = runtime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
        self.session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        feeds = {name: value.numpy() for name, value in zip(self.names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(value)) for value in self.session.run(None, feeds))
