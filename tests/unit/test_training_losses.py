"""Adversarial losses and discriminators: the published values, and the defects of the published code absent."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("lightning", reason="training needs the package lightning")

from wavespike.training.adversarial_losses import (
    cosine_weight,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    mel_loss,
    mel_loss_config,
    same_length,
)
from wavespike.training.discriminators import MultiPeriodConfig, MultiResolutionConfig, make_discriminator
from wavespike.training.losses import anti_wrapped, phase_losses

GOLDEN = load_file(Path(__file__).parent.parent / "golden" / "losses" / "io.safetensors")
REAL = [GOLDEN[f"disc_real_{i}"] for i in range(3)]
FAKE = [GOLDEN[f"disc_gen_{i}"] for i in range(3)]
SMALL_PERIOD = MultiPeriodConfig(periods=(2, 3), channels=(4, 4, 4))
SMALL_RESOLUTION = MultiResolutionConfig(windows=(256, 128), channels=4)


def test_hinge_losses_equal_the_published_ones() -> None:
    assert 3 * float(discriminator_loss(REAL, FAKE)) == pytest.approx(float(GOLDEN["disc_loss_sum"]), rel=1e-5)
    assert 3 * float(generator_loss(FAKE)) == pytest.approx(float(GOLDEN["gen_loss_sum"]), rel=1e-5)


def test_feature_matching_and_mel_equal_the_published_ones() -> None:
    matching = float(feature_matching_loss([[r] for r in REAL], [[f] for f in FAKE]))
    assert 3 * matching == pytest.approx(float(GOLDEN["feature_matching"]), rel=1e-5)
    assert float(mel_loss(GOLDEN["audio_hat"], GOLDEN["audio"], mel_loss_config(24000))) == pytest.approx(float(GOLDEN["mel_loss"]), rel=1e-4)


def test_phase_losses_equal_the_published_ones_but_for_their_first_row_and_have_a_gradient() -> None:
    # the published code counts the first bin (frame) itself as a difference; ours has only differences
    difference = GOLDEN["phase_gen"] - GOLDEN["phase_real"]
    phase = GOLDEN["phase_gen"].clone().requires_grad_()
    values = phase_losses(phase, GOLDEN["phase_real"])
    for value, name, dim in zip(values, ("ip", "gd", "ptd"), (None, 1, 2), strict=True):
        total = value.detach()
        if dim is not None:
            n = difference.shape[dim]
            total = (total * (n - 1) + anti_wrapped(difference.narrow(dim, 0, 1)).mean()) / n
        assert float(total) == pytest.approx(float(GOLDEN[f"phase_loss_{name}"]), rel=1e-5)
        (gradient,) = torch.autograd.grad(value, phase, retain_graph=True)
        assert float(gradient.abs().sum()) > 0


def test_least_squares_losses_are_zero_at_their_targets() -> None:
    ones, zeros = [torch.ones(2, 5)], [torch.zeros(2, 5)]
    assert float(discriminator_loss(ones, zeros, "lsgan")) == 0
    assert float(generator_loss(ones, "lsgan")) == 0
    assert float(generator_loss(zeros, "lsgan")) == 1
    assert float(discriminator_loss(zeros, ones, "lsgan")) == 2


def test_feature_matching_gives_the_real_maps_no_gradient() -> None:
    real, fake = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    feature_matching_loss([[real]], [[fake]]).backward()
    assert real.grad is None
    assert fake.grad is not None


def test_the_mel_loss_follows_the_sampling_rate() -> None:
    for rate, n_fft in ((16000, 512), (22050, 1024), (24000, 1024), (44100, 2048), (48000, 2048)):
        assert mel_loss_config(rate).n_fft == n_fft
        assert mel_loss_config(rate).sample_rate == rate


def test_the_weight_falls_along_a_cosine() -> None:
    assert cosine_weight(45.0, 0, 100) == 45.0
    assert cosine_weight(45.0, 60, 110, start=10) == pytest.approx(22.5)
    assert cosine_weight(45.0, 5, 110, start=10) == 45.0
    assert cosine_weight(45.0, 110, 110, start=10) == pytest.approx(0.0)


def test_waveforms_of_nearly_one_length_are_cut_and_others_refused() -> None:
    a, b = same_length(torch.zeros(1, 990), torch.zeros(1, 1000))
    assert a.shape == b.shape == (1, 990)
    with pytest.raises(Exception, match="hop_length"):
        same_length(torch.zeros(1, 500), torch.zeros(1, 1000))


def test_published_discriminators_have_the_published_sizes() -> None:
    period = make_discriminator(MultiPeriodConfig())
    # weights of one period: convolutions (5, 1) 1-32-128-512-1024-1024, a gain and a bias a channel, and the last (3, 1)
    sizes = (1, 32, 128, 512, 1024, 1024)
    one = sum(5 * a * b + 2 * b for a, b in itertools.pairwise(sizes)) + 3 * 1024 + 2
    assert sum(p.numel() for p in period.parameters()) == 5 * one
    assert 41.0e6 < 5 * one < 41.2e6
    resolution = make_discriminator(MultiResolutionConfig())
    band = 27 * 2 * 32 + 3 * 27 * 32 * 32 + 9 * 32 * 32 + 5 * 2 * 32
    assert sum(p.numel() for p in resolution.parameters()) == 3 * (5 * band + 9 * 32 + 2)


@pytest.mark.parametrize("config", [SMALL_PERIOD, SMALL_RESOLUTION], ids=["period", "resolution"])
class TestGroup:
    def test_every_discriminator_scores_every_item(self, config: MultiPeriodConfig | MultiResolutionConfig) -> None:
        scores, maps = make_discriminator(config)(torch.randn(3, 1001))
        assert len(scores) == len(maps) == 2
        assert all(s.ndim == 2 and s.shape[0] == 3 for s in scores)

    def test_a_fresh_condition_changes_nothing(self, config: MultiPeriodConfig | MultiResolutionConfig) -> None:
        group = make_discriminator(config, num_embeddings=4)
        x = torch.randn(2, 1000)
        for a, b in zip(group(x)[0], group(x, torch.tensor([0, 3]))[0], strict=True):
            assert torch.equal(a, b)

    def test_a_learned_condition_moves_scores_but_no_feature_map(self, config: MultiPeriodConfig | MultiResolutionConfig) -> None:
        group = make_discriminator(config, num_embeddings=4)
        for member in group.members:
            torch.nn.init.normal_(member.projection.embedding.weight)  # type: ignore[union-attr, arg-type]
        x = torch.randn(2, 1000)
        (plain, plain_maps), (moved, moved_maps) = group(x), group(x, torch.tensor([1, 2]))
        assert all(not torch.equal(a, b) for a, b in zip(plain, moved, strict=True))
        for a, b in zip(plain_maps, moved_maps, strict=True):
            assert all(torch.equal(m, n) for m, n in zip(a, b, strict=True))

    def test_every_item_has_its_own_condition(self, config: MultiPeriodConfig | MultiResolutionConfig) -> None:
        group = make_discriminator(config, num_embeddings=4)
        for member in group.members:
            torch.nn.init.normal_(member.projection.embedding.weight)  # type: ignore[union-attr, arg-type]
        x = torch.randn(2, 1000)
        both = group(x, torch.tensor([1, 2]))[0]
        for i, k in enumerate((1, 2)):
            alone = group(x[i : i + 1], torch.tensor([k]))[0]
            assert all(torch.allclose(a[i : i + 1], b, atol=1e-5) for a, b in zip(both, alone, strict=True))

    def test_the_first_layer_is_matched(self, config: MultiPeriodConfig | MultiResolutionConfig) -> None:
        import dataclasses

        x = torch.randn(1, 1000)
        with_first = make_discriminator(config)(x)[1]
        without = make_discriminator(dataclasses.replace(config, first_map=False))(x)[1]
        bands = 1 if isinstance(config, MultiPeriodConfig) else len(config.bands) - 1
        assert [len(a) - len(b) for a, b in zip(with_first, without, strict=True)] == [bands, bands]

    def test_level_is_heard(self, config: MultiPeriodConfig | MultiResolutionConfig) -> None:
        group = make_discriminator(config)
        x = torch.randn(1, 1000)
        assert all(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(group(x)[0], group(0.1 * x)[0], strict=True))


def test_peak_normalisation_as_published_is_an_option() -> None:
    group = make_discriminator(MultiResolutionConfig(windows=(256,), channels=4, peak_normalise=True))
    x = torch.randn(1, 1000)
    assert torch.allclose(group(x)[0][0], group(0.1 * x + 0.3)[0][0], atol=1e-5)
