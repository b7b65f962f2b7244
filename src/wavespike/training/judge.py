"""How a validation item is judged while training: the mel distance, and the metrics of `wavespike.metrics` that are installed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wavespike.metrics.panel import Pair, Panel
from wavespike.training.adversarial_losses import mel_loss, mel_loss_config, same_length

VALIDATED = ("pesq_wb", "stoi", "dnsmos_p808", "vuv_f1", "pitch_rmse_cents")


class Judge:
    """judge(original [T], output [T]) -> {"mel": ..., metric: value or None where it has none for this item}.

    Metrics whose package is missing are left out altogether; `missing` names them with the pip line.
    """

    def __init__(self, sample_rate: int, metrics: Sequence[str] = VALIDATED):
        self.sample_rate = sample_rate
        self.panel = Panel(metrics)
        self.missing = dict(self.panel.missing)
        self.mel_config = mel_loss_config(sample_rate)

    def __call__(self, original: Tensor, output: Tensor) -> dict[str, float | None]:
        b, a = same_length(output[None].float().cpu(), original[None].float().cpu())
        row = self.panel.score(Pair("", a[0], b[0], self.sample_rate))
        out: dict[str, float | None] = {"mel": float(mel_loss(b, a, self.mel_config))}
        return out | dict(row.scores) | {name: None for name in row.failures}
