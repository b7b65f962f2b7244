"""Layer normalisation over channels, plain or adaptive (one scale and shift a condition)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from wavespike.errors import UsageError


class AdaLayerNorm(nn.Module):
    """Adaptive layer normalisation (Perez et al., FiLM, 2018; as in Vocos): y = scale[id] * LN(x) + shift[id].

    x [B, L, C], condition [B] or [1] int64 -> [B, L, C]. Departure: every item of a batch may have its own condition.
    """

    def __init__(self, num_embeddings: int, dim: int, eps: float = 1e-6):
        super().__init__()
        self.dim, self.eps = dim, eps
        self.scale = nn.Embedding(num_embeddings, dim)
        self.shift = nn.Embedding(num_embeddings, dim)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        y = F.layer_norm(x, (self.dim,), eps=self.eps)
        scale: Tensor = self.scale(condition)[:, None]
        shift: Tensor = self.shift(condition)[:, None]
        return y * scale + shift


class Norm(nn.LayerNorm):
    """`nn.LayerNorm` (eps 1e-6) with the call of `AdaLayerNorm`; refuses a condition it cannot use."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__(dim, eps=eps)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is not None:
            raise UsageError("got a bandwidth_id, but this model was built without adanorm_num_embeddings; leave bandwidth_id out")
        return super().forward(x)


def make_norm(dim: int, num_embeddings: int | None) -> nn.Module:
    """`AdaLayerNorm` when there are conditions, `Norm` otherwise."""
    return Norm(dim) if num_embeddings is None else AdaLayerNorm(num_embeddings, dim)
