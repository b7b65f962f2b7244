"""A codec live: frames of audio in, frames of audio out, through bounded queues, with every delay measured.

Two threads work, one encodes and one decodes. A frame that finds its queue full is dropped and counted; output that is not there in time is silence and
counted. The source is a file at real-time pace (or as fast as it goes), or a sound card through PortAudio (`sounddevice`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavespike.errors import AudioError, MissingDependencyError, UsageError, WavespikeError
from wavespike.models.base import Codec, CodecStream
from wavespike.signal.files import Reader, SampleFormat, Writer
from wavespike.signal.resample import Resampler, Samples

QUEUE_FRAMES = 8
"""Frames that may wait before each worker."""


class DeviceGone(WavespikeError):
    """The sound card stopped while in use; `report` tells of the time before."""

    def __init__(self, report: LiveReport):
        super().__init__("expected the sound card to stay, but it stopped; files were closed, see --list-devices for what is there now")
        self.report = report


@dataclasses.dataclass(frozen=True)
class Quantiles:
    """Median and upper tails of a delay in milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values_ms: list[float]) -> Quantiles | None:
        return cls(*(float(q) for q in np.percentile(values_ms, [50, 95, 99]))) if values_ms else None


@dataclasses.dataclass(frozen=True)
class LiveReport:
    """What a run was like. `algorithmic_delay_ms`: of the codec with the frame that is gathered; computing comes on top."""

    sample_rate: int
    frame_samples: int
    frames: int
    algorithmic_delay_ms: float
    encode_ms: Quantiles | None
    decode_ms: Quantiles | None
    queue_ms: Quantiles | None
    end_to_end_ms: Quantiles | None
    """From the first sample of a frame reaching the input to its audio being ready; None where there is no pace (`--fast`)."""
    times_real_time: float
    dropped_frames: int
    silent_samples: int
    """Output samples that came too late and were silence."""

    @property
    def drop_rate(self) -> float:
        return self.dropped_frames / max(1, self.frames)


@dataclasses.dataclass
class _Frame:
    audio: Samples
    captured: float
    codes: torch.Tensor | None = None
    encoded: float = 0.0
    waited: float = 0.0


class Pipeline:
    """Frames [C, n] in by `feed` (never waits unless told to), audio out by `take`; encoding and decoding happen in threads of their own."""

    def __init__(self, codec: Codec[Any], frame_samples: int, queue_frames: int = QUEUE_FRAMES, keep_all: bool = False):
        if frame_samples < 1:
            raise UsageError(f"frame_samples: expected at least 1, got {frame_samples}")
        if queue_frames < 1:
            raise UsageError(f"queue_frames: expected at least 1, got {queue_frames}")
        self._codec, self.frame_samples, self._keep_all = codec, frame_samples, keep_all
        self._session = _session(codec, frame_samples)
        self._device = next(codec.parameters()).device
        self._most_ready = queue_frames * max(frame_samples, codec.hop)
        self._to_encode: queue.Queue[_Frame | None] = queue.Queue(queue_frames)
        self._to_decode: queue.Queue[_Frame | None] = queue.Queue(queue_frames)
        self._ready: deque[Samples] = deque()
        self._ready_samples = 0
        self._lock = threading.Condition()
        self.error: BaseException | None = None
        self.frames = self.dropped_frames = self.silent_samples = 0
        self._encode_ms: list[float] = []
        self._decode_ms: list[float] = []
        self._queue_ms: list[float] = []
        self._end_to_end_ms: list[float] = []
        self._threads = [threading.Thread(target=self._work, args=(step,), daemon=True) for step in (self._encode_all, self._decode_all)]
        self._started = time.perf_counter()
        for thread in self._threads:
            thread.start()

    def feed(self, audio: Samples, wait: bool = False) -> bool:
        """One frame [C, n]. False when it was dropped because the queue is full."""
        self.frames += 1
        frame = _Frame(audio, time.perf_counter() - audio.shape[1] / self._codec.sample_rate)
        try:
            if wait:
                self._put(self._to_encode, frame)
            else:
                self._to_encode.put_nowait(frame)
        except queue.Full:
            self.dropped_frames += 1
            return False
        return True

    def _put(self, target: queue.Queue[_Frame | None], frame: _Frame | None) -> None:
        """Wait for room, unless a worker has died."""
        while self.error is None:
            with contextlib.suppress(queue.Full):
                target.put(frame, timeout=0.2)
                return

    def take(self, count: int) -> Samples:
        """`count` samples [C, count] for the output: silence where nothing is ready."""
        with self._lock:
            parts, have = [], 0
            while self._ready and have < count:
                part = self._ready.popleft()
                if have + part.shape[1] > count:
                    self._ready.appendleft(part[:, count - have :])
                    part = part[:, : count - have]
                parts.append(part)
                have += part.shape[1]
            self._ready_samples -= have
            self._lock.notify_all()
        self.silent_samples += count - have
        channels = parts[0].shape[0] if parts else self._codec.channels
        return np.concatenate([*parts, np.zeros((channels, count - have), np.float32)], 1)

    def take_ready(self) -> Samples | None:
        """All audio that is ready, or None."""
        with self._lock:
            parts = list(self._ready)
            self._ready.clear()
            self._ready_samples = 0
            self._lock.notify_all()
        return np.concatenate(parts, 1) if parts else None

    def close(self, wait: bool = True) -> None:
        """No more frames: let the workers finish (or, without `wait`, leave what is queued). Raises what a worker raised."""
        if not wait:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._to_encode.get_nowait()
        self._end(self._to_encode, self._threads[0])
        for thread in self._threads:
            thread.join()
        if self.error is not None:
            raise self.error

    @property
    def finished(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, steps: Callable[[], None]) -> None:
        try:
            steps()
        except BaseException as error:  # handed to whoever closes the pipeline
            self.error = error
        finally:
            if steps == self._encode_all:
                self._end(self._to_decode, self._threads[1])

    def _end(self, target: queue.Queue[_Frame | None], worker: threading.Thread) -> None:
        """Tell a worker that no more frames come, whether or not the other one has died."""
        while worker.is_alive():
            with contextlib.suppress(queue.Full):
                target.put(None, timeout=0.2)
                return

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _encode_all(self) -> None:
        while (frame := self._to_encode.get()) is not None:
            start = self._now()
            frame.codes = self._session.encode(torch.from_numpy(np.ascontiguousarray(frame.audio))[None].to(self._device))
            frame.encoded = self._now()
            frame.waited = start - frame.captured - frame.audio.shape[1] / self._codec.sample_rate
            self._encode_ms.append(1000 * (frame.encoded - start))
            self._put(self._to_decode, frame)
        last = self._session.flush_codes()
        if last.shape[-1]:
            self._put(self._to_decode, _Frame(np.zeros((self._codec.channels, 0), np.float32), self._now(), last, self._now()))

    def _decode_all(self) -> None:
        while (frame := self._to_decode.get()) is not None:
            assert frame.codes is not None
            start = self._now()
            audio = self._session.decode(frame.codes)[0].cpu().numpy()
            end = self._now()
            if frame.audio.shape[1]:  # not the codes that only the end brought out
                self._decode_ms.append(1000 * (end - start))
                self._queue_ms.append(1000 * (frame.waited + start - frame.encoded))
                self._end_to_end_ms.append(1000 * (end - frame.captured))
            self._offer(audio)
        self._offer(self._session.flush_audio()[0].cpu().numpy())

    def _offer(self, audio: Samples) -> None:
        if not audio.shape[1]:
            return
        with self._lock:
            while self._keep_all and self._ready_samples > self._most_ready:
                self._lock.wait(0.2)
            self._ready.append(audio)
            self._ready_samples += audio.shape[1]
            while not self._keep_all and self._ready_samples > self._most_ready and len(self._ready) > 1:
                old = self._ready.popleft()  # late output makes room for newer: the delay stays bounded
                self._ready_samples -= old.shape[1]
                self.dropped_frames += 1

    def report(self, paced: bool) -> LiveReport:
        """Valid after `close`."""
        rate = self._codec.sample_rate
        computed_s = (sum(self._encode_ms) + sum(self._decode_ms)) / 1000
        return LiveReport(
            rate, self.frame_samples, self.frames, 1000 * self._codec.delay_with(self.frame_samples) / rate, Quantiles.of(self._encode_ms),
            Quantiles.of(self._decode_ms), Quantiles.of(self._queue_ms) if paced else None, Quantiles.of(self._end_to_end_ms) if paced else None,
            len(self._decode_ms) * self.frame_samples / rate / max(computed_s, 1e-9), self.dropped_frames, self.silent_samples,
        )


def _session(codec: Codec[Any], frame_samples: int) -> CodecStream:
    """The fastest session for frames of so many samples."""
    from wavespike.models.frame_codec import FrameCodec

    if isinstance(codec, FrameCodec) and frame_samples < 4 * codec.hop:
        from wavespike.runtime.frame_codec import frame_stream

        return frame_stream(codec, 1)
    return codec.stream(1)


def _frames(audio: Reader, rate_hz: int, size: int) -> Iterator[Samples]:
    """Frames [C, size] at `rate_hz`; the last may be shorter."""
    resampler = Resampler(audio.rate_hz, rate_hz, audio.channels)
    held: Samples = np.zeros((audio.channels, 0), np.float32)
    for block in _with_end(audio):
        held = np.concatenate([held, resampler.flush() if block is None else resampler.push(block)], 1)
        while held.shape[1] >= size:
            yield held[:, :size]
            held = held[:, size:]
    if held.shape[1]:
        yield held


def _with_end(audio: Reader) -> Iterator[Samples | None]:
    yield from audio.blocks(1 << 14)
    yield None


def stream_file(
    codec: Codec[Any], source: str | Path, target: str | Path, *, frame_samples: int, fast: bool = False, queue_frames: int = QUEUE_FRAMES,
    sample_format: SampleFormat = "int16", advance: Callable[[float], None] = lambda seconds: None,
) -> LiveReport:
    """A file through the live pipeline at real-time pace, or without pace (`fast`), written as it comes out; as long as the input (plus what was dropped less).

    Raises AudioError when the file's channels are not the codec's.
    """
    with Reader(source) as audio:
        if audio.channels != codec.channels:
            raise AudioError(f"{source}: expected {codec.channels} channels as the model has, got {audio.channels}; mix or split the channels first")
        with Writer(target, codec.sample_rate, codec.output_channels, sample_format) as out:
            pipeline = Pipeline(codec, frame_samples, queue_frames, keep_all=fast)
            start, fed, written = time.perf_counter(), 0, 0

            def drain() -> None:
                nonlocal written
                ready = pipeline.take_ready()
                if ready is not None:
                    keep = ready[:, : max(0, fed - written)]  # a code gives its whole hop: no more out than was in
                    out.write(keep)
                    written += keep.shape[1]

            try:
                for frame in _frames(audio, codec.sample_rate, frame_samples):
                    fed += frame.shape[1]
                    while not fast and (left := start + fed / codec.sample_rate - time.perf_counter()) > 0:
                        drain()
                        time.sleep(min(left, 0.005))
                    if fast:
                        while pipeline.error is None and pipeline._to_encode.full():
                            drain()
                            time.sleep(0.0002)
                    pipeline.feed(frame, wait=fast)
                    drain()
                    advance(frame.shape[1] / codec.sample_rate)
                    if pipeline.error is not None:
                        break
            finally:
                closer = threading.Thread(target=_quietly(pipeline.close))
                closer.start()
                while closer.is_alive():
                    drain()
                    closer.join(0.005)
            if pipeline.error is not None:
                raise pipeline.error
            drain()
    return pipeline.report(paced=not fast)


def _quietly(close: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with contextlib.suppress(BaseException):  # the pipeline keeps its error
            close()

    return run


def sound_backend() -> Any:
    """The module `sounddevice`. Raises MissingDependencyError when it, or PortAudio, is not there."""
    try:
        import sounddevice
    except ImportError as error:
        raise MissingDependencyError("live audio", "sounddevice", "live") from error
    except OSError as error:
        raise UsageError("live audio: expected the library PortAudio, found none; install it (Debian: apt install libportaudio2)") from error
    return sounddevice


def list_devices(backend: Any | None = None) -> list[dict[str, Any]]:
    """Sound cards: index, name, channels in and out, default rate in hertz."""
    found = (backend if backend is not None else sound_backend()).query_devices()
    return [{"index": i, "name": d["name"], "inputs": d["max_input_channels"], "outputs": d["max_output_channels"], "rate_hz": d["default_samplerate"]}
            for i, d in enumerate(found)]


def stream_devices(
    codec: Codec[Any], input_device: str | int | None, output_device: str | int | None, *, frame_samples: int, seconds: float | None = None,
    queue_frames: int = QUEUE_FRAMES, dump_input: str | Path | None = None, dump_output: str | Path | None = None, backend: Any | None = None,
    stop: threading.Event | None = None,
) -> LiveReport:
    """Microphone through the codec to the speaker, duplex, until `seconds` have passed, `stop` is set or Ctrl-C.

    Raises DeviceGone when the card stops, after files were closed; the report then is its `report`.
    """
    sounds = backend if backend is not None else sound_backend()
    stop = threading.Event() if stop is None else stop
    dumped: queue.SimpleQueue[tuple[Samples, Samples]] = queue.SimpleQueue()
    dumping = dump_input is not None or dump_output is not None
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(Writer(path, codec.sample_rate, channels)) if path is not None else None
                 for path, channels in ((dump_input, codec.channels), (dump_output, codec.output_channels))]
        pipeline = Pipeline(codec, frame_samples, queue_frames)

        def callback(indata: Any, outdata: Any, frames: int, when: Any, status: Any) -> None:
            heard = np.ascontiguousarray(np.asarray(indata, np.float32).T)
            pipeline.feed(heard)
            said = pipeline.take(frames)
            outdata[:] = np.clip(said, -1, 1).T
            if dumping:
                dumped.put((heard, said))

        def write_dumps() -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    for file, audio in zip(files, dumped.get_nowait(), strict=True):
                        if file is not None:
                            file.write(audio)

        gone = False
        try:
            stream = sounds.Stream(samplerate=codec.sample_rate, blocksize=frame_samples, device=(input_device, output_device),
                                   channels=(codec.channels, codec.output_channels), dtype="float32", latency="low", callback=callback)
        except Exception as error:  # PortAudioError or ValueError of the backend
            pipeline.close(wait=False)
            raise UsageError(f"expected a sound card at {codec.sample_rate} Hz with {codec.channels} input channels, got: {error}; see --list-devices") from error
        with stream:
            until = None if seconds is None else time.perf_counter() + seconds
            with contextlib.suppress(KeyboardInterrupt):
                while not stop.is_set() and (until is None or time.perf_counter() < until):
                    stop.wait(0.05)
                    write_dumps()
                    if not stream.active:
                        gone = True
                        break
                    if pipeline.error is not None:
                        break
        write_dumps()
        pipeline.close(wait=False)
    report = pipeline.report(paced=True)
    if gone:
        raise DeviceGone(report)
    return report
