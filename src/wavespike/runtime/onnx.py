"""Vocos through ONNX Runtime: the backbone and the head's linear layer are the graph, the rest of the head stays here.

The inverse transform is outside on purpose: `istft` exports to a graph that ONNX Runtime rejects, and as a transposed convolution it costs more than
the network. Features [B, C, L] -> z [B, L, out]; batch and frames are free.

    export(model, "vocos.onnx")
    fast = OnnxVocos(model, "vocos.onnx")      # a Vocos like any other: features, decode, call, stream
    fast = accelerate(model)                   # both, without a file
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from wavespike.config import to_dict
from wavespike.errors import CheckpointError, MissingDependencyError, OutputError, UsageError
from wavespike.models.base import Stream
from wavespike.models.streaming import BackboneStream
from wavespike.models.vocos import Vocos, _refuse
from wavespike.nn.heads import SourceFilterHead, reads_pitch

CONFIG_KEY = "wavespike.model"
"""Metadata of the file: the model's configuration, so that a file is not run with another model's head."""


class _Network(nn.Module):
    """Backbone and linear layer, the part that is exported; where the pitch is read from the hidden frames, its logits stand behind."""

    def __init__(self, model: Vocos):
        super().__init__()
        self.backbone, self.out = model.backbone, model.head.out
        self.pitch = pitch_classes(model)

    def forward(self, features: Tensor, bandwidth_id: Tensor | None = None) -> Tensor:
        hidden = self.backbone(features, bandwidth_id)
        z: Tensor = self.out(hidden)
        return z if self.pitch is None else torch.cat([z, self.pitch(hidden)], -1)


def pitch_classes(model: Vocos) -> nn.Linear | None:
    """The layer that reads the pitch from the hidden frames, where the head has one."""
    return cast(SourceFilterHead, model.head).pitch.out if reads_pitch(model.head) else None


class _Columns(nn.Module):
    """Columns of what the graph gave, in the place of the linear layer that made them; `weight` tells the type."""

    weight: Tensor

    def __init__(self, columns: slice, layer: nn.Linear):
        super().__init__()
        self.columns = columns
        self.register_buffer("weight", layer.weight.new_empty(0), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        return z[..., self.columns]


def _needs(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingDependencyError("ONNX", package, "export") from error


def conditioned(model: Vocos) -> bool:
    """Whether the network takes a bandwidth_id."""
    return getattr(model.config.backbone, "adanorm_num_embeddings", None) is not None


def export(model: Vocos, path: str | Path, *, int8: bool = False) -> Path:
    """Write the network of `model` as an ONNX file; `int8` quantises its weights dynamically: smaller and less exact.

    Raises MissingDependencyError without the extra `export`, OutputError when the file cannot be written.
    """
    onnx = _needs("onnx")
    _needs("onnxscript")
    path = Path(path)
    network = _Network(copy.deepcopy(model).eval().cpu().float())
    features = torch.zeros(2, model.feature_channels, 24)
    inputs: tuple[Tensor, ...] = (features, torch.zeros(2, dtype=torch.int64)) if conditioned(model) else (features,)
    batch, frames = torch.export.Dim("batch", min=1), torch.export.Dim("frames", min=1)
    shapes: tuple[Any, ...] = ({0: batch, 2: frames}, {0: batch}) if conditioned(model) else ({0: batch, 2: frames},)
    names = ["features", "bandwidth_id"][: len(inputs)]
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            network, inputs, input_names=names, output_names=["z"], dynamic_shapes=shapes, dynamo=True, external_data=False, verbose=False
        )
    assert program is not None
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = CONFIG_KEY, json.dumps(to_dict(model.config))
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            plain = Path(folder) / "network.onnx"
            onnx.save(proto, plain)
            if int8:
                quantization = _needs("onnxruntime.quantization")
                quantized = Path(folder) / "int8.onnx"
                with quiet():
                    quantization.quantize_dynamic(plain, quantized, per_channel=True, reduce_range=True, op_types_to_quantize=["MatMul", "Gemm"])
                plain = quantized
            plain.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: expected a file that can be written, got {error.strerror or error}; choose another") from error
    return path


class _OnnxNetwork(nn.Module):
    """The ONNX session in the place of the backbone: features [B, C, L] -> z [B, L, out]. The graph keeps no state: a step computes its context again."""

    def __init__(self, session: Any, channels: int, out_channels: int, context_frames: tuple[int, int]):
        super().__init__()
        self.session, self.channels, self.out_channels, self.context_frames = session, channels, out_channels, context_frames

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        inputs = {"features": features.detach().cpu().float().numpy()}
        if condition is not None:
            inputs["bandwidth_id"] = condition.cpu().expand(features.shape[0]).contiguous().numpy()
        return torch.from_numpy(self.session.run(None, inputs)[0]).to(features)

    def initial_state(self, batch_size: int) -> tuple[Tensor, int]:
        """Frames that are still needed [B, C, w], and which of them is the next to answer."""
        return torch.zeros(batch_size, self.channels, 0), 0

    def step(self, x: Tensor, state: tuple[Tensor, int], condition: Tensor | None = None, final: bool = False) -> tuple[Tensor, tuple[Tensor, int]]:
        """The next frames [B, C, l] -> the frames of z [B, m, out] that have their context by now, and the next state."""
        held, at = torch.cat([state[0], x], -1), state[1]
        left, right = self.context_frames
        ready = held.shape[-1] if final else held.shape[-1] - right
        if ready <= at:
            return x.new_zeros(x.shape[0], 0, self.out_channels), (held, at)
        z = self(held, condition)[:, at:ready]
        drop = max(0, ready - left)
        return z, (held[..., drop:], ready - drop)


class OnnxVocos(Vocos):
    """A Vocos whose network runs in ONNX Runtime on the CPU; features and the rest of the head are those of `model`. For inference only."""

    def __init__(self, model: Vocos, path: str | Path, threads: int | None = None):
        nn.Module.__init__(self)
        runtime = _needs("onnxruntime")
        options = runtime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the cores to others
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: expected an ONNX file, found none; write it with wavespike.runtime.onnx.export")
        try:
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises its own unrelated types
            raise CheckpointError(f"{path}: expected an ONNX file, got one that does not load ({type(error).__name__}); export it again") from error
        stored = session.get_modelmeta().custom_metadata_map.get(CONFIG_KEY)
        if stored is None or json.loads(stored) != json.loads(json.dumps(to_dict(model.config))):
            raise UsageError(f"{path}: expected the export of this model, got another configuration; export it again")
        self.config = model.config
        self.feature_extractor = model.feature_extractor
        self._context = model.context_frames
        self.head = copy.deepcopy(model.head)
        head: Any = self.head
        count, pitch = model.head.out.out_features, pitch_classes(model)
        head.out = _Columns(slice(count), model.head.out)  # the graph ends with the linear layers
        if pitch is not None:
            head.pitch.out = _Columns(slice(count, None), pitch)
            count += pitch.out_features
        self.backbone = _OnnxNetwork(session, self.feature_channels, count, model.backbone.context_frames)  # type: ignore[assignment]
        self.eval()

    @property
    def context_frames(self) -> tuple[int, int]:
        return self._context

    def stream(self, batch_size: int = 1, bandwidth_id: Tensor | None = None, **condition: Any) -> Stream:
        """A session: the graph keeps no state, so each push computes its context again; what the head carries from frame to frame goes on."""
        _refuse(condition)
        return BackboneStream(self.backbone, self.head, self.hop_length, self.feature_channels, batch_size, self._condition(bandwidth_id, batch_size))


def accelerate(model: Vocos, threads: int | None = None, *, int8: bool = False) -> OnnxVocos:
    """`model` with its network in ONNX Runtime, exported on the way and kept in memory only."""
    with tempfile.TemporaryDirectory() as folder:
        return OnnxVocos(model, export(model, Path(folder) / "network.onnx", int8=int8), threads)


def bench_session(model: Vocos, threads: int) -> Callable[[Tensor], Tensor]:
    """The `decode` of `accelerate`: features [B, C, L] -> waveform [B, T]."""
    return accelerate(model, threads).decode


@contextlib.contextmanager
def quiet() -> Any:
    """The exporter prints its progress and logs; a library does not."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
