"""Law: the public SpecGrad denoiser's weights give here what they give there (stored outputs of the original, random weights)."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from wavespike.config import from_dict
from wavespike.nn.diffwave import DiffWaveConfig, DiffWaveDenoiser

FOLDER = Path(__file__).parent / "specgrad" / "denoiser"


def case() -> tuple[DiffWaveDenoiser, dict[str, torch.Tensor]]:
    denoiser = DiffWaveDenoiser(from_dict(DiffWaveConfig, json.loads((FOLDER / "config.json").read_text())))
    denoiser.load_state_dict(load_file(FOLDER / "state_dict.safetensors"), strict=True)  # its parameter names, all and no others
    return denoiser.eval(), load_file(FOLDER / "io.safetensors")


def test_the_predicted_noise_equals_the_original() -> None:
    denoiser, io = case()
    with torch.no_grad():
        ours = denoiser(io["noisy_audio"], io["mel"], io["step"])
    assert ours.shape == io["noise_out"].shape
    assert float((ours - io["noise_out"]).abs().max() / io["noise_out"].abs().max()) <= 1e-4


def test_whole_fractional_steps_are_the_integer_steps_and_others_lie_between() -> None:
    denoiser, io = case()
    with torch.no_grad():
        assert torch.equal(denoiser(io["noisy_audio"], io["mel"], io["step"].float()), denoiser(io["noisy_audio"], io["mel"], io["step"]))
        table = denoiser.diffusion_embedding.table
        low, high = denoiser.diffusion_embedding(torch.tensor([3, 4]))
        half = denoiser.diffusion_embedding(torch.tensor([3.5]))
        rows = 0.5 * (table[3] + table[4])
        embed = denoiser.diffusion_embedding
        want = torch.nn.functional.silu(embed.projection2(torch.nn.functional.silu(embed.projection1(rows))))
    assert torch.allclose(half[0], want, atol=1e-6)
    assert not torch.allclose(low, high)
