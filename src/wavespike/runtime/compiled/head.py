"""The source-filter head without PyTorch's many passes: the same equation, products and transforms, and one compiled pass for all that stands between two
of them. It has nothing to do with spikes; without it the head, which is dense in the spiking and in the dense model alike, would take most of the time
that the spikes have saved.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavespike.nn.heads import SourceFilterHead
from wavespike.runtime.compiled import head_kernels as kernels
from wavespike.runtime.compiled import lanes
from wavespike.signal.mel import log_scale, magnitude_from_mel, pseudo_inverse
from wavespike.signal.source import integrate_pitch
from wavespike.signal.stft import frame, frame_pads, hann_window, inverse_envelope
from wavespike.threads import cut, run_all, share, spread

Array = np.ndarray[Any, Any]

LEAST_FRAMES = 8
"""Fewer go the plain way."""
BLOCK_FRAMES = 64
"""Frames that go through a transform together: their spectra stay in the cache."""


class CompiledSourceFilterHead(SourceFilterHead):
    """A `SourceFilterHead` for inference, sharing the parameters of the one it was made from. What it does not know it does as that one does."""

    @classmethod
    def of(cls, head: SourceFilterHead) -> CompiledSourceFilterHead:
        """The same layers (not copies) with this class's way to run them."""
        new = cls.__new__(cls)
        new.__dict__.update(head.__dict__)
        new._modules = dict(head._modules)
        return new

    def forward(self, hidden: Tensor, features: Tensor, f0_hz: Tensor | None = None, voiced: Tensor | None = None, *, start_phase: Tensor | None = None,
                offset_samples: Tensor | None = None, pulses: Tensor | None = None) -> Tensor:
        c = self.config
        asked = torch.is_grad_enabled() and (hidden.requires_grad or features.requires_grad)
        if (self.training or asked or hidden.device.type != "cpu" or hidden.dtype != torch.float32 or c.phase_correction or c.n_fft % c.hop_length
                or c.n_fft % 2 or pulses is not None):
            return super().forward(hidden, features, f0_hz, voiced, start_phase=start_phase, offset_samples=offset_samples, pulses=pulses)

        def work() -> Tensor:
            f0, v = self.pitch.decode(*self.hear(hidden, features)) if f0_hz is None or voiced is None else (f0_hz, voiced)
            offset = torch.zeros(features.shape[0], dtype=torch.int64) if offset_samples is None else offset_samples
            phase = integrate_pitch(f0, c.hop_length, self.mel.sample_rate, start_phase, v)
            train, noise = self.source(f0.float(), phase, offset)
            heard = v.float().contiguous().numpy()
            render = self._by_lanes if self._fits_lanes(hidden.shape[1]) else self._render
            return torch.stack([render(hidden[i], features[i], heard[i], train[i : i + 1], noise[i : i + 1]) for i in range(hidden.shape[0])])

        with torch.no_grad():
            return spread(work, hidden, self)

    def _fits_lanes(self, frames: int) -> bool:
        """Whether `lanes` knows this head: its sizes, the plain algorithm, a mel of magnitudes, and a signal whose two ends do not meet."""
        c = self.config
        return (c.n_fft, c.hop_length, self.mel.power) == (lanes.N_FFT, lanes.HOP, 1.0) and float(self.momentum.detach()) == 0.0 and frames >= LEAST_FRAMES

    def _by_lanes(self, hidden: Tensor, mel: Tensor, voiced: Array, pulses: Tensor, noise: Tensor) -> Tensor:
        """One item: hidden [L, dim], mel [C, L], sources [1, T] -> waveform [T]; a piece of the frames a thread."""
        c = self.config
        n_fft, hop, frames, length = c.n_fft, c.hop_length, hidden.shape[0], pulses.shape[1]
        hertz = torch.linspace(0, self.mel.sample_rate / 2, self.bins)
        low = torch.sigmoid((5000.0 - hertz) / 500.0).numpy()
        bias = self.out.bias.detach().numpy()
        left, right = frame_pads(n_fft, hop, c.padding)
        whole = inverse_envelope(n_fft, hop, None, frames, (0, 0), torch.float32, "cpu").numpy().reshape(-1, hop)
        level = np.ascontiguousarray(whole[[0, 1, 2, 3, -3, -2, -1]])
        sources = [_padded(frame(x, n_fft, hop, c.padding)) for x in (pulses, noise)]
        pieces = [_Piece(first, stop) for first, stop in cut(frames, share(frames))]
        out = torch.empty(length)
        samples = out.numpy()

        def begin(piece: _Piece) -> None:
            count, padded = piece.stop - piece.first, lanes.LANES * piece.blocks
            z = torch.empty(3 * self.bins, padded)
            self.linear(hidden[piece.first : piece.stop], z[: 2 * self.bins, :count])
            linear = torch.exp(mel[:, piece.first : piece.stop] * log_scale(self.mel))
            torch.mm(pseudo_inverse(self.mel), linear, out=z[2 * self.bins :, :count])
            heard = np.full(padded, -1, np.float32)
            heard[:count] = voiced[piece.first : piece.stop]
            for source, stretch in zip(sources, (piece.heard, piece.hiss), strict=True):
                lanes.into_columns(source, piece.first, count + 3, stretch, piece.stride)
            lanes.guess(piece.heard, piece.hiss, piece.said, piece.stride, piece.blocks, z.view(-1).numpy(), padded, bias, low, heard, piece.magnitude,
                        lanes.WINDOW, lanes.JOIN_WINDOW, lanes.TWIDDLES, lanes.TURNS, lanes.PAIRS)

        def finish(piece: _Piece) -> None:
            columns = piece.stop - piece.first + 3
            lanes.normalise(piece.said, piece.stride, columns, level, piece.first == 0, piece.stop == frames)

        def project(piece: _Piece) -> None:
            finish(piece)
            end = left + length - piece.first * hop
            lanes.reflect(piece.said, piece.stride, left if piece.first == 0 else 0, end, right if piece.stop == frames else 0)
            piece.heard, piece.said = piece.said, piece.heard
            lanes.project(piece.heard, piece.said, piece.stride, piece.blocks, piece.magnitude, lanes.WINDOW, lanes.JOIN_WINDOW, lanes.TWIDDLES, lanes.TURNS,
                          lanes.PAIRS)

        def end(piece: _Piece) -> None:
            finish(piece)
            begin, stop = max(left, piece.first * hop), left + length if piece.stop == frames else piece.stop * hop
            column = begin // hop - piece.first
            lanes.out_of_columns(piece.said, piece.stride, column, begin - piece.first * hop, samples[begin - left : stop - left])

        run_all(begin, pieces)
        _add_overlaps(pieces)
        for _ in range(c.consistency_steps):
            run_all(project, pieces)
            _add_overlaps(pieces)
        run_all(end, pieces)
        return out

    def linear(self, hidden: Tensor, out: Tensor) -> None:
        """The spectrum's layer without its bias: hidden [l, dim] into out [2 bins, l]."""
        torch.mm(self.out.weight, hidden.t(), out=out)

    def _render(self, hidden: Tensor, mel: Tensor, voiced: Array, pulses: Tensor, noise: Tensor) -> Tensor:
        """One item: hidden [L, dim], mel [C, L], sources [1, T] -> waveform [T]."""
        c = self.config
        n_fft, hop, frames, length = c.n_fft, c.hop_length, hidden.shape[0], pulses.shape[1]
        window = hann_window(n_fft, dtype=torch.float32, device=torch.device("cpu")).numpy()
        hertz = torch.linspace(0, self.mel.sample_rate / 2, self.bins)
        low = torch.sigmoid((5000.0 - hertz) / 500.0).numpy()
        left, _ = frame_pads(n_fft, hop, c.padding)
        level = inverse_envelope(n_fft, hop, None, frames, (0, 0), torch.float32, "cpu").numpy()  # of the padded waveform
        size = (frames - 1) * hop + n_fft
        magnitude = torch.empty(frames, self.bins)
        block = min(frames, BLOCK_FRAMES)  # buffers stay: on a CPU new memory costs as much as the mathematics
        windowed, timed, z = torch.empty(block, n_fft), torch.empty(block, n_fft), torch.empty(block, self.out.out_features)
        train, hiss = (torch.empty(block, self.bins, dtype=torch.complex64) for _ in range(2))
        sources = [_padded(frame(x, n_fft, hop, c.padding)) for x in (pulses, noise)]
        wave = np.zeros(size, np.float32)
        for at in range(0, frames, block):
            n = min(block, frames - at)
            part = slice(at, at + n)
            torch.addmm(self.out.bias, hidden[part], self.out.weight.t(), out=z[:n])
            magnitude[part] = magnitude_from_mel(mel[:, part], self.mel).t()
            for source, spectrum in zip(sources, (train, hiss), strict=True):
                kernels.window_frames(source, hop, at, window, windowed[:n].numpy())
                torch.fft.rfft(windowed[:n], out=spectrum[:n])
            kernels.first_guess(z[:n].numpy(), voiced[part], low, _pairs(train[:n]), _pairs(hiss[:n]), magnitude[part].numpy())
            torch.fft.irfft(train[:n], n=n_fft, out=timed[:n])
            kernels.add_windowed(timed[:n].numpy(), hop, at, window, wave)
        momentum = float(self.momentum.detach())
        weight = np.float32(momentum / (1 + momentum))
        before = np.empty((frames if weight else 0, 2 * self.bins), np.float32)
        said = np.empty_like(wave)
        for turn in range(c.consistency_steps):
            wave *= level
            heard = _padded(frame(torch.from_numpy(wave[None, left : left + length]), n_fft, hop, c.padding))
            wave, said = said, wave
            wave[:] = 0
            for at in range(0, frames, block):
                n = min(block, frames - at)
                part = slice(at, at + n)
                kernels.window_frames(heard, hop, at, window, windowed[:n].numpy())
                torch.fft.rfft(windowed[:n], out=train[:n])
                pairs = _pairs(train[:n])
                if not weight:
                    kernels.project(pairs, magnitude[part].numpy())
                elif turn == 0:
                    before[part] = pairs
                    kernels.project(pairs, magnitude[part].numpy())
                else:
                    kernels.project_with_momentum(pairs, before[part], weight, magnitude[part].numpy())
                torch.fft.irfft(train[:n], n=n_fft, out=timed[:n])
                kernels.add_windowed(timed[:n].numpy(), hop, at, window, wave)
        wave *= level
        return torch.from_numpy(wave[left : left + length].copy())


class _Piece:
    """Frames first .. stop of a head by lanes and their memory; the last three columns of a stretch are the first three of the next."""

    def __init__(self, first: int, stop: int):
        self.first, self.stop = first, stop
        self.blocks = -(-(stop - first) // lanes.LANES)
        self.stride = lanes.LANES * (self.blocks + 1)
        self.heard, self.hiss, self.said = (np.empty(lanes.HOP * self.stride, np.float32) for _ in range(3))
        self.magnitude = np.empty(self.blocks * lanes.BINS * lanes.LANES, np.float32)


def _add_overlaps(pieces: list[_Piece]) -> None:
    for one, other in itertools.pairwise(pieces):
        at = one.stop - one.first
        end, begin = (p.said.reshape(lanes.HOP, p.stride)[:, n : n + 3] for p, n in ((one, at), (other, 0)))
        begin += end
        end[:] = begin


def _pairs(spectrum: Tensor) -> Array:
    """Complex [l, F] -> the same memory as [l, 2 F]."""
    pairs: Array = torch.view_as_real(spectrum).flatten(1).numpy()
    return pairs


def _padded(frames: Tensor) -> Array:
    """The padded waveform below its frames [1, L, n_fft] (a view with a step of one hop)."""
    _, count, n_fft = frames.shape
    hop = frames.stride(1)
    flat: Array = frames.as_strided(((count - 1) * hop + n_fft,), (1,)).contiguous().numpy()
    return flat
