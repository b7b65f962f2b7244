"""Pictures: one scale for both, honest axes, and no half-written file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wavespike.errors import AudioError, OutputError

pytest.importorskip("matplotlib")

from wavespike.view.spectrogram import level_db, spectrogram_pair


def test_levels_are_decibels_above_the_reference() -> None:
    levels = level_db(torch.tensor([[10.0, 1.0, 0.1, 0.0]]), 1.0, 80.0)
    torch.testing.assert_close(levels, torch.tensor([[20.0, 0.0, -20.0, -80.0]]))


@pytest.mark.parametrize("rate_hz", [8000, 24000, 48000])
def test_signals_of_different_length_and_rate_are_drawn(tmp_path: Path, rate_hz: int) -> None:
    import matplotlib.image

    picture = spectrogram_pair(torch.randn(rate_hz // 2), torch.randn(rate_hz // 3), rate_hz, tmp_path / "pair.png")
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 2 * pixels.shape[0]
    assert pixels[..., :3].std() > 0.1
    assert [p.name for p in tmp_path.iterdir()] == ["pair.png"]


def test_a_quieter_result_looks_quieter(tmp_path: Path) -> None:
    import matplotlib.image

    x = torch.randn(12000)
    pixels = matplotlib.image.imread(spectrogram_pair(x, 0.01 * x, 24000, tmp_path / "pair.png"))[..., :3].mean(-1)
    middle = slice(pixels.shape[0] // 3, pixels.shape[0] // 2)
    left, right = pixels[middle, pixels.shape[1] // 5].mean(), pixels[middle, int(pixels.shape[1] * 0.7)].mean()
    assert left > right + 0.2


def test_what_cannot_be_drawn_or_written_is_refused_without_a_rest(tmp_path: Path) -> None:
    x = torch.randn(1000)
    with pytest.raises(AudioError, match="take one channel"):
        spectrogram_pair(torch.randn(2, 1000), x, 24000, tmp_path / "pair.png")
    with pytest.raises(OutputError, match="picture type"):
        spectrogram_pair(x, x, 24000, tmp_path / "pair.xyz")
    with pytest.raises(OutputError, match="create it first"):
        spectrogram_pair(x, x, 24000, tmp_path / "missing" / "pair.png")
    assert not list(tmp_path.iterdir())
