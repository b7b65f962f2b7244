"""What the original AudioDec computed from these checkpoints (random weights, its own file format) comes out here."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import wavespike
from wavespike.errors import CheckpointError, UsageError
from wavespike.hub.importers.audiodec import RELEASED
from wavespike.models.audiodec import AudioDec, AudioDecConfig
from wavespike.models.hifigan import HiFiGAN, HiFiGANConfig, HiFiGANGenerator, read_statistics

CASES = Path(__file__).parent / "audiodec"
AUTOENCODERS = ["symAD", "symAAD", "symAD_c16_hop320", "symAD_stereo"]
VOCODERS = ["vocoder_v0", "vocoder_v1", "vocoder_v2"]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("case", AUTOENCODERS)
def test_offline_latent_quantised_and_audio_are_upstreams(case):
    codec, io = wavespike.load(CASES / case), load_file(CASES / case / "io.safetensors")
    with torch.no_grad():
        assert relative(codec.latents(io["audio_in"]), io["latent"]) < 1e-4
        assert relative(codec.quantize(io["audio_in"]).values, io["quantized"]) < 1e-4
        assert relative(codec(io["audio_in"]), io["audio_out"]) < 1e-4


@pytest.mark.parametrize("case", AUTOENCODERS)
def test_streams_from_zeroed_and_from_warmed_buffers_are_upstreams(case):
    codec, io = wavespike.load(CASES / case), load_file(CASES / case / "io.safetensors")
    chunks = io["audio_in"].split(3 * codec.hop, -1)
    with codec.stream(start="zeros") as session:
        codes = [session.encode(chunk) for chunk in chunks]
        audio = [session.decode(c) for c in codes]
    offset = codec.codebook_size * torch.arange(codec.num_codebooks)[:, None]  # upstream's streaming codes carry the level
    assert torch.equal(torch.cat(codes, -1)[0] + offset, io["stream_codes"])
    assert relative(torch.cat(audio, -1), io["stream_audio_out"]) < 1e-4
    with codec.stream(start="warm") as session:
        assert relative(torch.cat([session.push(chunk) for chunk in chunks], -1), io["warm_stream_audio_out"]) < 1e-4


@pytest.mark.parametrize("case", VOCODERS)
def test_vocoders_of_quantised_latents_are_upstreams(case):
    vocoder, io = wavespike.load(CASES / case), load_file(CASES / case / "io.safetensors")
    latents = io["quantized"].transpose(1, 2)
    with torch.no_grad():
        assert relative(vocoder.decode(latents), io["audio_out"][:, 0]) < 1e-4
    with vocoder.stream(start="zeros") as session:
        assert relative(torch.cat([session.push(c) for c in latents.split(3, -1)], -1), io["stream_audio_out"][:, 0]) < 1e-4
    mean, scale = read_statistics(CASES / case / "stats.npy")
    assert torch.equal(mean, vocoder.generator.mean)
    assert torch.equal(scale, vocoder.generator.scale)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_are_the_published_ones():
    codec = AudioDec(AudioDecConfig())
    assert (count(codec.encoder), count(codec.decoder)) == (3_806_368, 4_035_264)
    v0 = HiFiGANConfig(resblock_kernel_sizes=(3, 7, 11), resblock_dilations=((1, 3, 5),) * 3, groups=1)
    assert count(HiFiGANGenerator(v0)) == 12_932_610
    assert count(HiFiGANGenerator(HiFiGANConfig())) == 19_461_090
    assert count(HiFiGANGenerator(HiFiGANConfig(resblock_kernel_sizes=(3,)))) == 6_927_330
    assert codec.bitrate == 12800
    assert codec.hop == 300


def test_an_autoencoder_joins_a_vocoder_and_the_codec_survives_a_save(tmp_path):
    codec = wavespike.load(CASES / "symAD", decoder=CASES / "vocoder_v1")
    vocoder = wavespike.load(CASES / "vocoder_v1")
    audio = load_file(CASES / "symAD" / "io.safetensors")["audio_in"]
    with torch.no_grad():
        quantised = codec.quantize(audio).values
        assert relative(codec(audio)[:, 0], vocoder.decode(quantised)) < 1e-4
    wavespike.save(codec, tmp_path / "joined")
    again = wavespike.load(tmp_path / "joined")
    with torch.no_grad():
        assert torch.equal(again(audio), codec(audio))


def test_a_released_name_finds_its_encoder_and_decoder_below_exp(tmp_path):
    assert len(RELEASED) == 11
    for (case, target) in (("symAD", RELEASED["vctk_v1"][0]), ("vocoder_v1", RELEASED["vctk_v1"][1])):
        (tmp_path / target).parent.mkdir(parents=True)
        shutil.copy(next((CASES / case).glob("*.pkl")), tmp_path / target)
        shutil.copy(CASES / case / "config.yml", (tmp_path / target).parent)
    codec = wavespike.load(tmp_path / "vctk_v1")
    assert isinstance(codec.decoder, HiFiGANGenerator)
    with pytest.raises(CheckpointError, match=r"checkpoint-700000steps"):
        wavespike.load(tmp_path / "vctk_sym")


def test_batch_normalised_projector_imports_and_streams(tmp_path):
    """`conv1d_bn` is a sequence of convolution and norm in upstream's names, and has no streaming path there."""
    data = torch.load(next((CASES / "symAD").glob("*.pkl")), weights_only=True)
    state = data["model"]["generator"]
    state["projector.project.0.conv.weight"] = state.pop("projector.project.conv.weight")
    state.pop("projector.project.pad_buffer")
    norm = {"weight": torch.rand(16) + 0.5, "bias": torch.randn(16), "running_mean": torch.randn(16), "running_var": torch.rand(16) + 0.5}
    state.update({f"projector.project.1.{k}": v for k, v in norm.items()}, **{"projector.project.1.num_batches_tracked": torch.tensor(7)})
    torch.save(data, tmp_path / "checkpoint-10steps.pkl")
    config = yaml.safe_load((CASES / "symAD" / "config.yml").read_text())
    config["generator_params"]["projector"] = "conv1d_bn"
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    codec, plain = wavespike.load(tmp_path), wavespike.load(CASES / "symAD")
    audio = torch.randn(2, 1, 2000) * 0.1
    with torch.no_grad():
        expected = (plain.latents(audio) - norm["running_mean"][:, None]) / torch.sqrt(norm["running_var"][:, None] + 1e-5)
        expected = expected * norm["weight"][:, None] + norm["bias"][:, None]
        assert torch.allclose(codec.latents(audio), expected, atol=1e-5)
        offline = codec(audio)
    with codec.stream(batch_size=2) as session:
        streamed = torch.cat([session.push(c) for c in audio.split(333, -1)], -1)
    assert relative(streamed, offline) < 1e-4


class TestBadCheckpoints:
    def copy(self, tmp_path, case="symAD"):
        for name in ("config.yml", next((CASES / case).glob("*.pkl")).name):
            shutil.copy(CASES / case / name, tmp_path / name)
        return tmp_path

    def test_a_pickle_with_code_is_refused(self, tmp_path):
        folder = self.copy(tmp_path)
        path = next(folder.glob("*.pkl"))
        path.write_bytes(pickle.dumps({"model": {"generator": print}}))
        with pytest.raises(CheckpointError, match="could run code"):
            wavespike.load(folder)

    def test_a_truncated_file_is_refused(self, tmp_path):
        folder = self.copy(tmp_path)
        path = next(folder.glob("*.pkl"))
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(CheckpointError, match="damaged"):
            wavespike.load(folder)

    @pytest.mark.parametrize(("change", "message"), [
        ({"mode": "sideways"}, "mode: expected causal or noncausal"),
        ({"encode_chanels": 4}, "did you mean 'encode_channels'"),
        ({"codebook_num": 9}, "missing"),
        ({"code_dim": 17}, "shape"),
    ])
    def test_a_config_that_does_not_fit_is_refused_by_name(self, tmp_path, change, message):
        folder = self.copy(tmp_path)
        config = yaml.safe_load((folder / "config.yml").read_text())
        config["generator_params"].update(change)
        (folder / "config.yml").write_text(yaml.safe_dump(config))
        with pytest.raises(CheckpointError, match=message):
            wavespike.load(folder)

    def test_a_config_that_names_code_is_refused(self, tmp_path):
        folder = self.copy(tmp_path)
        (folder / "config.yml").write_text("sampling_rate: !!python/object/apply:os.getcwd []\n")
        with pytest.raises(CheckpointError, match="plain YAML"):
            wavespike.load(folder)

    def test_a_vocoder_cannot_be_the_encoder(self):
        with pytest.raises(UsageError, match="autoencoder"):
            wavespike.load(CASES / "vocoder_v1", decoder=CASES / "symAD")

    def test_statistics_of_another_dimension_are_refused(self):
        vocoder = HiFiGAN(HiFiGANConfig(in_channels=8, channels=16))
        with pytest.raises(CheckpointError, match="8 dimensions"):
            vocoder.generator.set_statistics(torch.zeros(9), torch.ones(9))
