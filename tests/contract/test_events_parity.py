"""Contract: events equal dense. Every registered model with spiking layers, offline and as a stream, on one thread and on two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contract.test_models import CASES, make, run, signal
from wavespike.nn.recording import record_spikes, spiking_layers
from wavespike.runtime import events

pytest.importorskip("numba", reason="numba is not installed (extra: events)")

SPIKING = [case for case in CASES if spiking_layers(make(dict(case.values[0])))]  # type: ignore[arg-type]


def lively(config: dict[str, Any]) -> Any:
    """The model with weights that make its neurons fire, in evaluation mode."""
    model: Any = make(config).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "pwconv1.weight" in name:
                p.copy_(0.4 * torch.randn(p.shape, generator=generator))
            elif "convnext" in name and name.endswith(("pwconv2.weight", "dwconv.weight")):
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
            elif name.endswith((".b", ".a")):
                p.mul_(0.2)
            elif name.startswith("net.") and name.endswith("W.weight"):
                p.mul_(6.0)
    return model


def near(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= tolerance * float(b.abs().max().clamp_min(1e-9))


def test_there_are_spiking_models() -> None:
    assert len(SPIKING) >= 4


@pytest.mark.parametrize("config", SPIKING)
def test_events_equal_dense(config: dict[str, Any]) -> None:
    model = lively(config)
    fast = events.accelerate(model)
    assert isinstance(fast, type(model))
    with torch.no_grad():
        x = signal(model, batch=2)
        with record_spikes(model) as record:
            want = run(model, x)
        assert 0 < record.mean_rate < 1
        assert near(run(fast, x), want)


@pytest.mark.parametrize("config", SPIKING)
def test_a_stream_by_events_equals_the_whole(config: dict[str, Any]) -> None:
    model = lively(config)
    fast = events.accelerate(model)
    with torch.no_grad():
        x = signal(model, batch=2)
        want = run(model, x)
        chunk = 5 if model.kind == "vocoder" else 700
        with fast.stream(batch_size=2) as session:
            pieces = [session.push(c) for c in x.split(chunk, -1)]
            last = session.flush()
        assert near(last if model.kind == "classifier" else torch.cat([*pieces, last], -1), want)


@pytest.mark.parametrize("config", SPIKING)
def test_what_is_accelerated_is_the_same_model(config: dict[str, Any]) -> None:
    """The same parameters under the same names; the given model still computes densely; a recorder sees the same spikes; training mode keeps gradients."""
    model = lively(config)
    fast = events.accelerate(model)
    ours, theirs = dict(fast.named_parameters()), dict(model.named_parameters())
    assert list(ours) == list(theirs)
    assert all(ours[name] is theirs[name] for name in ours)
    x = signal(model, batch=1)
    with torch.no_grad():
        rates = []
        for one in (model, fast):
            with record_spikes(one) as record:
                run(one, x)
            rates.append(record.rates)
        assert rates[0] == rates[1]
        before = run(fast, x)
        spiking = next(iter(spiking_layers(model)))
        weights = [p for n, p in model.named_parameters() if n.startswith(spiking.rsplit(".", 1)[0] if "neuron" in spiking else spiking) and p.ndim == 2]
        for p in weights:
            p.mul_(1.7)  # what changes in the one changes in the other
        after = run(fast, x)
        assert not torch.equal(before, after)
        assert near(after, run(model, x))
    run(fast.train(), x).square().mean().backward()
    assert sum(p.grad is not None and bool(p.grad.abs().max() > 0) for p in model.parameters()) > 0


def test_a_dense_model_is_refused() -> None:
    from wavespike.errors import UsageError

    with pytest.raises(UsageError, match="has none"):
        events.accelerate(nn.Linear(2, 2))
