"""What can be compared: our models, and their peers, behind one door: speech in, speech out, with bytes where there is a bit stream.

`open_system(name)` takes what `wavespike.load` takes, a codec at a chosen bitrate (`NAME@KBPS`), or a peer (`wavespike.metrics.peers`).
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavespike.errors import UsageError
from wavespike.hub.cards import twin_of
from wavespike.models.base import Codec, Model, Vocoder
from wavespike.nn.recording import spiking_layers
from wavespike.signal.resample import Samples, resample


@dataclasses.dataclass(frozen=True)
class Made:
    """What a system made of one file: mono samples [T] at `rate_hz`, the bytes of its bit stream (None: it has none), and what there is to say."""

    audio: Samples
    rate_hz: int
    bytes: int | None = None
    notes: tuple[str, ...] = ()

    def at(self, rate_hz: int) -> Samples:
        """The audio at another rate."""
        return resample(self.audio, self.rate_hz, rate_hz)


class System(abc.ABC):
    """Speech to speech. `kind` is vocoder, codec, or recordings; `waveform` whether the output follows the input's waveform sample by sample.

    `network` is dense, spiking, diffusion, or none (signal processing alone); `twin` names the dense model that a spiking one was made after.
    """

    kind: str = "vocoder"
    network: str = "none"
    twin: str | None = None
    parameters: int | None = None
    sample_rate: int | None = None
    """Hertz; None where it follows the file."""
    computes: bool = True
    """False where there is nothing to time."""
    in_process: bool = True
    """False where other programs do the work, whose memory is not that of this process."""

    @property
    def waveform(self) -> bool:
        return self.kind != "vocoder"

    @abc.abstractmethod
    def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
        """Mono samples [T] at `rate_hz`, read from `path` -> what the system makes of them. Raises WavespikeError."""

    @abc.abstractmethod
    def identity(self, path: Path | None = None) -> str:
        """A text that differs when the output could: configuration, weights, versions; for recordings also the contents belonging to `path`."""

    def energy(self, audio: Samples, rate_hz: int) -> dict[str, Any] | None:
        """Counted energy for this input, millijoules a second of audio; None where operations cannot be counted."""
        return None

    def as_used(self) -> System:
        """The system as the commands run it, for timing; ready to be timed."""
        return self

    def facts(self) -> dict[str, Any]:
        """Plain data about the system itself."""
        return {"kind": self.kind, "network": self.network, "what": self.what, "twin": self.twin, "parameters": self.parameters, "sample_rate": self.sample_rate}

    @property
    def what(self) -> str:
        """Kind and network in words: `spiking vocoder`, `codec, no network`."""
        return self.kind if self.kind == "recordings" else f"{self.kind}, no network" if self.network == "none" else f"{self.network} {self.kind}"


class ModelSystem(System):
    """A vocoder (copy-synthesis) or a codec (codes of `num_codebooks` levels, written as a `.wsc` file) of this package."""

    def __init__(self, name: str, model: Model[Any], condition: dict[str, Any] | None = None, bitrate: float | None = None):
        if not isinstance(model, (Vocoder, Codec)):
            raise UsageError(f"{name}: expected a vocoder or a codec, got a {model.kind}; eval judges models that give speech back")
        if bitrate is not None and not isinstance(model, Codec):
            raise UsageError(f"{name}: expected a codec before '@KBPS', got a {model.kind}; leave the bitrate out")
        self.name, self.model, self.kind = name, model.eval(), model.kind
        self.condition = {} if condition is None or isinstance(model, Codec) else condition
        self.num_codebooks = model.codebooks_for(bitrate) if isinstance(model, Codec) and bitrate is not None else None
        self.parameters, self.sample_rate = model.parameter_count(), model.sample_rate
        self.network = "spiking" if spiking_layers(model) else "diffusion" if hasattr(model, "plan") else "dense" if self.parameters else "none"
        self.twin = twin_of(name)

    def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
        model = self.model
        source = torch.from_numpy(resample(audio, rate_hz, model.sample_rate))
        with torch.inference_mode():
            if isinstance(model, Codec):
                codes = model.encode(source.expand(1, model.channels, -1), self.num_codebooks)
                made = model.decode(codes)[0, :, : source.numel()].mean(0)
                return Made(made.numpy(), model.sample_rate, wsc_bytes(model, codes, self.name, source.numel()))
            return Made(synthesise(model, source, self.condition).numpy(), model.sample_rate)

    @functools.cached_property
    def _identity(self) -> str:
        from wavespike.config import to_dict

        digest = hashlib.sha256(f"{to_dict(self.model.config)} {self.condition} {self.num_codebooks} {code_version(*MODEL_CODE)}".encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {list(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def identity(self, path: Path | None = None) -> str:
        return self._identity

    def energy(self, audio: Samples, rate_hz: int) -> dict[str, Any] | None:
        from wavespike.metrics.energy import TECHNOLOGIES, OperationCounter, energy
        from wavespike.nn.recording import record_spikes

        model = self.model
        source = torch.from_numpy(resample(audio, rate_hz, model.sample_rate))
        if isinstance(model, Codec):
            heard = source.expand(1, model.channels, -1)
            rates: dict[str, float] = {}
            with torch.no_grad():
                if spiking_layers(model):
                    with record_spikes(model) as record:
                        model.decode(model.encode(heard, self.num_codebooks))
                    rates = record.rates
                counter = OperationCounter(model)
                with counter.modules(), counter:
                    model.decode(model.encode(heard, self.num_codebooks))
            picojoules = sum(layer.energy_pj(TECHNOLOGIES["45nm"]) for layer in counter.layers.values())
            return {"millijoules_per_second": picojoules * 1e-9 * model.sample_rate / source.numel(), "technology": "45nm", "rates": rates,
                    "uncounted": counter.uncounted, "published_ratio": None, "ratio": None}
        hop = model.hop_length
        report = energy(model, torch.nn.functional.pad(source, (0, -source.numel() % hop)), **self.condition).to_dict()
        complete = report["complete"]
        return {"millijoules_per_second": complete["millijoules_per_second"], "technology": "45nm", "rates": report["rates"], "uncounted": report["uncounted"],
                "published_ratio": None if report["published"] is None else report["published"]["ratio"], "ratio": complete["ratio"]}

    def as_used(self) -> System:
        """With the engine `auto`, compiled: a spiking model by events where Numba is installed."""
        from wavespike.runtime.engines import with_engine

        model = with_engine(self.model, "auto")
        if model is self.model:
            return self
        assert isinstance(model, (Vocoder, Codec))
        fast = copy.copy(self)
        fast.model = model
        fast.make(np.zeros(model.sample_rate, np.float32), model.sample_rate, Path())
        return fast

    def facts(self) -> dict[str, Any]:
        nominal = None
        if isinstance(self.model, Codec):
            levels = self.num_codebooks or self.model.num_codebooks
            nominal = self.model.bitrate * levels / self.model.num_codebooks
        return {**super().facts(), "type": self.model.config.type_name, "nominal_bitrate_bps": nominal}


def synthesise(model: Any, audio: torch.Tensor, condition: dict[str, Any]) -> torch.Tensor:
    """Copy-synthesis [T] -> about [T]; the input is filled with zeros to whole hops, as resynth does. A codec hears it in all its channels."""
    if model.kind == "codec":
        out: torch.Tensor = model(audio.expand(1, model.channels, -1))[0].mean(0)
        return out
    hop: int = model.hop_length
    made: torch.Tensor = model(torch.nn.functional.pad(audio, (0, -audio.numel() % hop))[None], **condition)[0, : audio.numel()]
    return made


def wsc_bytes(codec: Codec[Any], codes: torch.Tensor, name: str, samples: int) -> int:
    """Length of the `.wsc` file, header and all, that `wavespike encode` writes for codes [1, K, L]."""
    from wavespike.runtime.bitstream import Header, WscWriter, block_frames_for

    levels = codes.shape[1]
    header = Header(model=name, fingerprint=codec.fingerprint(), sample_rate=codec.sample_rate, channels=codec.channels, streams=1, hop=codec.hop, codebooks=levels,
                    codebook_size=codec.codebook_size, samples=samples,
                    block_frames=block_frames_for(codec.sample_rate, codec.hop, levels * codec.quantizer_module.config.bits))
    writer = WscWriter(io.BytesIO(), header)
    writer.write(codes.cpu().numpy())
    writer.close(samples)
    return writer.bytes_written


MODEL_CODE = ("signal", "spikes", "nn", "models", "hub", "metrics/systems.py", "runtime/bitstream.py")
"""What the output of our models and the size of their streams depend on."""


@functools.cache
def code_version(*places: str) -> str:
    """Changes when the code in these rooms or files of the package does, or the version of torch, so that no result outlives the code that made it."""
    import wavespike

    digest = hashlib.sha256(f"{wavespike.__version__} torch {torch.__version__}".encode())
    root = Path(wavespike.__file__).parent
    for place in places:
        for file in [root / place] if place.endswith(".py") else sorted((root / place).rglob("*.py")):
            digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def open_system(name: str, condition: dict[str, Any] | None = None) -> System:
    """The system of a name: a model, `CODEC@KBPS`, or a peer such as `world`, `opus:12`, `files:FOLDER`. Raises UsageError."""
    from wavespike.hub.load import load
    from wavespike.metrics.peers import PEERS, open_peer

    if name.split(":")[0] in PEERS and not Path(name).exists():
        return open_peer(name)
    source, at, kbps = name.rpartition("@")
    if at and source and not Path(name).exists():
        try:
            bitrate = 1000 * float(kbps)
        except ValueError:
            raise UsageError(f"{name}: expected kilobits a second after '@', got {kbps!r}; write for example {source}@6") from None
        return ModelSystem(name, load(source), condition, bitrate)
    try:
        return ModelSystem(name, load(name), condition)
    except UsageError as error:
        if "expected a preset" in str(error):
            raise UsageError(f"{error}; peers are {', '.join(peer.usage for peer in PEERS.values())}") from error
        raise
