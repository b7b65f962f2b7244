"""Laws of the transforms: what goes in comes out, and they are the transforms that everybody else computes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wavespike.errors import AudioError
from wavespike.signal.stft import frame, hann_window, istft, overlap_add, reflect_pad, stft

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, int]:
    """n_fft of any parity and a hop of at most half of it, so that every sample is under a window that is not near zero."""
    n_fft = draw(st.integers(4, 300))
    return n_fft, draw(st.integers(1, n_fft // 2))


@SETTINGS
@given(geometries(), st.integers(1, 3), st.integers(1, 2000), st.integers(0, 99))
def test_center_reconstructs_every_whole_hop(geometry: tuple[int, int], batch: int, length: int, seed: int) -> None:
    n_fft, hop = geometry
    x = noise(batch, length, seed=seed)
    spectrum = stft(x, n_fft, hop)
    hops = (length - n_fft % 2) // hop
    assert spectrum.shape == (batch, n_fft // 2 + 1, 1 + hops)
    y = istft(spectrum, n_fft, hop)
    assert y.shape == (batch, hops * hop)
    torch.testing.assert_close(y, x[:, : y.shape[1]], atol=1e-9, rtol=0)


@SETTINGS
@given(geometries(), st.integers(1, 3), st.integers(1, 2000), st.integers(0, 99))
def test_same_reconstructs_all_that_full_overlap_covers(geometry: tuple[int, int], batch: int, length: int, seed: int) -> None:
    n_fft, hop = geometry
    assume(length >= hop)
    x = noise(batch, length, seed=seed)
    spectrum = stft(x, n_fft, hop, padding="same")
    assert spectrum.shape[-1] == length // hop
    y = istft(spectrum, n_fft, hop, padding="same")
    assert y.shape == (batch, length // hop * hop)
    torch.testing.assert_close(y, x[:, : y.shape[1]], atol=1e-9, rtol=0)


@pytest.mark.parametrize(("n_fft", "hop"), [(1023, 256), (1024, 255), (5, 2), (441, 100), (8, 3)])
def test_same_keeps_the_length_when_window_minus_hop_is_odd(n_fft: int, hop: int) -> None:
    assert (n_fft - hop) % 2 == 1
    for frames in (1, 2, 7, 30):
        x = noise(1, frames * hop)
        assert stft(x, n_fft, hop, padding="same").shape[-1] == frames
        assert istft(torch.zeros(1, n_fft // 2 + 1, frames, dtype=torch.complex128), n_fft, hop, padding="same").shape[-1] == frames * hop


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("win_length", [None, 600, 601])
def test_a_window_shorter_than_the_transform_still_reconstructs(padding: str, win_length: int | None) -> None:
    x = noise(2, 256 * 20)
    y = istft(stft(x, 1024, 128, win_length, padding), 1024, 128, win_length, padding)  # type: ignore[arg-type]
    torch.testing.assert_close(y, x, atol=1e-9, rtol=0)


@SETTINGS
@given(st.integers(2, 256), st.integers(1, 4), st.integers(600, 3000), st.integers(0, 9))
def test_agrees_with_scipy(n_fft: int, parts: int, length: int, seed: int) -> None:
    hop = max(1, n_fft // parts)
    x = noise(length, seed=seed, dtype=torch.float32)
    padded = np.pad(x.double().numpy(), n_fft // 2, mode="reflect")
    theirs = scipy.signal.ShortTimeFFT(scipy.signal.get_window("hann", n_fft), hop, 1.0, phase_shift=None)
    slices = [padded[i : i + n_fft] for i in range(0, len(padded) - n_fft + 1, hop)]
    expected = np.stack([np.fft.rfft(s * theirs.win) for s in slices], 1)
    assert relative(stft(x, n_fft, hop), torch.from_numpy(expected)) < 1e-5


@pytest.mark.parametrize(("n_fft", "hop"), [(1024, 256), (1024, 300), (512, 128), (400, 160), (255, 64)])
def test_agrees_with_scipys_short_time_fft(n_fft: int, hop: int) -> None:
    x = noise(8000, dtype=torch.float32)
    theirs = scipy.signal.ShortTimeFFT(scipy.signal.get_window("hann", n_fft), hop, 1.0, phase_shift=None)
    expected = theirs.stft(x.double().numpy())  # zero padded, frame p is centred on sample p * hop
    ours = stft(x, n_fft, hop)
    inner = slice(-(-n_fft // hop), 1 + (8000 - n_fft) // hop)  # frames that see no padding
    theirs_inner = expected[:, inner.start - theirs.p_min : inner.stop - theirs.p_min]
    assert ours[:, inner].shape[1] > 5
    assert relative(ours[:, inner], torch.from_numpy(theirs_inner)) < 1e-5


@pytest.mark.parametrize(("n_fft", "hop"), [(1024, 256), (1024, 300), (400, 160)])
def test_agrees_with_torchs_own_transforms(n_fft: int, hop: int) -> None:
    x = noise(3, 8000, dtype=torch.float32)
    window = torch.hann_window(n_fft)
    expected = torch.stft(x, n_fft, hop, window=window, return_complex=True)
    assert relative(stft(x, n_fft, hop), expected) < 1e-5
    random = torch.complex(noise(3, n_fft // 2 + 1, 30, seed=1), noise(3, n_fft // 2 + 1, 30, seed=2)).to(torch.complex64)
    ours, theirs = istft(random, n_fft, hop), torch.istft(random, n_fft, hop, window=window)
    torch.testing.assert_close(ours, theirs, atol=2e-5 * float(theirs.abs().max()), rtol=0)


@SETTINGS
@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 9))
def test_overlap_add_of_blocks_is_that_of_the_whole(size: int, frames: int, seed: int) -> None:
    spectrum = torch.complex(noise(2, frames, 65, seed=seed), noise(2, frames, 65, seed=seed + 100))
    for hop, padding in ((32, "center"), (32, "same"), (48, "same")):
        if padding == "center" and frames < 2:
            continue
        whole = istft(spectrum.transpose(1, 2), 128, hop, None, padding)  # type: ignore[arg-type]
        blocks = overlap_add((spectrum[:, i : i + size] for i in range(0, frames, size)), 128, hop, None, padding)  # type: ignore[arg-type]
        torch.testing.assert_close(blocks, whole, atol=1e-10, rtol=1e-10)


@SETTINGS
@given(st.integers(1, 40), st.integers(0, 100), st.integers(0, 100))
def test_reflection_is_numpys_even_for_signals_shorter_than_the_padding(length: int, left: int, right: int) -> None:
    x = noise(2, length)
    mode = "reflect" if length > 1 else "edge"
    expected = np.pad(x.numpy(), ((0, 0), (left, right)), mode=mode)  # type: ignore[call-overload]
    np.testing.assert_array_equal(reflect_pad(x, left, right).numpy(), expected)


def test_the_transforms_are_linear_and_differentiable() -> None:
    x, y = noise(1, 60), noise(1, 60, seed=1)
    torch.testing.assert_close(stft(2 * x + y, 16, 4), 2 * stft(x, 16, 4) + stft(y, 16, 4))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: torch.view_as_real(stft(a, 16, 4)), (x,))
    assert torch.autograd.gradcheck(lambda a: istft(stft(a, 16, 4, padding="same"), 16, 4, padding="same"), (x,))


def test_a_window_made_in_inference_mode_serves_training() -> None:
    with torch.inference_mode():
        hann_window(123)
        stft(noise(1, 500, dtype=torch.float32), 124, 31)
    x = noise(1, 500, dtype=torch.float32).requires_grad_()
    istft(stft(x, 124, 31), 124, 31).square().sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_no_sample_and_no_whole_frame_are_refused_with_advice() -> None:
    with pytest.raises(AudioError, match="at least one sample"):
        stft(torch.zeros(1, 0), 16, 4)
    with pytest.raises(AudioError, match="at least 4 samples"):
        frame(torch.zeros(1, 3), 16, 4, "same")
