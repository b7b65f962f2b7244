"""Residual vector quantisation: what it computes, how it learns, and that our settings do not collapse where the published ones do."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from wavespike.errors import ConfigError, UsageError
from wavespike.nn.rvq import ResidualVQ, RVQConfig, beam_search, code_histogram, kmeans, perplexity, usage

PUBLISHED = RVQConfig(dim=16, num_codebooks=2, codebook_size=64)
OURS = dataclasses.replace(PUBLISHED, decay=0.99, kmeans_iterations=10, restart_below=0.5, commit_all_levels=True)


def clustered(batches: int, seed: int = 0) -> list[torch.Tensor]:
    """Latents [8, 16, 64] of 128 clusters of unequal sizes around a common mean, as an encoder's are: not centred on zero."""
    generator, fixed = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    centres = 3 * torch.randn(16, generator=fixed) + torch.randn(128, 16, generator=fixed)
    weights = 1 / torch.arange(1.0, 129)
    pick = [torch.multinomial(weights, 8 * 64, replacement=True, generator=generator) for _ in range(batches)]
    return [(centres[i] + 0.3 * torch.randn(8 * 64, 16, generator=generator)).view(8, 64, 16).transpose(1, 2) for i in pick]


def usage_after_training(config: RVQConfig, steps: int = 300) -> torch.Tensor:
    torch.manual_seed(0)
    quantizer = ResidualVQ(config).train()
    for batch in clustered(steps):
        quantizer(batch)
    codes = quantizer.eval().encode(torch.cat(clustered(20, seed=1)))
    return usage(code_histogram(codes, config.codebook_size))


def test_usage_stays_above_90_percent_where_the_published_settings_collapse():
    ours, published = usage_after_training(OURS), usage_after_training(PUBLISHED)
    assert float(ours.min()) > 0.9
    assert float(published.min()) < 0.2


def test_each_level_takes_the_nearest_codeword_of_what_is_left():
    torch.manual_seed(0)
    quantizer = ResidualVQ(PUBLISHED).eval()
    x = torch.randn(2, 16, 5)
    codes = quantizer.encode(x)
    residual = x.transpose(1, 2)
    for k, level in enumerate(quantizer.levels):
        distance = torch.cdist(residual, level.codebook[None])
        assert torch.equal(distance.argmin(-1), codes[:, k])
        residual = residual - level.codebook[codes[:, k]]
    assert torch.allclose(quantizer.decode(codes), x - residual.transpose(1, 2), atol=1e-5)
    result = quantizer(x)
    assert torch.equal(result.codes, codes)
    assert torch.allclose(result.values, quantizer.decode(codes), atol=1e-5)


def test_the_moving_averages_are_the_published_ones():
    """One step by hand: counts and sums decay by 0.8, codewords are sums over Laplace-smoothed counts."""
    torch.manual_seed(0)
    quantizer = ResidualVQ(dataclasses.replace(PUBLISHED, num_codebooks=1)).train()
    level = quantizer.levels[0]
    start = level.codebook.clone()
    x = torch.randn(3, 16, 40)
    codes = quantizer.eval().encode(x)[:, 0]
    quantizer.train()(x)
    counts = torch.bincount(codes.flatten(), minlength=64).float()
    sums = torch.zeros(64, 16).index_add_(0, codes.flatten(), x.transpose(1, 2).reshape(-1, 16))
    size, vectors = 0.2 * counts, 0.8 * start + 0.2 * sums
    smoothed = (size + 1e-5) / (size.sum() + 64e-5) * size.sum()
    assert torch.allclose(level.cluster_size, size)
    assert torch.allclose(level.codebook, vectors / smoothed[:, None], rtol=1e-4)


def test_gradients_pass_straight_through_and_commitment_pulls_the_encoder():
    torch.manual_seed(0)
    quantizer = ResidualVQ(PUBLISHED).eval()
    x = torch.randn(2, 16, 5, requires_grad=True)
    quantizer(x).values.sum().backward()
    assert torch.allclose(x.grad, torch.ones_like(x))
    for config, levels in ((PUBLISHED, 1), (dataclasses.replace(PUBLISHED, commit_all_levels=True), 2)):
        quantizer = ResidualVQ(config).eval()
        x = torch.randn(2, 16, 5, requires_grad=True)
        quantizer(x).commitment.backward()
        left, expected = x.detach(), torch.zeros_like(x)
        for k in range(levels):
            part = quantizer.decode(quantizer.encode(x.detach(), k + 1))
            left = x.detach() - part
            expected += 2 * left / x.numel()
        assert torch.allclose(x.grad, expected, atol=1e-6)


def test_a_frozen_quantiser_learns_nothing():
    quantizer = ResidualVQ(OURS).train()
    quantizer.frozen = True
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    quantizer(torch.randn(2, 16, 50))
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())


def test_codebook_dropout_trains_every_prefix():
    torch.manual_seed(0)
    quantizer = ResidualVQ(dataclasses.replace(OURS, num_codebooks=4, codebook_dropout=1.0)).train()
    batch = clustered(1)[0]
    result = quantizer(batch)
    full = quantizer.eval()
    codes = result.codes
    distance = [(result.values - full.decode(codes[:, :k])).flatten(1).abs().amax(1) for k in range(1, 5)]
    assert result.values.shape == batch.shape
    assert len(distance) == 4
    seen = set()
    torch.manual_seed(1)
    for _ in range(20):
        seen |= set(quantizer.train().draw_levels(8, batch.device, quantizer.config.num_codebooks).tolist())
    assert seen == {1, 2, 3, 4}


def test_perplexity_is_one_for_one_codeword_and_n_for_all():
    one = torch.tensor([[100, 0, 0, 0], [25, 25, 25, 25]])
    assert torch.allclose(perplexity(one), torch.tensor([1.0, 4.0]), atol=1e-4)
    assert torch.allclose(usage(one), torch.tensor([0.25, 1.0]))


def test_kmeans_finds_separated_centres_even_with_fewer_vectors_than_centres():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    data = (centres[:, None] + 0.1 * torch.randn(3, 50, 2)).reshape(-1, 2)
    found, counts = kmeans(data, 3, 20)
    assert float(torch.cdist(centres, found).min(1).values.max()) < 0.5 or int((counts > 0).sum()) == 3
    found, _ = kmeans(data[:2], 5, 3)
    assert found.shape == (5, 2)
    assert bool(torch.isfinite(found).all())


def test_bad_settings_and_too_many_levels_are_refused():
    with pytest.raises(ConfigError, match="decay"):
        RVQConfig(decay=1.0)
    with pytest.raises(UsageError, match=r"1\.\.2"):
        ResidualVQ(PUBLISHED).encode(torch.zeros(1, 16, 3), 3)


class TestBeamSearch:
    """Keeping several paths finds sums of codewords nearer to the vector than taking the nearest codeword at every level."""

    def quantiser(self, beam: int) -> ResidualVQ:
        torch.manual_seed(0)
        q = ResidualVQ(RVQConfig(dim=6, num_codebooks=4, codebook_size=16, kmeans_iterations=5, beam=beam)).eval()
        q.start(torch.randn(4, 6, 200))
        return q

    def test_a_beam_of_one_is_the_greedy_search(self):
        q = self.quantiser(1)
        x = torch.randn(2, 6, 50)
        books = torch.stack([q.get_buffer(f"levels.{k}.codebook") for k in range(4)])
        assert torch.equal(beam_search(x.transpose(1, 2).flatten(0, 1), books, 1).view(2, 50, 4).transpose(1, 2), q.encode(x))

    def test_a_wider_beam_errs_less_and_a_full_one_finds_the_best(self):
        x = torch.randn(2, 6, 300)
        error = {w: float((self.quantiser(w).decode(self.quantiser(w).encode(x)) - x).square().mean()) for w in (1, 2, 4, 16)}
        assert error[16] < error[4] < error[2] < error[1]
        q = self.quantiser(16)
        books = torch.stack([q.get_buffer(f"levels.{k}.codebook") for k in range(2)])
        vectors = torch.randn(50, 6)
        sums = (books[0][:, None] + books[1][None]).flatten(0, 1)  # every pair
        nearest = torch.cdist(vectors, sums).min(1).values
        codes = beam_search(vectors, books, 16)
        assert torch.allclose((vectors - books[0][codes[:, 0]] - books[1][codes[:, 1]]).norm(dim=1), nearest, atol=1e-5)

    def test_no_frames_no_codes(self):
        assert self.quantiser(4).encode(torch.zeros(2, 6, 0)).shape == (2, 4, 0)

    def test_a_beam_that_cannot_be_is_refused(self):
        with pytest.raises(ConfigError, match="beam"):
            RVQConfig(codebook_size=16, beam=17)
