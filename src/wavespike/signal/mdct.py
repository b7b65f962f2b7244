"""Modified discrete cosine transform (Princen and Bradley, 1986; sine window), the critically sampled relative of the STFT.

Equation, with frames of M = 2N samples, hop N, w[n] = sin(pi (n + 1/2) / 2N), n0 = (N + 1) / 2:
X[k] = sqrt(2/N) sum_n w[n] x[n] cos(pi/N (n + n0)(k + 1/2)), y[n] = sqrt(2/N) w[n] sum_k X[k] cos(pi/N (n + n0)(k + 1/2)), overlap-add.
The aliasing of neighbouring frames cancels (TDAC): with `center` the inverse gives the signal back; with `same` all but the first and last N/2 samples.

`center`: zeros of N on both sides, T samples give 1 + ceil(T / N) frames, L frames give (L-1)*N samples.
`same`: zeros of N/2 on both sides, T samples give ceil(T / N) frames, L frames give L*N samples.
Departures: a signal that does not fill its last hop is padded with zeros, so no sample is lost.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wavespike.errors import AudioError, UsageError
from wavespike.signal.stft import Padding, add_frames


def mdct_crop(frame_length: int, padding: Padding) -> tuple[int, int]:
    """Samples of padding left and right of the signal, cut off again by the inverse."""
    n = frame_length // 2
    return (n, n) if padding == "center" else (n // 2, n - n // 2)


@functools.lru_cache(maxsize=32)
def _tables(frame_length: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    if frame_length < 2 or frame_length % 2:
        raise UsageError(f"expected an even MDCT frame length, got {frame_length}")
    n = frame_length // 2
    with torch.inference_mode(False):
        time = torch.arange(frame_length, dtype=torch.float64)
        bins = torch.arange(n, dtype=torch.float64)
        window = torch.sin(math.pi * (time + 0.5) / frame_length)
        before = torch.polar(torch.ones_like(time), -math.pi * time / frame_length)
        after = torch.polar(torch.ones_like(bins), -math.pi * (n + 1) / 2 * (bins + 0.5) / n)
        wide = torch.complex128 if dtype == torch.float64 else torch.complex64
        return window.to(dtype).to(device), before.to(wide).to(device), after.to(wide).to(device)


def mdct_window(frame_length: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """The sine window [frame_length]."""
    return _tables(frame_length, dtype, str(device))[0]


def mdct(x: Tensor, frame_length: int, padding: Padding = "center") -> Tensor:
    """Waveform [..., T] -> coefficients [..., frame_length/2, L]."""
    if x.shape[-1] == 0:
        raise AudioError("expected at least one sample of audio, got none; check the input for emptiness")
    n = frame_length // 2
    left, right = mdct_crop(frame_length, padding)
    mdct_window(frame_length)  # refuses a wrong length
    return mdct_of_frames(F.pad(x, (left, right + -x.shape[-1] % n)).unfold(-1, frame_length, n))


def mdct_of_frames(frames: Tensor) -> Tensor:
    """Frames [..., L, 2N], not yet windowed -> coefficients [..., N, L]."""
    n = frames.shape[-1] // 2
    window, before, after = _tables(2 * n, frames.dtype, str(frames.device))
    spectrum = torch.fft.fft(frames * window * before, dim=-1)[..., :n] * after
    out: Tensor = spectrum.real.transpose(-1, -2) * math.sqrt(2 / n)
    return out


def imdct_frames(coefficients: Tensor, frame_length: int) -> Tensor:
    """Coefficients [..., N, L] -> windowed frames [..., L, 2N], to be overlap-added with hop N."""
    n = frame_length // 2
    window, before, after = _tables(frame_length, coefficients.dtype, str(coefficients.device))
    turned = coefficients.transpose(-1, -2) * after.conj()  # [..., L, N]
    frames = (torch.fft.ifft(turned, n=frame_length, dim=-1) * before.conj()).real * frame_length
    out: Tensor = frames * window * math.sqrt(2 / n)
    return out


def imdct(coefficients: Tensor, frame_length: int, padding: Padding = "center") -> Tensor:
    """Coefficients [..., frame_length/2, L] -> waveform [..., (L-1)*N] (`center`) or [..., L*N] (`same`), N = frame_length/2."""
    if coefficients.shape[-2] != frame_length // 2:
        raise UsageError(f"expected {frame_length // 2} MDCT coefficients a frame, got {coefficients.shape[-2]}; check frame_length")
    total = add_frames(imdct_frames(coefficients, frame_length), frame_length // 2)
    left, right = mdct_crop(frame_length, padding)
    return total[..., left : total.shape[-1] - right]
