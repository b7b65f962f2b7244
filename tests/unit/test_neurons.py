"""Neurons: hand-made trajectories, the fused scan against the loop of steps, SpikingJelly and snnTorch as oracles."""

import itertools

import pytest
import torch
from torch import Tensor

from wavespike.errors import ConfigError, UsageError
from wavespike.spikes import neurons, surrogate
from wavespike.spikes.neurons import (
    NeuronConfig,
    decay_of,
    if_scan,
    if_step,
    initial_potential,
    lif_scan,
    lif_step,
    neuron_scan,
    plif_scan,
    plif_step,
    scan_by_steps,
)
from wavespike.spikes.surrogate import DERIVATIVES, SurrogateConfig, spike

SURROGATES = ("sigmoid", "arctan", "boxcar", "fast-sigmoid", "triangle")


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def trajectory(config: NeuronConfig, inputs: Tensor, v: Tensor | None = None) -> tuple[list[float], list[float]]:
    """Spikes and the potential after every step."""
    w = torch.tensor(config.initial_decay_logit()) if config.kind == "plif" else None
    spikes, potentials = [], []
    v = initial_potential(inputs, config) if v is None else v
    for x in inputs:
        s, v = neuron_scan(x[None], v, decay_of(config, w), config)
        spikes.append(float(s))
        potentials.append(round(float(v), 6))
    return spikes, potentials


def test_trajectories_by_hand() -> None:
    assert trajectory(NeuronConfig(kind="if"), column(0.6, 0.6, 0.6)) == ([0, 1, 0], [0.6, 0.0, 0.6])
    assert trajectory(NeuronConfig(kind="if", reset="soft"), column(0.75, 0.75, 0.75)) == ([0, 1, 1], [0.75, 0.5, 0.25])
    # tau 2: v <- v + (x - v) / 2
    assert trajectory(NeuronConfig(kind="lif"), column(1.5, 1.5, 1.5)) == ([0, 1, 0], [0.75, 0.0, 0.75])
    assert trajectory(NeuronConfig(kind="plif"), column(1.5, 1.5, 1.5)) == ([0, 1, 0], [0.75, 0.0, 0.75])
    # without decay of the input: v <- v / 2 + x
    assert trajectory(NeuronConfig(kind="lif", decay_input=False), column(0.75, 0.75, 0.75)) == ([0, 1, 0], [0.75, 0.0, 0.75])
    assert trajectory(NeuronConfig(kind="lif", decay_input=False, reset="soft"), column(0.75, 0.75, 0.75)) == ([0, 1, 0], [0.75, 0.125, 0.8125])
    # rest below zero: v <- v + (x - (v + 0.5)) / 2, starts and ends a spike at -0.5
    assert trajectory(NeuronConfig(kind="lif", v_reset=-0.5), column(3.0, 1.0)) == ([1, 0], [-0.5, 0.0])


def test_a_potential_at_the_threshold_spikes() -> None:
    assert float(if_scan(column(1.0))[0]) == 1.0
    assert float(spike(torch.zeros(1), strict=True)) == 0.0


def test_the_state_is_a_value_a_scan_cut_in_two_equals_the_whole() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(6, 3, 5) * 2, torch.tensor(0.3)
    whole, end = plif_scan(x, None, w)
    first, middle = plif_scan(x[:2], None, w)
    second, after = plif_scan(x[2:], middle, w)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(after, end)


def test_steps_and_scans_of_a_kind_agree() -> None:
    x = torch.randn(1, 4, 7) * 2
    v, w = torch.randn(4, 7), torch.tensor(0.2)
    for scan, step, more in ((if_scan, if_step, ()), (lif_scan, lif_step, ()), (plif_scan, plif_step, (w,))):
        s, after = scan(x, v, *more)
        s1, after1 = step(x[0], v, *more)
        assert torch.equal(s[0], s1)
        assert torch.equal(after, after1)


OPTIONS = [*itertools.product(["if", "lif", "plif"], ["hard", "soft"], [True, False], [True, False], [0.0, -0.25], ["sigmoid"]),
           *itertools.product(["plif"], ["hard"], [True], [False], [0.0], SURROGATES[1:])]


@pytest.mark.parametrize(("kind", "reset", "decay_input", "detach", "v_reset", "name"), OPTIONS)
@pytest.mark.parametrize("rested", [True, False])
def test_the_fused_scan_has_the_values_and_gradients_of_the_loop(kind: str, reset: str, decay_input: bool, detach: bool, v_reset: float, name: str, rested: bool,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurons, "BLOCK", 50)  # more than one block, and a last one that is not full
    config = NeuronConfig(kind=kind, reset=reset, decay_input=decay_input, detach_reset=detach, v_reset=v_reset, tau=3.0,  # type: ignore[arg-type]
                          surrogate=SurrogateConfig(name=name))  # type: ignore[arg-type]
    torch.manual_seed(1)
    start_x, start_v, start_w = torch.randn(5, 7, 19) * 2, torch.randn(7, 19) * 0.3, torch.tensor(0.4)
    pull, end_pull = torch.randn(5, 7, 19), torch.randn(7, 19)
    results = []
    for fused in (False, True):
        x, v, w = (t.clone().requires_grad_() for t in (start_x, start_v, start_w))
        if rested:
            v = None if fused else initial_potential(x.detach(), config)
        scan = neuron_scan if fused else scan_by_steps
        s, after = scan(x, v, decay_of(config, w), config)  # type: ignore[arg-type]
        ((s * pull).sum() + (after * end_pull).sum()).backward()
        results.append((s.detach(), after.detach(), x.grad, None if rested else v.grad, w.grad))  # type: ignore[union-attr]
    for loop, fused_value in zip(*results, strict=True):
        assert (loop is None) == (fused_value is None)
        if loop is not None:
            assert torch.allclose(loop, fused_value, atol=1e-5, rtol=1e-4)
    assert torch.equal(results[0][0], results[1][0])
    if kind == "plif":
        assert float(results[1][4].abs()) > 1e-3  # the decay learns


@pytest.mark.parametrize("logit", [-4.0, 0.0, 2.0, 2.5, 5.0])
def test_a_learnt_decay_gets_the_gradient_of_the_loop_however_short_the_memory(logit: float) -> None:
    torch.manual_seed(2)
    x, pull = torch.randn(4, 300, dtype=torch.float32) * 2, torch.randn(4, 300)
    grads = []
    for scan, start in ((scan_by_steps, torch.zeros(300, dtype=torch.float64)), (neuron_scan, None)):
        dtype = torch.float64 if start is not None else torch.float32
        w = torch.tensor(logit, dtype=dtype, requires_grad=True)
        s, _ = scan(x.to(dtype), start, torch.sigmoid(w), NeuronConfig())
        s.backward(pull.to(dtype))
        grads.append(float(w.grad))  # type: ignore[arg-type]
    assert grads[1] == pytest.approx(grads[0], rel=2e-4, abs=2e-4)


def test_a_view_in_time_is_a_constant_input() -> None:
    x, w = torch.randn(3, 4).requires_grad_(), torch.tensor(0.0)
    spikes, _ = plif_scan(x.expand(4, 3, 4), None, w)
    spikes.sum().backward()
    y = x.detach().clone().requires_grad_()
    scan_by_steps(torch.stack([y] * 4), torch.zeros(3, 4), torch.sigmoid(w), NeuronConfig())[0].sum().backward()
    assert torch.allclose(x.grad, y.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_is_the_derivative_it_says(name: str) -> None:
    z = torch.linspace(-2, 2, 401, dtype=torch.float64)
    function, alpha = DERIVATIVES[name]
    g = function(z, alpha)
    assert bool((g >= 0).all())
    closed = {
        "sigmoid": 4 * torch.sigmoid(4 * z) * torch.sigmoid(-4 * z),
        "arctan": 1 / (1 + (torch.pi * z) ** 2),
        "boxcar": ((z > -0.5) & (z <= 0.5)).double(),
        "fast-sigmoid": (1 + 25 * z.abs()) ** -2,
        "triangle": torch.relu(1 - z.abs()),
    }[name]
    assert torch.allclose(g, closed)
    x = z.clone().requires_grad_()
    spike(x, SurrogateConfig(name=name)).sum().backward()  # type: ignore[arg-type]
    assert torch.allclose(x.grad, g)  # type: ignore[arg-type]
    named = getattr(surrogate, name.replace("-", "_"))
    x = z.clone().requires_grad_()
    named(x).sum().backward()
    assert torch.allclose(x.grad, g)  # type: ignore[arg-type]


def test_bad_neurons_are_refused() -> None:
    with pytest.raises(ConfigError, match="tau"):
        NeuronConfig(tau=1.0)
    with pytest.raises(ConfigError, match="threshold"):
        NeuronConfig(threshold=0.0)
    with pytest.raises(ConfigError, match="alpha"):
        SurrogateConfig(alpha=0.0)
    with pytest.raises(UsageError, match="at least one time step"):
        plif_scan(torch.zeros(0, 3), None, torch.tensor(0.0))
    with pytest.raises(UsageError, match=r"expected a potential \[3\]"):
        plif_scan(torch.zeros(2, 3), torch.zeros(4), torch.tensor(0.0))


@pytest.mark.parametrize("kind", ["if", "lif", "plif"])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset", [0.0, -0.25, None])
@pytest.mark.parametrize("detach", [True, False])
def test_spikingjelly_agrees(kind: str, decay_input: bool, v_reset: float | None, detach: bool) -> None:
    theirs = pytest.importorskip("spikingjelly.activation_based.neuron", reason="the oracle spikingjelly is not installed")
    from spikingjelly.activation_based import surrogate as their_surrogate

    config = NeuronConfig(kind=kind, decay_input=decay_input, reset="soft" if v_reset is None else "hard", v_reset=v_reset or 0.0, detach_reset=detach)  # type: ignore[arg-type]
    more = {"v_threshold": 1.0, "v_reset": v_reset, "detach_reset": detach, "step_mode": "m", "surrogate_function": their_surrogate.Sigmoid(4.0)}
    node = {"if": lambda: theirs.IFNode(**more), "lif": lambda: theirs.LIFNode(tau=2.0, decay_input=decay_input, **more),
            "plif": lambda: theirs.ParametricLIFNode(init_tau=2.0, decay_input=decay_input, **more)}[kind]()
    torch.manual_seed(2)
    x = (torch.randn(6, 4, 9) * 1.5).requires_grad_()
    y, pull = x.detach().clone().requires_grad_(), torch.randn(6, 4, 9)
    w = torch.tensor(0.0, requires_grad=True)
    ours, after = neuron_scan(x, None, decay_of(config, w), config)
    out = node(y)
    assert torch.equal(ours, out)
    assert torch.allclose(after, node.v, atol=1e-6)
    (ours * pull).sum().backward()
    (out * pull).sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-5)  # type: ignore[arg-type]
    if kind == "plif":
        assert torch.allclose(w.grad, node.w.grad, atol=1e-4)  # type: ignore[arg-type]


def test_snntorch_agrees() -> None:
    snn = pytest.importorskip("snntorch", reason="the oracle snntorch is not installed")
    # its delayed resets are other neurons; step by step without them, and with our reset in between, the equations are the same
    node = snn.Leaky(beta=0.5, reset_mechanism="none")
    torch.manual_seed(3)
    x = torch.randn(6, 4, 9) * 1.5
    config = NeuronConfig(kind="lif", tau=2.0, decay_input=False, reset="soft")
    ours, after = lif_scan(x, None, config)
    memory = torch.zeros(4, 9)
    for t in range(6):
        s, charged = node(x[t], memory)
        assert torch.equal(s, ours[t])
        memory = charged - s
    assert torch.allclose(memory, after, atol=1e-6)


@pytest.mark.parametrize(("name", "theirs", "alpha"), [("fast-sigmoid", "fast_sigmoid", {"slope": 25}), ("arctan", "atan", {"alpha": 2.0})])
def test_surrogates_of_snntorch_agree(name: str, theirs: str, alpha: dict[str, float]) -> None:
    oracle = pytest.importorskip("snntorch.surrogate", reason="the oracle snntorch is not installed")
    x, y = torch.linspace(-2, 2, 101).requires_grad_(), torch.linspace(-2, 2, 101).requires_grad_()
    spike(x, SurrogateConfig(name=name), strict=True).sum().backward()  # type: ignore[arg-type]
    getattr(oracle, theirs)(**alpha)(y).sum().backward()
    assert torch.allclose(x.grad, y.grad, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]
