"""The Fourier codec one hop at a time, as fast as one core allows: the same function as `model.stream`, folded into few operations of fixed shape.

Folded: the transform is a matrix with its window, layer scale is inside the second pointwise layer, a causal convolution of one frame is a weighted sum
over its window, the search in a codebook is one product with 2 e and |e|^2. Through ONNX Runtime where it is installed, else PyTorch.

    session = frame_stream(model, batch_size=50)     # a CodecStream as model.stream: chunks of any size
    step = FrameSteps(model, batch_size=1)           # or hop by hop
    codes = step.encode(hop)                         # [B, hop] -> [B, K]
    hop = step.decode(codes)                         # [B, K] -> [B, hop], `edge` samples late

A decoder with a spiking backbone runs as `model.stream` runs it; the encoder is fast all the same.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.errors import MissingDependencyError, UsageError
from wavespike.models.base import Codec, CodecStream
from wavespike.models.fourier_codec import FLOOR, SCALE, FourierCodec, FourierCodecStream
from wavespike.nn.convnext import ConvNeXtBackbone
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
    """One frame [B, frame_length] -> codes [B, K] and the next past."""

    def __init__(self, model: FourierCodec):
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
        books = _codebooks(model)  # [K, N, D]
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
        codes = []
        for k in range(c.quantizer.num_codebooks):
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
        gain, s = torch.addmm(self.bias, h, self.out).split((c.bins, c.input_features), -1)
        s = (s + z @ self.shortcut) * (1 / SCALE)
        gain, square = torch.exp(gain.clamp(max=6.0)), s.square()
        if c.transform == "stft":
            real, imaginary = square.chunk(2, -1)
            square, gain = torch.cat([real + imaginary, real + imaginary], -1), torch.cat([gain, gain], -1)
        return (gain * s * ((square + 1e-8).pow(0.5 * (1 / c.compression - 1)) + FLOOR)) @ self.inverse, inputs, past


def _codebooks(model: FourierCodec) -> Tensor:
    return torch.stack([model.quantizer.get_buffer(f"levels.{k}.codebook") for k in range(model.num_codebooks)])


class FrameSteps:
    """Encoder and decoder of `batch_size` streams, a hop at a time; the state is in here. `engine` says what runs the networks."""

    def __init__(self, model: FourierCodec, batch_size: int = 1, engine: Engine = "auto", threads: int | None = None):
        if batch_size < 1:
            raise UsageError(f"batch_size: expected at least 1, got {batch_size}")
        if not isinstance(model.decoder.backbone, ConvNeXtBackbone):
            raise UsageError("expected a codec with a ConvNeXt decoder, got a spiking one; use model.stream")
        c = model.config
        self.config, self.batch_size = c, batch_size
        with torch.no_grad():
            encoder, decoder = EncoderStep(model).eval().requires_grad_(False), DecoderStep(model).eval().requires_grad_(False)
        self.engine = _choose(engine, model)
        self._samples = torch.zeros(batch_size, c.frame_length, dtype=encoder.transform.dtype)
        self._tail = torch.zeros(batch_size, c.frame_length - c.hop_length, dtype=encoder.transform.dtype)
        self._encoder_past, self._decoder_past = encoder.backbone.past(batch_size), decoder.backbone.past(batch_size)
        none = torch.zeros(batch_size, dtype=self._samples.dtype)
        self._none = none
        self._encode: Any = encoder
        self._decode: Any = decoder
        if self.engine == "onnx":
            codes = torch.zeros(batch_size, c.quantizer.num_codebooks, dtype=torch.int64)
            self._encode = OnnxStep(encoder, (self._samples, *self._encoder_past), threads)
            self._decode = OnnxStep(decoder, (codes, none, *self._decoder_past), threads)

    @torch.inference_mode()
    def encode(self, hop: Tensor) -> Tensor:
        """The next hop of audio [B, hop] -> its codes [B, K]."""
        self._samples = torch.cat([self._samples[:, self.config.hop_length :], hop], 1)
        codes, *past = self._encode(self._samples, *self._encoder_past)
        self._encoder_past = tuple(past)
        out: Tensor = codes
        return out

    @torch.inference_mode()
    def decode(self, codes: Tensor, lost: Tensor | None = None) -> Tensor:
        """The next codes [B, k], k <= K, and which streams lost them [B] (bool) -> audio [B, hop], which ends `edge` samples before the codes' hop does."""
        c = self.config
        if codes.shape[1] < c.quantizer.num_codebooks:
            codes = F.pad(codes, (0, c.quantizer.num_codebooks - codes.shape[1]), value=c.quantizer.codebook_size)
        frame, *past = self._decode(codes, self._none if lost is None else lost.to(self._none), *self._decoder_past)
        self._decoder_past = tuple(past)
        overlap = c.frame_length - c.hop_length
        head = frame[:, : c.hop_length].clone()
        head[:, :overlap] += self._tail
        self._tail = frame[:, c.hop_length :]
        return head


def _choose(engine: Engine, model: FourierCodec) -> Engine:
    if engine != "auto":
        return engine
    single = model.encoder.project.weight.dtype == torch.float32 and model.encoder.project.weight.device.type == "cpu"
    installed = all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "onnx", "onnxscript"))
    return "onnx" if single and installed else "torch"


class OnnxStep:
    """A step module as an ONNX Runtime session of fixed shapes: called like the module."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...], threads: int | None = None):
        from wavespike.runtime.onnx import quiet

        try:
            runtime = importlib.import_module("onnxruntime")
            importlib.import_module("onnxscript")
        except ImportError as error:
            raise MissingDependencyError("ONNX", "onnxruntime", "export") from error
        self.names = [f"in{i}" for i in range(len(inputs))]
        with quiet(), torch.no_grad():
            program = torch.onnx.export(module, inputs, input_names=self.names, dynamo=True, external_data=False, verbose=False)
        assert program is not None
        options = runtime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
        self.session = runtime.InferenceSession(program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        feeds = {name: value.numpy() for name, value in zip(self.names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(value)) for value in self.session.run(None, feeds))
