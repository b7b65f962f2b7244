"""Recognisers: streams equal the offline answer, padding changes nothing, evaluation is deterministic, bad input is told."""

import pytest
import torch

from wavespike.config import from_dict, to_dict
from wavespike.errors import ConfigError, FeatureError, UsageError, WavespikeError
from wavespike.hub.load import load, save
from wavespike.models.sparch import ANN, SNN, SpArch, SpArchConfig, SpikeInputConfig
from wavespike.nn.recording import record_spikes
from wavespike.nn.recurrent import DelayedLinear, MaskedBatchNorm, RecurrentLayer, reverse_padded
from wavespike.signal.filterbank import FilterbankConfig

SPIKING = ["LIF", "adLIF", "RLIF", "RadLIF", "SE-adLIF"]
KINDS = [*SPIKING, "MLP", "RNN", "LiGRU", "GRU"]
FRONT = FilterbankConfig(sample_rate=8000)


def make(kind="RadLIF", seed=0, **options):
    torch.manual_seed(seed)
    model = SpArch(SpArchConfig(labels=("a", "b", "c"), features=FRONT, model_type=kind, nb_hiddens=12, **options))
    for module in model.modules():
        if isinstance(module, MaskedBatchNorm):  # a norm that does something, and enough current for spikes
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.05, 0.3)
    return model.eval()


def noise(samples, batch=1, seed=0):
    return 0.3 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{}, {"frames_per_step": 3}, {"max_delay_frames": 4}, {"normalization": "layernorm"}])
@pytest.mark.parametrize("kind", SPIKING)
def test_a_stream_in_any_chunks_equals_offline(kind, options):
    model = make(kind, **options)
    audio = noise(4321, 2)
    with torch.inference_mode():
        offline = model(audio)
        with model.stream(2) as session:
            for chunk in audio.split([1, 7, 200, 1000, 13, 3000, 100], 1):
                session.push(chunk)
            streamed = session.flush()
    torch.testing.assert_close(streamed, offline, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["RNN", "LiGRU", "GRU", "MLP"])
def test_dense_models_stream_too(kind):
    model = make(kind)
    audio = noise(3000)
    with torch.inference_mode(), model.stream() as session:
        for chunk in audio.split(333, 1):
            session.push(chunk)
        torch.testing.assert_close(session.flush(), model(audio), rtol=1e-5, atol=1e-5)


def test_mean_potential_streams_as_offline():
    model = make("adLIF", logits="mean-potential")
    audio = noise(2500)
    with torch.inference_mode(), model.stream() as session:
        session.push(audio[:, :900])
        session.push(audio[:, 900:])
        torch.testing.assert_close(session.flush(), model(audio), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 80, 199, 200])
def test_a_clip_shorter_than_a_step_gets_an_answer_and_the_same_live(samples):
    model = make()
    audio = noise(samples)
    with torch.inference_mode(), model.stream() as session:
        session.push(audio)
        torch.testing.assert_close(session.flush(), model(audio))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["RadLIF", "LIF", "LiGRU"])
def test_padding_changes_neither_output_nor_rates_nor_running_statistics(kind, both, training):
    torch.manual_seed(0)
    options = {"bidirectional": both}
    cls = ANN if kind == "LiGRU" else SNN
    net, twin = cls((1, 1, 5), [8, 8, 3], kind, **options), cls((1, 1, 5), [8, 8, 3], kind, **options)
    twin.load_state_dict(net.state_dict())
    net.train(training)
    twin.train(training)
    x = 8 * torch.randn(1, 20, 5)
    padded = torch.cat([x, 99 * torch.ones(1, 13, 5)], 1)
    # an item that fills the batch makes padding real
    if not training:
        full = 8 * torch.randn(1, 33, 5)
        y, _ = net(torch.cat([padded, full]), torch.tensor([20, 33]))
        torch.testing.assert_close(y[:1], twin(x)[0], rtol=1e-5, atol=1e-5)
        return
    y, rates = net(padded, torch.tensor([20]))
    want, want_rates = twin(x)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
    if rates is not None:
        torch.testing.assert_close(rates, want_rates)
    for (name, a), b in zip(net.named_buffers(), twin.buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_reversal_stays_inside_each_length():
    x = torch.arange(10.0).reshape(5, 2, 1)
    out = reverse_padded(x, torch.tensor([3, 5]))
    assert out[:, 0, 0].tolist() == [4, 2, 0, 6, 8]
    assert out[:, 1, 0].tolist() == [9, 7, 5, 3, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_deterministic_and_weights_survive_saving(kind, tmp_path):
    model = make(kind)
    audio = noise(3000)
    with torch.inference_mode():
        first = model(audio)
        assert torch.equal(first, model(audio))
        save(model, tmp_path / "m")
        again = load(tmp_path / "m")
        torch.testing.assert_close(first, again(audio), rtol=1e-5, atol=1e-5)
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert again.config == model.config == from_dict(SpArchConfig, to_dict(model.config))


def test_every_neuron_can_be_recorded():
    model = make()
    with torch.inference_mode(), record_spikes(model) as record:
        _, rates = model.scores(model.features(noise(3000)))
    assert list(record.rates) == ["net.snn.0", "net.snn.1"]
    assert record.mean_rate == pytest.approx(float(rates.mean()), rel=1e-5)
    assert record.mean_rate > 0


def test_random_initial_state_is_an_option():
    model = make("LIF", initial_state="random")
    audio = noise(3000)
    with torch.inference_mode():
        assert not torch.equal(model(audio), model(audio))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind):
    model = make(kind).train()
    for module in model.modules():
        if isinstance(module, MaskedBatchNorm):
            torch.nn.init.constant_(module.weight, 5.0)
    logits, rates = model.scores(model.features(noise(6000, 4)))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])) + (0 if rates is None else rates.mean())
    loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not without
    assert sum(float(p.grad.abs().sum()) > 0 for p in model.parameters()) >= 0.8 * len(list(model.parameters()))


def test_a_delay_of_d_frames_moves_the_input_by_d_frames():
    layer = DelayedLinear(1, 1, 5).eval()
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.P.fill_(3.0)
        x = torch.randn(10, 1, 1)
        y, _ = layer.delayed(x, torch.zeros(1, 1, 5))
    torch.testing.assert_close(y[3:], 2 * x[:-3])
    assert torch.equal(y[:3], torch.zeros(3, 1, 1))


def test_delays_get_a_gradient_that_finds_the_right_delay():
    torch.manual_seed(0)
    layer = DelayedLinear(1, 1, 6).train()
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.P.fill_(1.0)
    x = torch.randn(200, 1, 1)
    target = torch.cat([torch.zeros(4, 1, 1), x[:-4]])
    optimizer = torch.optim.Adam([layer.P], lr=0.1)
    for _ in range(80):
        y, _ = layer.delayed(x, torch.zeros(1, 1, 6))
        loss = (y - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert layer.P.item() == pytest.approx(4.0, abs=0.6)


def test_shared_time_constants_have_one_value():
    layer = RecurrentLayer(4, 6, "RadLIF", heterogeneous=False)
    assert layer.alpha.shape == layer.beta.shape == (1,)
    y, _ = layer(torch.randn(7, 2, 4))
    assert y.shape == (7, 2, 6)


def test_long_clips_are_classified():
    model = make()
    with torch.inference_mode():
        scores = model.probabilities(model(noise(60 * 8000)))
    assert scores.shape == (1, 3)
    assert scores.sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("features", [torch.zeros(1, 39, 50), torch.zeros(40, 50), torch.zeros(1, 40, 0), torch.full((1, 40, 9), float("nan"))])
def test_features_of_another_kind_are_refused(features):
    with pytest.raises(FeatureError, match="features"):
        make().logits(features)


def test_misuse_is_told():
    with pytest.raises(UsageError, match="bidirectional"):
        make(bidirectional=True).stream()
    with pytest.raises(ConfigError, match="RadLIF"):
        SNN((1, 1, 4), [4, 2], "RadLif")
    with pytest.raises(ConfigError, match="MLP"):
        ANN((1, 1, 4), [4, 2], "MLP", bidirectional=True)
    with pytest.raises(ConfigError, match="labels"):
        SpArchConfig(labels=("a", "a"))
    with pytest.raises(FeatureError, match="prepare spikes"):
        SpArch(SpArchConfig(features=SpikeInputConfig(units=5))).features(noise(100))
    with pytest.raises(WavespikeError, match="finite"):
        make()(torch.full((1, 900), float("nan")))


def test_four_dimensional_input_is_flattened_as_in_sparch():
    net = SNN((2, 9, 3, 4), [5, 2], "LIF").eval()
    x = torch.randn(2, 9, 3, 4)
    assert torch.equal(net(x)[0], net(x.reshape(2, 9, 12))[0])
