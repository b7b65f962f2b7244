"""Laws of Vocos: the published sizes, upstream's names and behaviour, and the absence of upstream's defects, each by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import wavespike
from wavespike import Vocos
from wavespike.errors import AudioError, ConfigError, FeatureError, UsageError
from wavespike.models.registry import build
from wavespike.nn.convnext import ConvNeXtBackbone, ConvNeXtConfig
from wavespike.nn.heads import ISTFTHead, ISTFTHeadConfig
from wavespike.nn.imdct_heads import IMDCTCosHeadConfig, IMDCTHead, IMDCTSymExpHeadConfig
from wavespike.nn.resnet import ResNetBackbone, ResNetConfig
from wavespike.signal.mel import MelConfig, log_mel
from wavespike.signal.stft import istft

GOLDEN = Path(__file__).parent.parent / "golden" / "vocos"


def tiny(**head: Any) -> Vocos:
    torch.manual_seed(0)
    model = build({
        "type": "vocos",
        "features": {"type": "mel", "n_fft": 64, "hop_length": 16, "n_mels": 12},
        "backbone": {"type": "convnext", "input_channels": 12, "dim": 8, "intermediate_dim": 16, "num_layers": 1},
        "head": {"type": "istft", "dim": 8, "n_fft": 64, "hop_length": 16, **head},
    })
    assert isinstance(model, Vocos)
    return model


# the published sizes

def test_the_published_mel_model_has_13531650_parameters() -> None:
    with torch.device("meta"):
        model = build({"type": "vocos"})
    assert model.parameter_count() == 13_531_650


def test_the_published_encodec_model_has_7984258_parameters_and_2097152_in_codebooks() -> None:
    with torch.device("meta"):
        model = build({
            "type": "vocos",
            "features": {"type": "encodec"},
            "backbone": {"type": "convnext", "input_channels": 128, "dim": 384, "intermediate_dim": 1152, "num_layers": 8, "adanorm_num_embeddings": 4},
            "head": {"type": "istft", "dim": 384, "n_fft": 1280, "hop_length": 320, "padding": "same"},
        })
    codebooks = model.feature_extractor.codebook_weights.numel()
    assert codebooks == 2_097_152
    assert model.parameter_count() - codebooks == 7_984_258


# upstream's names and behaviour

def test_from_hparams_builds_upstreams_configuration() -> None:
    model = Vocos.from_hparams(str(GOLDEN / "mel-istft-same" / "config.yaml"))
    assert not model.training
    assert (model.sample_rate, model.hop_length, model.feature_channels) == (16000, 64, 40)


def test_calling_is_copy_synthesis_and_parts_have_upstreams_names() -> None:
    model = Vocos.from_pretrained(str(GOLDEN / "mel-istft-center"))
    audio = 0.1 * torch.randn(2, 4000)
    features = model.feature_extractor(audio)
    by_parts = model.head(model.backbone(features), features)
    torch.testing.assert_close(model(audio), by_parts)
    torch.testing.assert_close(model.decode(features), by_parts)


def test_evaluation_keeps_no_graph_unless_the_input_asks_for_one() -> None:
    model = tiny().eval()
    features = torch.randn(1, 12, 9)
    assert not model.decode(features).requires_grad
    model.decode(features.requires_grad_()).square().mean().backward()
    assert features.grad is not None
    assert float(features.grad.abs().max()) > 0
    assert model.train().decode(features.detach()).requires_grad


def test_codes_are_refused_by_a_mel_model() -> None:
    with pytest.raises(UsageError, match="got a mel model"):
        tiny().codes_to_features(torch.zeros(1, 1, 1, dtype=torch.int64))


def test_a_bandwidth_is_refused_by_a_model_without_one() -> None:
    with pytest.raises(UsageError, match="no adaptive norms"):
        tiny().decode(torch.zeros(1, 12, 3), bandwidth_id=torch.tensor([0]))
    with pytest.raises(UsageError, match="no adaptive norms"):
        ResNetBackbone(ResNetConfig(dim=4, input_channels=3))(torch.zeros(1, 3, 5), torch.tensor([0]))


def test_a_misspelt_condition_is_not_ignored() -> None:
    for call in (tiny().decode, tiny().features):
        with pytest.raises(UsageError, match="did you mean 'bandwidth_id'"):
            call(torch.zeros(1, 12, 3), bandwith_id=torch.tensor([0]))


@pytest.mark.parametrize("shape", [(1, 11, 5), (12, 5), (1, 12, 0)])
def test_a_mel_of_the_wrong_size_is_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(FeatureError, match=r"expected features \[batch, 12, frames\]"):
        tiny().decode(torch.zeros(shape))


def test_not_finite_input_is_one_line() -> None:
    with pytest.raises(FeatureError, match="NaN or Inf"):
        tiny().decode(torch.full((1, 12, 4), float("nan")))
    with pytest.raises(AudioError, match="NaN or Inf"):
        tiny().features(torch.tensor([[0.0, float("inf")]]))


@pytest.mark.parametrize(("part", "change"), [("head", {"dim": 9}), ("backbone", {"input_channels": 13}), ("head", {"hop_length": 32})])
def test_parts_that_do_not_fit_are_refused(part: str, change: dict[str, int]) -> None:
    from wavespike.config import to_dict

    config = to_dict(tiny().config)
    config[part].update(change)
    with pytest.raises(ConfigError, match="expected the"):
        build(config)


@pytest.mark.parametrize("causal", [False, True])
def test_context_frames_are_what_one_output_frame_sees(causal: bool) -> None:
    for backbone in (ConvNeXtBackbone(ConvNeXtConfig(input_channels=3, dim=4, intermediate_dim=8, num_layers=2, layer_scale_init_value=1.0, causal=causal)),
                     ResNetBackbone(ResNetConfig(input_channels=3, dim=4, num_blocks=1, layer_scale_init_value=1.0, causal=causal))):
        backbone.double()
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.copy_(torch.rand_like(parameter) + 0.1)  # positive: nothing cancels
        x = torch.rand(1, 3, 101, dtype=torch.float64, requires_grad=True)
        weight = torch.rand(4, dtype=torch.float64)
        (backbone(x)[0, 50] * weight).sum().backward()
        assert x.grad is not None
        seen = torch.nonzero(x.grad.abs().sum((0, 1))).flatten()
        assert (50 - int(seen.min()), int(seen.max()) - 50) == backbone.context_frames


# upstream's defects are absent

@pytest.mark.parametrize("config", [IMDCTSymExpHeadConfig, IMDCTCosHeadConfig])
def test_clip_audio_clips_the_waveform(config: Any) -> None:
    torch.manual_seed(0)
    hidden = 40 * torch.randn(1, 9, 4)
    plain, clipped = (IMDCTHead(config(dim=4, mdct_frame_len=16, clip_audio=clip)) for clip in (False, True))
    clipped.load_state_dict(plain.state_dict())
    want = plain(hidden, hidden)
    assert float(want.detach().abs().max()) > 1
    torch.testing.assert_close(clipped(hidden, hidden), want.clamp(-1, 1))


def test_same_padding_with_odd_window_minus_hop_keeps_the_length() -> None:
    config = MelConfig(sample_rate=44100, n_fft=2048, hop_length=441, n_mels=80, padding="same")
    features = log_mel(torch.randn(1, 441 * 7), config)
    head = ISTFTHead(ISTFTHeadConfig(dim=4, n_fft=2048, hop_length=441, padding="same"))
    assert features.shape[-1] == 7
    assert head(torch.randn(1, 7, 4), features).shape[-1] == 441 * 7


def test_a_window_of_one_hop_gives_audio() -> None:
    out = istft(torch.randn(1, 33, 5, dtype=torch.complex64), 64, 64, None, "same")
    assert out.shape == (1, 5 * 64)


def test_no_assertion_on_values_stands_in_the_way_of_a_compiler() -> None:
    model = tiny().eval()
    model.head.forward = torch.compile(model.head.forward, fullgraph=True, backend="eager")
    features = torch.randn(1, 12, 9)
    torch.testing.assert_close(model.decode(features), tiny().eval().decode(features))


@pytest.mark.parametrize(("value", "want"), [(0.0, 0.0), (None, 0.5), (0.3, 0.3)])
def test_layer_scale_zero_is_kept_and_none_is_the_default(value: float | None, want: float) -> None:
    backbone = ConvNeXtBackbone(ConvNeXtConfig(input_channels=3, dim=4, intermediate_dim=8, num_layers=2, layer_scale_init_value=value))
    assert float(backbone.blocks[0].gamma[0]) == pytest.approx(want)
    resnet = ResNetBackbone(ResNetConfig(input_channels=3, dim=4, num_blocks=1, layer_scale_init_value=value))
    assert float(resnet.blocks[0].gamma[0][0]) == pytest.approx(want if value is not None else 1 / 3)


@pytest.mark.parametrize("head", [ISTFTHead(ISTFTHeadConfig(dim=4, n_fft=16, hop_length=4)), IMDCTHead(IMDCTCosHeadConfig(dim=4, mdct_frame_len=16)),
                                  IMDCTHead(IMDCTSymExpHeadConfig(dim=4, mdct_frame_len=16))])
def test_an_extreme_input_has_a_finite_output_and_gradient(head: torch.nn.Module) -> None:
    hidden = (1e4 * torch.randn(1, 6, 4)).requires_grad_()
    out = head(hidden, hidden)
    out.square().sum().backward()
    assert bool(torch.isfinite(out).all())
    assert hidden.grad is not None
    assert bool(torch.isfinite(hidden.grad).all())


def test_importing_neither_sets_threads_nor_loads_torchaudio() -> None:
    code = "import torch, sys; n = torch.get_num_threads(); from wavespike import Vocos; assert torch.get_num_threads() == n; assert 'torchaudio' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_symexp_weights_start_scaled_down_towards_high_frequencies() -> None:
    torch.manual_seed(0)
    plain = IMDCTHead(IMDCTSymExpHeadConfig(dim=64, mdct_frame_len=64))
    torch.manual_seed(0)
    scaled = IMDCTHead(IMDCTSymExpHeadConfig(dim=64, mdct_frame_len=64, sample_rate=24000))
    ratio = (scaled.out.weight / plain.out.weight).mean(1)
    assert float(ratio[0]) == pytest.approx(1.0)
    assert float(ratio[-1]) == pytest.approx(0.0)
    assert bool((ratio.diff() < 0).all())


def test_the_package_offers_vocos_as_upstream_does() -> None:
    assert wavespike.Vocos is Vocos
    for name in ("from_pretrained", "from_hparams", "decode", "codes_to_features", "forward"):
        assert callable(getattr(Vocos, name))
