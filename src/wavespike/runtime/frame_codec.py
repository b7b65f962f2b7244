"""Codecs of frames one hop at a time, as fast as one core allows: the same function as `model.stream`, folded into the steps of `frame_steps`.

In compiled code (Numba) where that knows the model, for few streams at once; else through ONNX Runtime where it is installed, else PyTorch.

    session = frame_stream(model, batch_size=50)     # a CodecStream like model.stream: chunks of any size
    session.engine                                   # "compiled", "onnx" or "torch"

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
from torch import Tensor, nn

from wavespike.errors import MissingDependencyError, UsageError
from wavespike.models.frame_codec import FrameCodec, FrameCodecStream
from wavespike.runtime import compiled
from wavespike.runtime.frame_steps import steps_of

Engine = Literal["auto", "compiled", "onnx", "torch"]
FEW = 4
"""Streams in one session up to which compiled code, one stream after the other, is faster than a batch through ONNX Runtime."""


def frame_stream(model: FrameCodec[Any], batch_size: int = 1, num_codebooks: int | None = None, *, engine: Engine = "auto", threads: int | None = None) -> FrameStream:
    """A session that is fast for chunks of about a hop. Raises MissingDependencyError for engine "onnx" without the extra `export` and "compiled" without `events`, UsageError for a
    model that "compiled" does not know."""
    return FrameStream(model, batch_size, num_codebooks, engine, threads)


class FrameStream(FrameCodecStream):
    """`FrameCodecStream`, frame by frame through the folded steps. A decoder with a spiking backbone runs as there; the encoder is fast all the same."""

    def __init__(self, model: FrameCodec[Any], batch_size: int, num_codebooks: int | None, engine: Engine, threads: int | None):
        super().__init__(model, batch_size, num_codebooks)
        self.engine = _choose(engine, model, batch_size)
        self._hops: list[tuple[Any, Any]] = []
        if self.engine == "compiled":
            encode, decode = compiled_hops(model, num_codebooks)
            self._hops = [(encode, decode), *((encode.another(), decode.another()) for _ in range(batch_size - 1))]
            return
        encoder, decoder = steps_of(model, num_codebooks)
        self._encode_one: Any = encoder
        self._encoder_past = self._encode_one.past(batch_size)
        self._decode_one: Any = decoder
        if decoder is not None:
            self._feed: Any = decoder.feed
            self._finish: Any = decoder.finish
            self._decoder_past = self._decode_one.past(batch_size)
        if self.engine == "onnx":
            frame = self._like.new_zeros(batch_size, model.analysis_length)
            self._encode_one = OnnxStep(self._encode_one, (frame, *self._encoder_past), threads)
            if decoder is not None:
                one = torch.zeros(batch_size, model.num_codebooks, 1, dtype=torch.int64)
                fresh = steps_of(model, num_codebooks)[1]
                assert fresh is not None
                inputs = tuple(x[:, 0].contiguous() for x in fresh.feed(one, None))
                self._decode_one = OnnxStep(decoder, (*inputs, *self._decoder_past), threads)

    def _encode_frames(self, frames: Tensor) -> Tensor:
        if self._hops:
            items = frames.contiguous().numpy()
            return torch.from_numpy(np.stack([np.stack([encode(f).copy() for f in item], -1) for (encode, _), item in zip(self._hops, items, strict=True)]))
        out = []
        for frame in frames.unbind(1):
            codes, *past = self._encode_one(frame.contiguous(), *self._encoder_past)
            self._encoder_past = tuple(past)
            out.append(codes)
        return torch.stack(out, -1)

    def _decode_frames(self, codes: Tensor, missing: Tensor | None) -> Tensor:
        if self._hops:
            lost = torch.zeros(codes.shape[0], codes.shape[-1], dtype=torch.bool) if missing is None else missing
            items = zip(self._hops, codes.transpose(1, 2).contiguous().numpy(), lost.numpy(), strict=True)
            return torch.from_numpy(np.stack([np.stack([decode(c, bool(gone)) for c, gone in zip(item, row, strict=True)]) for (_, decode), item, row in items]))
        if self._decode_one is None:
            return super()._decode_frames(codes, missing)
        inputs = self._feed(codes, missing)
        out = []
        for i in range(codes.shape[-1]):
            frame, *past = self._decode_one(*(x[:, i].contiguous() for x in inputs), *self._decoder_past)
            self._decoder_past = tuple(past)
            out.append(frame)
        frames: Tensor = self._finish(torch.stack(out, 1))
        return frames


def _choose(engine: Engine, model: FrameCodec[Any], streams: int) -> Engine:
    """For single precision on the CPU what is installed and fastest, else PyTorch."""
    if engine != "auto":
        return engine
    weight = next(model.encoder.parameters())
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return "torch"
    if streams <= FEW and compiled.available() and importlib.import_module("wavespike.runtime.compiled.codec").suits(model):
        return "compiled"
    return "onnx" if all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "onnx")) else "torch"


def compiled_hops(model: FrameCodec[Any], levels: int | None) -> tuple[Any, Any]:
    """Encoder and decoder of one stream in compiled code."""
    codec = importlib.import_module("wavespike.runtime.compiled.codec")
    if not codec.suits(model):
        raise UsageError(f"expected a dense source-filter codec with a beam of 1, in single precision on the CPU, for the engine 'compiled', got {type(model).__name__}; use 'auto'")
    return codec.HopEncoder(model, levels), codec.HopDecoder(model)


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
