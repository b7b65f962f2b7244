"""Feature extractors of Vocos: log-mel, and the summed codebook vectors of EnCodec (Defossez et al., 2022).

Equation, EnCodec: features = sum_k E[codes_k + codebook_size * k], E the first K codebooks one after another.
Departures: `bandwidth_id` is per item; codes outside the codebooks are refused; decoding needs only the codebooks of the checkpoint, EnCodec itself
(through `transformers`) is fetched when audio is to be encoded.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wavespike.config import Config
from wavespike.errors import ConfigError, FeatureError, MissingDependencyError, UsageError
from wavespike.signal.mel import MelConfig, log_mel


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodecConfig(Config):
    """`bandwidths` in kbit/s; the largest decides how many codebooks there are. Only the 24 kHz model: the 48 kHz one is stereo and segmented."""

    type_name: ClassVar[str] = "encodec"

    encodec_model: Literal["encodec_24khz"] = "encodec_24khz"
    bandwidths: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0)
    train_codebooks: bool = False
    codebook_size: int = 1024
    codebook_dim: int = 128
    sample_rate: int = 24000
    hop_length: int = 320

    def __post_init__(self) -> None:
        if not self.bandwidths or min(self.bandwidths) <= 0:
            raise ConfigError(f"features.bandwidths: expected at least one rate above 0 kbit/s, got {list(self.bandwidths)}")
        if min(self.codebook_size - 1, self.codebook_dim, self.sample_rate, self.hop_length) <= 0:
            raise ConfigError("features: expected codebook_size above 1, and codebook_dim, sample_rate and hop_length above 0")

    def codebooks(self, bandwidth: float) -> int:
        """Codebooks K that a bandwidth in kbit/s pays for."""
        bits = (self.codebook_size - 1).bit_length() * self.sample_rate / self.hop_length
        return max(1, int(bandwidth * 1000 // bits))

    @property
    def num_codebooks(self) -> int:
        return self.codebooks(max(self.bandwidths))


class MelFeatures(nn.Module):
    """Waveform [B, T] -> log-mel [B, n_mels, L]; no parameters."""

    def __init__(self, config: MelConfig):
        super().__init__()
        self.config = config

    def forward(self, audio: Tensor, bandwidth_id: Tensor | None = None) -> Tensor:
        return log_mel(audio, self.config)


class EncodecFeatures(nn.Module):
    """Codes [K, B, L] or waveform [B, T] -> features [B, codebook_dim, L]. Its parameter `codebook_weights` is upstream's."""

    def __init__(self, config: EncodecConfig):
        super().__init__()
        self.config = config
        c = config
        self.codebook_weights = nn.Parameter(torch.randn(c.num_codebooks * c.codebook_size, c.codebook_dim) * 0.1, requires_grad=c.train_codebooks)
        self._encodec: list[Any] = []  # in a list, so that its weights are not part of this module

    def attach(self, encodec: Any) -> None:
        """Use this `transformers.EncodecModel` to encode audio; nothing is fetched then."""
        sizes = (encodec.config.codebook_size, encodec.config.codebook_dim, encodec.config.sampling_rate)
        own = (self.config.codebook_size, self.config.codebook_dim, self.config.sample_rate)
        if sizes != own:
            raise UsageError(f"expected an EnCodec with codebook size, codebook dimension and sampling rate {own}, got {sizes}; attach another")
        self._encodec[:] = [encodec.eval()]

    def copy_codebooks(self) -> None:
        """Take the codebooks of the attached (or fetched) EnCodec: the start of a new training."""
        layers = self.encodec.quantizer.layers[: self.config.num_codebooks]
        with torch.no_grad():
            self.codebook_weights.copy_(torch.cat([layer.codebook.embed for layer in layers]))

    @property
    def encodec(self) -> Any:
        """The EnCodec model, fetched on first use. Raises MissingDependencyError without transformers, UsageError without a network."""
        if not self._encodec:
            try:
                transformers = importlib.import_module("transformers")
            except ImportError as error:
                raise MissingDependencyError("encoding audio to EnCodec tokens", "transformers", "encodec") from error
            name = f"facebook/{self.config.encodec_model}"
            try:
                self.attach(transformers.EncodecModel.from_pretrained(name))
            except OSError as error:
                raise UsageError(
                    f"expected to fetch {name} for encoding audio, got no answer or no such model; connect once, or decode tokens with codes_to_features"
                ) from error
        return self._encodec[0]

    def codes(self, audio: Tensor, bandwidth_id: Tensor) -> Tensor:
        """Waveform [B, T] -> codes [K, B, L] at the largest bandwidth asked for; items of a smaller one use their first codebooks."""
        ids = self._ids(bandwidth_id, audio.shape[0])
        bandwidth = max(self.config.bandwidths[i] for i in ids)
        encodec = self.encodec.to(audio.device)
        with torch.no_grad():
            out = encodec.encode(audio[:, None], bandwidth=bandwidth)
        return out.audio_codes[0].transpose(0, 1)  # type: ignore[no-any-return]  # [1, B, K, L] -> [K, B, L]

    def embed(self, codes: Tensor, keep: list[int] | None = None) -> Tensor:
        """Codes [K, B, L] or [K, L] -> features [B, codebook_dim, L]; `keep[b]` is how many codebooks item b uses."""
        c = self.config
        if codes.ndim == 2:
            codes = codes[:, None]
        if codes.ndim != 3 or not 1 <= codes.shape[0] <= c.num_codebooks or codes.shape[-1] == 0:
            raise FeatureError(f"expected codes [codebooks 1..{c.num_codebooks}, batch, frames], got {list(codes.shape)}; drop codebooks or transpose")
        if codes.is_floating_point() or int(codes.min()) < 0 or int(codes.max()) >= c.codebook_size:
            raise FeatureError(f"expected integer codes in 0..{c.codebook_size - 1}, got {codes.dtype} in {codes.min()}..{codes.max()}; drop special tokens")
        offset = torch.arange(codes.shape[0], device=codes.device)[:, None, None] * c.codebook_size
        vectors = torch.nn.functional.embedding(codes + offset, self.codebook_weights)  # [K, B, L, D]
        if keep is not None:
            rank = torch.arange(codes.shape[0], device=codes.device)[:, None]
            vectors = vectors * (rank < torch.tensor(keep, device=codes.device))[:, :, None, None]
        return vectors.sum(0).transpose(1, 2)

    def forward(self, audio: Tensor, bandwidth_id: Tensor | None = None) -> Tensor:
        if bandwidth_id is None:
            raise UsageError(f"expected bandwidth_id (0..{len(self.config.bandwidths) - 1}) for EnCodec features, got none; pass bandwidth_id=torch.tensor([i])")
        ids = self._ids(bandwidth_id, audio.shape[0])
        keep = [self.config.codebooks(self.config.bandwidths[i]) for i in ids]
        return self.embed(self.codes(audio, bandwidth_id), keep)

    def _ids(self, bandwidth_id: Tensor, batch: int) -> list[int]:
        ids = [int(i) for i in torch.as_tensor(bandwidth_id).reshape(-1)]
        known = len(self.config.bandwidths)
        if len(ids) not in (1, batch) or not all(0 <= i < known for i in ids):
            raise UsageError(f"expected bandwidth_id of 1 or {batch} values in 0..{known - 1}, got {ids}")
        return ids * batch if len(ids) == 1 else ids
