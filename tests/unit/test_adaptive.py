"""Neurons of SpArch: a scan equals a loop of steps, chunks equal the whole, and the special cases reduce to the simple ones."""

import pytest
import torch

from wavespike.spikes.adaptive import Neuron, State, initial_state, leaky_integrate, loop, scan, spike_product, step, zero_diagonal
from wavespike.spikes.surrogate import SurrogateConfig

KINDS = ["LIF", "RLIF", "adLIF", "RadLIF", "SE-adLIF"]


def make(kind, H=7, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)

    def rand(low, high, *shape):
        return (low + (high - low) * torch.rand(shape, generator=g, dtype=dtype)).requires_grad_()

    options = dict(alpha=rand(0.82, 0.96, H), surrogate=SurrogateConfig(name="fast-sigmoid", alpha=2.0), threshold=0.8)
    if "ad" in kind:
        options |= dict(beta=rand(0.967, 0.992, H), a=rand(0, 1, H) if "SE" in kind else rand(-0.3, 0.3, H), b=rand(0, 2, H))
    if kind in ("RLIF", "RadLIF"):
        options["V"] = rand(-0.6, 0.6, H, H)
    return Neuron(**options, symplectic=kind == "SE-adLIF"), [v for k, v in options.items() if isinstance(v, torch.Tensor)]


def start(neuron, B, g):
    shape = (B, neuron.alpha.shape[0])
    u = torch.rand(shape, generator=g, dtype=torch.float64).requires_grad_()
    s = torch.rand(shape, generator=g, dtype=torch.float64).requires_grad_()
    w = torch.rand(shape, generator=g, dtype=torch.float64).requires_grad_() if neuron.beta is not None else None
    return State(u=u, s=s, w=w)


@pytest.mark.parametrize("kind", KINDS)
def test_scan_equals_a_loop_of_steps_in_outputs_and_all_gradients(kind):
    neuron, parameters = make(kind)
    g = torch.Generator().manual_seed(1)
    x = (12 * torch.randn(30, 5, 7, generator=g, dtype=torch.float64)).requires_grad_()
    state = start(neuron, 5, g)
    weight = torch.randn(30, 5, 7, generator=g, dtype=torch.float64)
    leaves = [x, state.u, state.s, *([state.w] if state.w is not None else []), *parameters]
    results = []
    for run in (scan, loop):
        s, after = run(x, state, neuron)
        loss = (s * weight).sum() + after.u.square().sum() + (after.w.sum() if after.w is not None else 0)
        results.append((s, after, torch.autograd.grad(loss, leaves, allow_unused=True)))
    (s1, a1, g1), (s2, a2, g2) = results
    assert torch.equal(s1, s2)
    assert 0.02 < s1.mean() < 0.9
    torch.testing.assert_close(a1.u, a2.u)
    for ours, reference in zip(g1, g2, strict=True):
        reference = torch.zeros_like(ours) if reference is None else reference
        torch.testing.assert_close(ours, reference, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_with_the_state_carried_equal_the_whole(kind):
    neuron, _ = make(kind)
    x = 4 * torch.randn(23, 2, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    whole, last = scan(x, initial_state(neuron, 2), neuron)
    state, parts = initial_state(neuron, 2), []
    for chunk in x.split([1, 5, 17]):
        s, state = scan(chunk, state, neuron)
        parts.append(s)
    assert torch.equal(torch.cat(parts), whole)
    torch.testing.assert_close(state.u, last.u)


def test_radlif_without_adaptation_and_recurrence_is_lif():
    full, _ = make("RadLIF")
    zero = torch.zeros(7, dtype=torch.float64)
    reduced = Neuron(alpha=full.alpha, beta=full.beta, a=zero, b=zero, V=torch.zeros(7, 7, dtype=torch.float64))
    simple = Neuron(alpha=full.alpha)
    x = 4 * torch.randn(20, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(scan(x, initial_state(reduced, 3), reduced)[0], scan(x, initial_state(simple, 3), simple)[0])


def test_a_lif_neuron_under_constant_current_spikes_when_the_equation_says():
    alpha, current = 0.9, 1.5
    neuron = Neuron(alpha=torch.tensor([alpha], dtype=torch.float64))
    s, _ = scan(torch.full((40, 1, 1), current, dtype=torch.float64), initial_state(neuron, 1), neuron)
    first = next(t for t in range(1, 41) if current * (1 - alpha**t) > 1)  # closed form before the first spike
    assert s[:, 0, 0].nonzero()[0].item() == first - 1


def test_a_dead_input_gives_no_spikes_and_silence_stays_silence():
    for kind in KINDS:
        neuron, _ = make(kind)
        assert scan(torch.zeros(50, 2, 7, dtype=torch.float64), initial_state(neuron, 2), neuron)[0].sum() == 0


def test_random_initial_state_is_in_the_published_range_and_seeded():
    neuron, _ = make("RadLIF")
    one, two = (initial_state(neuron, 4, "random", torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one.s, two.s)
    assert one.s.min() >= 0
    assert one.s.max() < 1
    assert len(one.s.unique()) > 10


def test_zero_diagonal_takes_no_gradient_on_the_diagonal():
    V = torch.randn(5, 5).requires_grad_()
    zero_diagonal(V).sum().backward()
    assert torch.equal(V.grad, 1 - torch.eye(5))


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.5])
def test_products_through_the_list_of_spikes_equal_dense_ones(rate):
    g = torch.Generator().manual_seed(0)
    s = (torch.rand(64, 600, generator=g) < rate).float()
    V, start_value = torch.randn(600, 600, generator=g), torch.randn(64, 600, generator=g)
    torch.testing.assert_close(spike_product(s, V, start_value.clone()), start_value + s @ V, rtol=1e-4, atol=1e-4)


def test_leaky_integration_equals_its_recursion_and_gradient():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 2, 3, generator=g, dtype=torch.float64).requires_grad_()
    u0 = torch.randn(2, 3, generator=g, dtype=torch.float64).requires_grad_()
    alpha = torch.tensor([0.82, 0.9, 0.96], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda *v: leaky_integrate(*v)[0], (x, u0, alpha))
    u = u0
    for t in range(12):
        u = alpha * u + (1 - alpha) * x[t]
    torch.testing.assert_close(leaky_integrate(x, u0, alpha)[1], u)


def test_a_step_of_one_neuron_is_the_equation_by_hand():
    neuron = Neuron(alpha=torch.tensor([0.9]), beta=torch.tensor([0.97]), a=torch.tensor([0.5]), b=torch.tensor([1.0]))
    s, after = step(torch.tensor([[3.0]]), State(u=torch.tensor([[1.2]]), s=torch.tensor([[1.0]]), w=torch.tensor([[0.1]])), neuron)
    w = 0.97 * 0.1 + 0.5 * 1.2 + 1.0
    u = 0.9 * (1.2 - 1.0) + 0.1 * (3.0 - w)
    assert after.w.item() == pytest.approx(w)
    assert after.u.item() == pytest.approx(u)
    assert s.item() == 0.0
