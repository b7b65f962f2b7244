"""The spiking backbone, its options, its recording and its pictures."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import wavespike
from wavespike.errors import ConfigError, UsageError
from wavespike.hub.load import load, save
from wavespike.models.spiking_vocos import SpikingVocos, SpikingVocosConfig
from wavespike.nn.heads import ISTFTHeadConfig, SourceFilterHeadConfig
from wavespike.nn.spiking import SpikingConvNeXtBackbone, SpikingConvNeXtConfig, membrane_readout, temporal_shift
from wavespike.spikes.neurons import NeuronConfig


def backbone(**options: Any) -> SpikingConvNeXtBackbone:
    torch.manual_seed(0)
    made = SpikingConvNeXtBackbone(SpikingConvNeXtConfig(**{**dict(input_channels=10, dim=32, intermediate_dim=48, num_layers=3, expansion_init_std=0.5), **options}))
    for block in made.blocks:
        if options.get("mlp") != "absent":
            torch.nn.init.normal_(block.pwconv2.weight, std=0.5)
    return made


def model(head: Any = None, **options: Any) -> SpikingVocos:
    torch.manual_seed(0)
    b = SpikingConvNeXtConfig(**{**dict(dim=32, intermediate_dim=48, num_layers=2, expansion_init_std=0.4), **options})
    return SpikingVocos(SpikingVocosConfig(backbone=b, head=head or ISTFTHeadConfig(dim=32))).eval()


@pytest.fixture
def features() -> Tensor:
    return torch.randn(2, 10, 40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("shift", "steps", "adaptive"), list(itertools.product([False, True], [1, 2, 3, 4], [None, 3])))
def test_the_constant_input_of_the_first_block_is_computed_once_with_the_result_of_computing_it_every_step(shift: bool, steps: int, adaptive: int | None, features: Tensor) -> None:
    b = backbone(temporal_shift=shift, time_steps=steps, adanorm_num_embeddings=adaptive)
    condition = None if adaptive is None else torch.tensor([0, 2])
    u, seen = b.embed(features), []
    handle = b.blocks[0].dwconv.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[0] // 2))
    with torch.no_grad():
        once = b.blocks[0](u, condition)
        handle.remove()
        every = b.blocks[0](u.expand(steps, *u.shape), condition)
    assert seen == [min(steps, 3) if shift else 1]
    assert torch.allclose(once, every, atol=1e-5)


@pytest.mark.parametrize(("causal", "shift", "steps"), list(itertools.product([False, True], [False, True], [1, 4])))
def test_the_stream_of_a_backbone_equals_the_whole(causal: bool, shift: bool, steps: int, features: Tensor) -> None:
    b = backbone(causal=causal, temporal_shift=shift, time_steps=steps, initial_norm=True)
    with torch.no_grad():
        state, out = b.initial_state(2), []
        for i, j in ((0, 1), (1, 1), (1, 8), (8, 30), (30, 40)):
            piece, state = b.step(features[..., i:j], state, None, j == 40)
            out.append(piece)
        assert torch.allclose(torch.cat(out, 1), b(features), atol=1e-4)


@pytest.mark.parametrize("head", [ISTFTHeadConfig(dim=32), ISTFTHeadConfig(dim=32, mel_prior=True), SourceFilterHeadConfig(dim=32, pitch_dim=16, pitch_layers=1)])
def test_the_stream_of_a_model_equals_decode(head: Any) -> None:
    m, x = model(head, temporal_shift=True).double(), torch.randn(1, 100, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad(), m.stream(batch_size=1) as session:
        pieces = torch.cat([session.push(x[..., :5]), session.push(x[..., 5:33]), session.push(x[..., 33:]), session.flush()], 1)
        whole = m.decode(x)
    assert pieces.shape == whole.shape
    assert float((pieces - whole).abs().max()) < 1e-8 * max(1.0, float(whole.abs().max()))


def test_more_input_never_changes_the_past_of_a_causal_backbone(features: Tensor) -> None:
    b = backbone(causal=True, temporal_shift=True)
    with torch.no_grad():
        assert torch.allclose(b(features)[:, :20], b(features[..., :20]), atol=1e-5)


def test_no_state_survives_a_call(features: Tensor) -> None:
    b = backbone()
    with torch.no_grad():
        first = b(features)
        b(torch.randn(1, 10, 7))
        assert torch.equal(b(features), first)
    assert not list(b.buffers())


def test_a_frame_shift_takes_the_right_steps() -> None:
    u = torch.arange(1.0, 4.0)[:, None, None, None].expand(3, 1, 6, 1)
    shifted = temporal_shift(u, 2)[:, 0, :, 0]
    assert shifted.tolist() == [[2, 2, 0, 0, 1, 1], [3, 3, 1, 1, 2, 2], [0, 0, 2, 2, 3, 3]]
    assert float(membrane_readout(torch.ones(4, 1, 1, 1), 0.9)) == pytest.approx(0.729 + 0.81 + 0.9 + 1)


def test_conditions_are_per_item(features: Tensor) -> None:
    b = backbone(adanorm_num_embeddings=3, initial_norm=True, temporal_shift=True)
    for block in b.blocks:
        torch.nn.init.normal_(block.norm.scale.weight)  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        both = b(features, torch.tensor([0, 2]))
        assert torch.allclose(both[1:], b(features[1:], torch.tensor([2])), atol=1e-5)
        assert not torch.allclose(both[1:], b(features[1:], torch.tensor([0])), atol=1e-3)
    with pytest.raises(UsageError, match="built without adanorm"):
        backbone()(features, torch.tensor([0, 1]))


@pytest.mark.parametrize("kind", ["if", "lif", "plif"])
@pytest.mark.parametrize(("shortcut", "reset"), list(itertools.product([True, False], ["hard", "soft"])))
def test_every_option_trains_all_its_parameters(kind: Any, shortcut: bool, reset: Any, features: Tensor) -> None:
    b = backbone(neuron=NeuronConfig(kind=kind, reset=reset), amplitude_shortcut=shortcut, temporal_shift=True)
    b(features).square().mean().backward()
    for name, parameter in b.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
    assert (b.blocks[1].neuron1.w is not None) == (kind == "plif")


def test_silencing_and_leaving_out_the_spiking_layers(features: Tensor) -> None:
    whole, silenced = backbone(), backbone(mlp="silenced")
    silenced.load_state_dict(whole.state_dict())
    with torch.no_grad():
        assert not torch.allclose(whole(features), silenced(features), atol=1e-2)
    assert not any("pwconv" in name for name, _ in backbone(mlp="absent").named_parameters())


@pytest.mark.parametrize(("options", "said"), [({"time_steps": 0}, "time_steps: expected at least 1, got 0"), ({"temporal_shift": True, "dim": 40}, "divisor of the 40 channels"),
                                               ({"temporal_shift": True, "shift_fold": 17}, r"expected 1\.\.16"), ({"num_layers": 0}, "num_layers"),
                                               ({"readout_decay": 1.5}, "readout_decay")])
def test_options_without_meaning_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SpikingConvNeXtConfig(**options)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    m = model(temporal_shift=True, neuron=NeuronConfig(kind="lif", reset="soft"))
    save(m, tmp_path / "model")
    back, x = load(tmp_path / "model"), torch.randn(1, 2000) * 0.1
    assert isinstance(back, SpikingVocos)
    assert back.config == m.config
    assert torch.equal(back(x), m(x))


def test_a_twin_has_the_size_features_and_head_of_the_other() -> None:
    m = model(SourceFilterHeadConfig(dim=32))
    dense = m.config.dense_twin()
    assert (dense.head, dense.features, dense.backbone.dim) == (m.config.head, m.config.features, 32)
    assert SpikingVocosConfig.twin_of(dense, expansion_init_std=0.4) == m.config


def test_recording_counts_without_keeping_and_leaves_nothing_behind() -> None:
    m, x = model(), torch.randn(1, 3000) * 0.2
    with torch.no_grad():
        with wavespike.record_spikes(m, keep=True) as kept:
            m(x)
            m(x)
        with wavespike.record_spikes(m) as record:
            m(x)
    name = "backbone.convnext.1.neuron2"
    spikes = kept.spikes(name)
    assert [s.shape for s in spikes] == [(4, 1, 12, 48)] * 2
    assert kept.rates[name] == record.rates[name] == pytest.approx(float(spikes[0].float().mean()))
    assert record.layers[name].calls == 1
    assert record.layers[name].silent_channels == int((spikes[0].sum((0, 1, 2)) == 0).sum())
    assert 0 < record.mean_rate < 1
    assert not any(module._forward_hooks for module in m.modules())
    with pytest.raises(UsageError, match="keep=True"):
        record.spikes(name)
    with pytest.raises(UsageError, match="expected a spiking layer"):
        record.spikes("head")
    with pytest.raises(UsageError, match="no"), wavespike.record_spikes(m.head):
        pass


def record_of(m: SpikingVocos) -> Any:
    with torch.no_grad(), wavespike.record_spikes(m, keep=True) as record:
        m(torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)) * 0.2)
    return record


def test_points_of_the_scatter_are_frames_and_channels_the_right_way_round() -> None:
    from wavespike.view.spikes import spike_planes

    record = record_of(model())
    planes = spike_planes(record, threshold=0.5, sample=1.0)
    assert [p.depth for p in planes] == [0, 1, 2, 3]
    plane = planes[3]
    want = record.spikes(plane.name)[0].float().mean(0)[0].numpy()  # [L, C]
    assert plane.density.shape == (20, 48)
    assert np.array_equal(np.stack([plane.frames, plane.channels], 1), np.argwhere(want >= 0.5))
    assert plane.frames.max() < 20
    fewer = spike_planes(record, threshold=0.5, sample=0.3)
    assert 0 < sum(p.frames.size for p in fewer) < 0.6 * sum(p.frames.size for p in planes)
    assert sum(p.frames.size for p in spike_planes(record, threshold=1.0, sample=1.0)) < sum(p.frames.size for p in planes)
    assert [p.name for p in spike_planes(record, layers=["1", "convnext.1"])] == [list(record.layers)[i] for i in (1, 2, 3)]
    for more, said in (({"threshold": 0.0}, "threshold"), ({"sample": 2.0}, "share"), ({"layers": ["nothing"]}, "expected layers of"), ({"layers": ["9"]}, "depths 0..3")):
        with pytest.raises(UsageError, match=said):
            spike_planes(record, **more)  # type: ignore[arg-type]


def test_pictures_are_written_whole(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the package matplotlib")
    from wavespike.view.spikes import save_spikes, spike_planes

    planes = spike_planes(record_of(model()), sample=1.0)
    assert save_spikes(planes, tmp_path / "spikes.png").read_bytes()[:4] == b"\x89PNG"
    pytest.importorskip("plotly", reason="interactive pages need the package plotly")
    page = save_spikes(planes, tmp_path / "spikes.html").read_text(encoding="utf-8")
    assert "scatter3d" in page
    assert "sequence (frame)" in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spikes.html", "spikes.png"]
