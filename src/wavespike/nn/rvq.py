"""Residual vector quantisation with codebooks learned by exponential moving averages.

Papers: van den Oord et al., "Neural discrete representation learning", 2017; Zeghidour et al., "SoundStream", 2021; AudioDec (Wu et al., 2023).
Equation: r_1 = x; c_k = argmin_n |r_k - e_{k,n}|^2; r_{k+1} = r_k - e_{k,c_k}; y = sum_k e_{k,c_k}.
EMA of a level: N_n <- d N_n + (1 - d) count_n; m_n <- d m_n + (1 - d) sum of its vectors; e_n = m_n / N_n (Laplace smoothed).
Departures, all options: k-means start, restart of dead codewords, codebook dropout, commitment gradients of every level.
The defaults are AudioDec's published settings, which collapse easily (an unused codeword is multiplied by 0.8 / 1e-5 at the first step).
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError, UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RVQConfig(Config):
    """Sizes of the codebooks and how they learn."""

    type_name: ClassVar[str] = "rvq"

    dim: int = 64
    num_codebooks: int = 8
    codebook_size: int = 1024
    decay: float = 0.8
    epsilon: float = 1e-5
    """Laplace smoothing of the counts."""
    kmeans_iterations: int = 0
    """Lloyd iterations on the first training batch; 0 leaves the N(0, 1) start."""
    restart_below: float = 0.0
    """A codeword whose moving average of uses a step falls below this is replaced by a vector of the batch; 0 never."""
    codebook_dropout: float = 0.0
    """Probability that a training item is quantised by a random number of levels (1..K): one model, many bitrates."""
    beam: int = 1
    """Paths that the search of `encode` keeps from level to level (training takes the nearest codeword at once: 1)."""
    commit_all_levels: bool = False
    """Let the commitment of every level pass its gradient to the encoder; as published, only the first level's does."""

    def __post_init__(self) -> None:
        if self.num_codebooks < 1 or self.codebook_size < 2 or self.dim < 1:
            raise ConfigError(f"quantizer: expected num_codebooks >= 1, codebook_size >= 2, dim >= 1, got {self.num_codebooks}, {self.codebook_size}, {self.dim}")
        if not 1 <= self.beam <= self.codebook_size:
            raise ConfigError(f"quantizer.beam: expected 1..{self.codebook_size} (codebook_size), got {self.beam}")
        if not 0 <= self.decay < 1 or not 0 <= self.codebook_dropout <= 1:
            raise ConfigError(f"quantizer: expected 0 <= decay < 1 and 0 <= codebook_dropout <= 1, got {self.decay} and {self.codebook_dropout}")

    @property
    def bits(self) -> int:
        """Whole bits that hold one index."""
        return (self.codebook_size - 1).bit_length()

    @property
    def bits_per_frame(self) -> float:
        """Nominal bits a frame: K log2(codebook_size)."""
        return self.num_codebooks * math.log2(self.codebook_size)


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What quantising gives: values [B, D, L], codes [B, K, L], commitment (scalar), perplexity and usage [K]."""

    values: Tensor
    codes: Tensor
    commitment: Tensor
    perplexity: Tensor
    usage: Tensor


def nearest_codeword(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest row (squared Euclid) for vectors [M, D] in a codebook [N, D] -> [M] int64."""
    distance = vectors.square().sum(1, keepdim=True) - 2 * vectors @ codebook.t() + codebook.square().sum(1)
    return distance.argmin(1)


def beam_search(vectors: Tensor, codebooks: Tensor, width: int) -> Tensor:
    """Codes [M, K] of vectors [M, D] in codebooks [K, N, D]: the best path of a search that keeps the `width` best at every level.

    The M-algorithm of multistage quantisers (LeBlanc et al., 1993); width 1 takes the nearest codeword at every level. Prefixes of the path are good, not best.
    """
    count, (levels, size, dim) = vectors.shape[0], codebooks.shape
    residual, cost = vectors[:, None], vectors.new_zeros(count, 1)  # [M, W, D], [M, W]
    steps: list[tuple[Tensor, Tensor]] = []  # from which path, to which codeword [M, W]
    for k in range(levels):
        book = codebooks[k]
        # |r - e|^2 less |r|^2, which no choice changes
        score = (residual.reshape(-1, dim) @ (-2 * book.t()) + book.square().sum(1)).view(count, residual.shape[1], size) + cost[..., None]
        cost, best = score.flatten(1).topk(width if k < levels - 1 else 1, dim=1, largest=False)
        parent, index = best // size, best % size
        steps.append((parent, index))
        if k < levels - 1:
            residual = residual.gather(1, parent[..., None].expand(-1, -1, dim)) - book[index]
    place = torch.zeros(count, 1, dtype=torch.int64, device=vectors.device)
    codes = []
    for parent, index in reversed(steps):
        codes.append(index.gather(1, place))
        place = parent.gather(1, place)
    return torch.cat(codes[::-1], 1)


def kmeans(vectors: Tensor, size: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means of [M, D]: centres [size, D] and how many vectors each has [size]. Empty clusters take a random vector again."""
    m = vectors.shape[0]
    pick = torch.randperm(m, device=vectors.device)[:size] if m >= size else torch.randint(m, (size,), device=vectors.device)
    centres = vectors[pick].clone()
    if m < size:
        centres += 0.01 * vectors.std() * torch.randn_like(centres)
    counts = vectors.new_zeros(size)
    for _ in range(iterations):
        index = nearest_codeword(vectors, centres)
        counts = torch.bincount(index, minlength=size).to(vectors.dtype)
        sums = torch.zeros_like(centres).index_add_(0, index, vectors)
        again = vectors[torch.randint(m, (size,), device=vectors.device)]
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], again)
    return centres, counts


def code_histogram(codes: Tensor, codebook_size: int) -> Tensor:
    """How often each index occurs in codes [B, K, L], per level -> [K, codebook_size]."""
    flat = codes.transpose(0, 1).flatten(1)  # [K, B * L]
    return torch.stack([torch.bincount(level, minlength=codebook_size) for level in flat])


def perplexity(histogram: Tensor) -> Tensor:
    """exp of the entropy of each row of a histogram [K, N] -> [K], between 1 and N."""
    p = histogram / histogram.sum(1, keepdim=True).clamp(min=1)
    return torch.exp(-(p * (p + 1e-10).log()).sum(1))


def usage(histogram: Tensor) -> Tensor:
    """Fraction of the codewords of each level that occur at all -> [K]."""
    return (histogram > 0).float().mean(1)


class Codebook(nn.Module):
    """One level. Buffers: `codebook` [N, D], `cluster_size` [N] (moving average of the counts), `vector_sum` [N, D]."""

    codebook: Tensor
    cluster_size: Tensor
    vector_sum: Tensor
    started: Tensor

    def __init__(self, config: RVQConfig):
        super().__init__()
        self.config = config
        start = torch.randn(config.codebook_size, config.dim)
        self.register_buffer("codebook", start)
        self.register_buffer("cluster_size", torch.zeros(config.codebook_size))
        self.register_buffer("vector_sum", start.clone())
        self.register_buffer("started", torch.tensor(config.kmeans_iterations == 0))

    def index(self, vectors: Tensor) -> Tensor:
        """[M, D] -> indices [M]."""
        return nearest_codeword(vectors, self.codebook)

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """k-means on the first batch, once."""
        if bool(self.started):
            return
        centres, counts = kmeans(vectors, self.config.codebook_size, self.config.kmeans_iterations)
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(centres, 0)
            dist.broadcast(counts, 0)
        counts = counts.clamp(min=1)
        self.codebook.copy_(centres)
        self.cluster_size.copy_(counts)
        self.vector_sum.copy_(centres * counts[:, None])
        self.started.fill_(True)

    @torch.no_grad()
    def update(self, vectors: Tensor, index: Tensor) -> None:
        """One step of the moving averages, then restarts."""
        c = self.config
        counts = torch.bincount(index, minlength=c.codebook_size).to(vectors.dtype)
        sums = torch.zeros_like(self.codebook).index_add_(0, index, vectors)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.cluster_size.lerp_(counts, 1 - c.decay)
        self.vector_sum.lerp_(sums, 1 - c.decay)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + c.epsilon) / (total + c.codebook_size * c.epsilon) * total
        self.codebook.copy_(self.vector_sum / smoothed[:, None])
        if c.restart_below > 0:
            self._restart(vectors)

    def _restart(self, vectors: Tensor) -> None:
        dead = self.cluster_size < self.config.restart_below
        chosen = vectors[torch.randint(vectors.shape[0], (self.config.codebook_size,), device=vectors.device)]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(chosen, 0)
        weight = max(1.0, 2 * self.config.restart_below)  # a grace of some steps before it can die again
        self.codebook[dead] = chosen[dead]
        self.vector_sum[dead] = chosen[dead] * weight
        self.cluster_size[dead] = weight


class ResidualVQ(nn.Module):
    """K codebooks, each quantising what the former ones left. Latents [B, D, L] <-> codes [B, K, L]."""

    def __init__(self, config: RVQConfig):
        super().__init__()
        self.config = config
        self.levels = nn.ModuleList(Codebook(config) for _ in range(config.num_codebooks))
        self.frozen = False
        """Stop the moving averages although the module is in training mode."""

    def forward(self, x: Tensor, active: Tensor | None = None) -> Quantized:
        """Latents [B, D, L] -> `Quantized`; in training mode the codebooks learn from the batch. Gradients pass straight through.

        `active` [B]: how many levels each item uses; None draws them.
        """
        batch, _, frames = x.shape
        learn = self.training and not self.frozen
        active = self.draw_levels(batch, x.device, self.config.num_codebooks) if active is None else active
        residual = x
        total = torch.zeros_like(x)
        codes, commitment = [], x.new_zeros(())
        for k, level in enumerate(self.levels):
            assert isinstance(level, Codebook)
            used = active > k
            flat = residual.detach().transpose(1, 2)  # [B, L, D]
            learned_from = flat[used].reshape(-1, flat.shape[-1])
            if learn and len(learned_from):
                level.start(learned_from)
            index = level.index(flat.reshape(-1, flat.shape[-1])).view(batch, frames)
            y = F.embedding(index, level.codebook).transpose(1, 2)  # [B, D, L]
            mask = used.to(x.dtype)[:, None, None]
            share = used.to(x.dtype).mean()
            commitment = commitment + (((y.detach() - residual) * mask).square().mean() / share if bool(used.any()) else 0.0)
            straight = residual + (y - residual).detach()
            total = total + mask * (straight if k == 0 or not self.config.commit_all_levels else y.detach())
            residual = residual - (y.detach() if self.config.commit_all_levels else straight)
            codes.append(index)
            if learn and len(learned_from):
                level.update(learned_from, index[used].flatten())
        stacked = torch.stack(codes, 1)
        histogram = code_histogram(stacked, self.config.codebook_size)
        return Quantized(total, stacked, commitment, perplexity(histogram), usage(histogram))

    @property
    def codebooks(self) -> Tensor:
        """All codewords [K, N, D]."""
        return torch.stack([level.get_buffer("codebook") for level in self.levels])

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Start every level that waits for its k-means on latents [B, D, L], as many of them as can be had: one batch is often fewer than the codewords."""
        residual = x.transpose(1, 2).reshape(-1, self.config.dim)
        for level in self.levels:
            assert isinstance(level, Codebook)
            level.start(residual)
            residual = residual - F.embedding(level.index(residual), level.codebook)

    def draw_levels(self, batch: int, device: torch.device, levels: int) -> Tensor:
        """How many of `levels` each item uses [B]: all, or a random number for the items that codebook dropout picks."""
        c = self.config
        full = torch.full((batch,), levels, device=device)
        if not self.training or c.codebook_dropout == 0:
            return full
        fewer = torch.randint(1, levels + 1, (batch,), device=device)
        return torch.where(torch.rand(batch, device=device) < c.codebook_dropout, fewer, full)

    def encode(self, x: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Latents [B, D, L] -> indices [B, K, L] of the first `num_codebooks` levels: with a beam, the best for just these levels."""
        count = self.config.num_codebooks if num_codebooks is None else num_codebooks
        if not 1 <= count <= self.config.num_codebooks:
            raise UsageError(f"expected num_codebooks in 1..{self.config.num_codebooks}, got {count}; the model has no more levels")
        batch, dim, frames = x.shape
        residual = x.transpose(1, 2).reshape(-1, dim)
        if self.config.beam > 1:
            found = [beam_search(residual[at : at + 512], self.codebooks[:count], self.config.beam) for at in range(0, max(1, len(residual)), 512)]  # 512: bounds the memory
            return torch.cat(found).view(batch, frames, count).transpose(1, 2)
        codes = []
        for level in list(self.levels)[:count]:
            assert isinstance(level, Codebook)
            index = level.index(residual)
            residual = residual - F.embedding(index, level.codebook)
            codes.append(index.view(batch, frames))
        return torch.stack(codes, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Indices [B, k <= K, L] of the first k levels -> quantised latents [B, D, L]."""
        first = self.levels[0]
        assert isinstance(first, Codebook)
        total = torch.zeros(codes.shape[0], codes.shape[2], self.config.dim, device=codes.device, dtype=first.codebook.dtype)
        for k, level in enumerate(list(self.levels)[: codes.shape[1]]):
            assert isinstance(level, Codebook)
            total = total + F.embedding(codes[:, k].long(), level.codebook)
        return total.transpose(1, 2)
