"""Laws of EnCodec features: codes are summed vectors, a bandwidth is its first codebooks, Bark's tokens become speech. Tiny random models, no download."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from wavespike.errors import ConfigError, FeatureError, UsageError
from wavespike.models.registry import build
from wavespike.models.vocos import Vocos

TINY = {"type": "encodec", "bandwidths": [1.5, 3.0, 6.0], "codebook_dim": 8}


def tiny(**features: Any) -> Vocos:
    torch.manual_seed(0)
    model = build({
        "type": "vocos",
        "features": {**TINY, **features},
        "backbone": {"type": "convnext", "input_channels": 8, "dim": 8, "intermediate_dim": 16, "num_layers": 1, "adanorm_num_embeddings": 3},
        "head": {"type": "istft", "dim": 8, "n_fft": 1280, "hop_length": 320, "padding": "same"},
    }).eval()
    assert isinstance(model, Vocos)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def encodec() -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra: encodec)")
    torch.manual_seed(1)
    config = transformers.EncodecConfig(hidden_size=8, num_filters=4, num_lstm_layers=1, target_bandwidths=[1.5, 3.0, 6.0])
    model = transformers.EncodecModel(config)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    return model


def test_features_are_the_sum_of_codebook_vectors() -> None:
    model = tiny()
    codes = torch.randint(0, 1024, (3, 2, 5))
    table = model.feature_extractor.codebook_weights.reshape(8, 1024, 8)
    want = sum(table[k][codes[k]] for k in range(3)).transpose(1, 2)
    torch.testing.assert_close(model.codes_to_features(codes), want)


def test_upstreams_readme_runs() -> None:
    model = tiny()
    features = model.codes_to_features(torch.randint(low=0, high=1024, size=(8, 200)))
    audio = model.decode(features, bandwidth_id=torch.tensor([2]))
    assert audio.numpy().shape == (1, 200 * 320)


def test_conditions_are_per_item() -> None:
    model = tiny()
    features = torch.randn(3, 8, 12)
    together = model.decode(features, bandwidth_id=torch.tensor([2, 0, 1]))
    for item, condition in enumerate((2, 0, 1)):
        torch.testing.assert_close(together[item : item + 1], model.decode(features[item : item + 1], bandwidth_id=torch.tensor([condition])))
    assert not torch.allclose(together[0], model.decode(features, bandwidth_id=torch.tensor([0]))[0])


def test_audio_is_encoded_at_each_items_own_bandwidth() -> None:
    model, codec = tiny(), encodec()
    model.feature_extractor.attach(codec)
    model.feature_extractor.copy_codebooks()
    audio = 0.1 * torch.randn(2, 3200)
    features = model.feature_extractor(audio, bandwidth_id=torch.tensor([2, 0]))
    for item, bandwidth in enumerate((6.0, 1.5)):
        codes = codec.encode(audio[item : item + 1, None], bandwidth=bandwidth).audio_codes[0].transpose(0, 1)
        assert codes.shape[0] == (8, 2)[item]
        want = codec.quantizer.decode(codes)
        torch.testing.assert_close(features[item : item + 1], want, atol=1e-4, rtol=1e-4)
    out = model(audio, bandwidth_id=torch.tensor([2, 0]))
    assert out.shape == audio.shape


def test_encodec_is_no_part_of_the_checkpoint() -> None:
    model = tiny()
    before = set(model.state_dict())
    model.feature_extractor.attach(encodec())
    assert set(model.state_dict()) == before
    assert "feature_extractor.codebook_weights" in before


def test_codebooks_are_trained_only_when_asked() -> None:
    assert not tiny().feature_extractor.codebook_weights.requires_grad
    assert tiny(train_codebooks=True).feature_extractor.codebook_weights.requires_grad


def test_wrong_codes_and_ids_are_refused() -> None:
    model = tiny()
    for codes in (torch.zeros(9, 1, 4, dtype=torch.int64), torch.full((2, 1, 4), 1024), torch.zeros(2, 1, 4), torch.full((1, 4), -1)):
        with pytest.raises(FeatureError):
            model.codes_to_features(codes)
    for bad in (torch.tensor([3]), torch.tensor([0, 1, 2]), torch.tensor([0.5]), None):
        with pytest.raises(UsageError):
            model.decode(torch.randn(2, 8, 4), bandwidth_id=bad)
    with pytest.raises(UsageError, match="bandwidth_id"):
        model.features(torch.zeros(1, 3200))
    with pytest.raises(UsageError, match="mel features for block-wise analysis"):
        model.feature_stream()


def test_the_48_khz_encodec_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="encodec_24khz"):
        tiny(encodec_model="encodec_48khz")


def tiny_bark() -> Any:
    pytest.importorskip("transformers", reason="transformers is not installed (extra: encodec)")
    from transformers import BarkConfig, BarkModel, EncodecConfig, GenerationConfig
    from transformers.models.bark.generation_configuration_bark import (
        BarkCoarseGenerationConfig,
        BarkFineGenerationConfig,
        BarkSemanticGenerationConfig,
    )

    torch.manual_seed(2)
    size = {"num_layers": 1, "num_heads": 1, "hidden_size": 4, "block_size": 1024, "dropout": 0.0}
    config = BarkConfig(
        semantic_config={**size, "input_vocab_size": 129600, "output_vocab_size": 10048},
        coarse_acoustics_config={**size, "input_vocab_size": 12096, "output_vocab_size": 12096},
        fine_acoustics_config={**size, "input_vocab_size": 1056, "output_vocab_size": 1056, "n_codes_total": 8, "n_codes_given": 1},
        codec_config=EncodecConfig(hidden_size=8, num_filters=4, num_lstm_layers=1, target_bandwidths=[1.5, 3.0, 6.0]).to_dict(),
    )
    bark = BarkModel(config).eval()
    bark.generation_config = GenerationConfig(  # plain dicts inside, as in the published generation_config.json
        semantic_config=BarkSemanticGenerationConfig().to_dict(),
        coarse_acoustics_config=BarkCoarseGenerationConfig().to_dict(),
        fine_acoustics_config=BarkFineGenerationConfig(max_fine_history_length=16, max_fine_input_length=32).to_dict(),
        codebook_size=1024,
    )
    return bark


def test_barks_tokens_become_speech() -> None:
    path = Path(__file__).parents[2] / "examples" / "bark_tokens.py"
    spec = importlib.util.spec_from_file_location("bark_tokens", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    bark, vocoder = tiny_bark(), tiny()
    inputs = {"input_ids": torch.randint(0, 100, (1, 256)), "semantic_max_new_tokens": 6, "fine_temperature": None}
    codes = example.bark_tokens(bark, **inputs)
    assert codes.shape[:2] == (8, 1)
    assert codes.shape[2] > 0
    assert "codec_decode" not in vars(bark)  # Bark is as it was
    assert int(example.bandwidth_of(vocoder, 8)) == 2
    audio = example.speak(bark, vocoder, **inputs)
    assert audio.shape == (1, codes.shape[2] * 320)
    assert bool(torch.isfinite(audio).all())
