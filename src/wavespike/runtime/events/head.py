"""The source-filter head without PyTorch's many passes: the same equation, products and transforms, and one compiled pass for all that stands between two
of them. It has nothing to do with spikes; without it the head, which is dense in the spiking and in the dense model alike, would take most of the time
that the spikes have saved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavespike.nn.heads import SourceFilterHead
from wavespike.runtime.events import head_kernels as kernels
from wavespike.runtime.events.pool import torch_on_one_thread
from wavespike.signal.mel import magnitude_from_mel
from wavespike.signal.source import integrate_pitch
from wavespike.signal.stft import frame, frame_pads, hann_window, inverse_envelope

Array = np.ndarray[Any, Any]

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
        with torch.no_grad(), torch_on_one_thread():
            if f0_hz is None or voiced is None:
                f0_hz, voiced = self.pitch.decode(*self.pitch(features))
            if offset_samples is None:
                offset_samples = torch.zeros(features.shape[0], dtype=torch.int64)
            phase = integrate_pitch(f0_hz, c.hop_length, self.mel.sample_rate, start_phase, voiced)
            train, noise = self.source(f0_hz.float(), phase, offset_samples)
            linear = features.transpose(1, 2)  # [B, L, C]
            v = voiced.float().contiguous().numpy()
            waves = [self._render(hidden[i], linear[i], v[i], train[i : i + 1], noise[i : i + 1]) for i in range(hidden.shape[0])]
            return torch.stack(waves)

    def _render(self, hidden: Tensor, mel: Tensor, voiced: Array, pulses: Tensor, noise: Tensor) -> Tensor:
        """One item: hidden [L, dim], mel [L, C], sources [1, T] -> waveform [T]."""
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
            magnitude[part] = magnitude_from_mel(mel[part].t(), self.mel).t()
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
