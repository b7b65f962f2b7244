"""The folded steps are the model: same codes, same audio, any chunks, lost frames and missing levels included; in PyTorch and in ONNX Runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from wavespike.errors import BitstreamError, MissingDependencyError, UsageError
from wavespike.metrics.energy import energy
from wavespike.models.fourier_codec import FourierCodec, FourierCodecConfig
from wavespike.models.frame_codec import FrameCodec
from wavespike.models.source_filter_codec import SourceFilterCodec, SourceFilterCodecConfig
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.rvq import RVQConfig
from wavespike.nn.spiking import SpikingConvNeXtConfig
from wavespike.runtime import compiled, frame_codec
from wavespike.runtime.codec_files import decode_file, encode_file
from wavespike.runtime.frame_codec import frame_stream
from wavespike.runtime.live import stream_file
from wavespike.signal.files import read, write

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
ENGINES = ["torch", pytest.param("onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="needs the packages onnx and onnxruntime (extra export)"))]
COMPILED = pytest.param("compiled", marks=pytest.mark.skipif(not compiled.available(), reason="needs the package numba (extra events)"))
SIZE = {"dim": 8, "intermediate_dim": 16, "num_layers": 2, "causal": True}


def tiny(transform: str = "mdct", frame_length: int = 40, embed: int = 1, spiking: bool = False, beam: int = 1, **options: Any) -> FourierCodec:
    torch.manual_seed(0)
    features = 20 if transform == "mdct" else frame_length + 2
    decoder = SpikingConvNeXtConfig(input_channels=6, expansion_init_std=0.4, **SIZE) if spiking else ConvNeXtConfig(input_channels=6, **SIZE)
    model = FourierCodec(FourierCodecConfig(
        transform=transform, hop_length=20, frame_length=frame_length, encoder=ConvNeXtConfig(input_channels=features, embed_kernel_size=embed, **SIZE),
        quantizer=RVQConfig(dim=6, num_codebooks=3, codebook_size=16, beam=beam), decoder=decoder, **options)).eval()
    torch.nn.init.normal_(model.decoder.lost)
    return model


def voice(beam: int = 1, pitch_level: int = 1, **options: Any) -> SourceFilterCodec:
    torch.manual_seed(0)
    model = SourceFilterCodec(SourceFilterCodecConfig(
        hop_length=20, frame_length=40, subframes=2, crossfade=5, behind=15, filter_length=70, bands=6, low_bins=5, pitch_dim=8, pitch_layers=1, pitch_level=pitch_level,
        encoder=ConvNeXtConfig(input_channels=11, embed_kernel_size=1, **SIZE), quantizer=RVQConfig(dim=6, num_codebooks=3, codebook_size=16, beam=beam),
        **{"analysis_length": 80, "decoder": ConvNeXtConfig(input_channels=9, **SIZE), **options})).eval()
    torch.nn.init.normal_(model.decoder.lost)
    torch.nn.init.normal_(model.encoder.pitch.out.weight)
    return model


MODELS: dict[str, Callable[[], FrameCodec[Any]]] = {
    "mdct": tiny, "stft, overlap of half a hop": partial(tiny, transform="stft", frame_length=30, embed=7, compression=0.3), "no shortcut, beam": partial(tiny, shortcut=False, beam=3),
    "spiking decoder": partial(tiny, spiking=True), "source-filter": voice, "source-filter, beam, pitch last": partial(voice, beam=3, pitch_level=2),
    "source-filter, correlations": partial(voice, analysis_length=800, correlations=(40, 16)),
}


@pytest.mark.parametrize("engine", [*ENGINES, COMPILED])
@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
def test_frame_by_frame_is_the_offline_pass(make: Callable[[], FrameCodec[Any]], engine: str) -> None:
    model = make()
    if engine == "compiled":
        from wavespike.runtime.compiled.codec import suits

        if not suits(model):
            with pytest.raises(UsageError, match="source-filter codec with a beam of 1"):
                frame_stream(model, engine="compiled")
            return
    near = 3e-4 if engine == "compiled" else 1e-5  # its sines are those of another library, of angles in single precision
    audio = 0.3 * torch.randn(2, 1, 333)
    with torch.no_grad():
        codes, offline = model.encode(audio), model(audio)
    session = frame_stream(model, 2, engine=engine)
    assert session.engine == engine
    streamed = torch.cat([*(session.push(chunk) for chunk in audio.split(47, -1)), session.flush()], -1)
    assert torch.allclose(streamed, offline, atol=near * float(offline.abs().max()) + 1e-6)
    session = frame_stream(model, 2, 2, engine=engine)
    with torch.no_grad():
        assert torch.equal(torch.cat([*(session.encode(chunk) for chunk in audio.split(47, -1)), session.flush_codes()], -1), model.encode(audio, 2))
    missing = torch.rand(2, codes.shape[-1], generator=torch.Generator().manual_seed(1)) < 0.4
    session = frame_stream(model, 2, engine=engine)
    decoded = torch.cat([session.decode(codes[:, :2], missing), session.flush_audio()], -1)
    with torch.no_grad():
        want = model.decode(codes[:, :2], missing)
    assert torch.allclose(decoded, want, atol=near * float(want.abs().max()) + 1e-6)


@pytest.mark.skipif(not compiled.available(), reason="needs the package numba (extra events)")
def test_few_streams_of_a_codec_that_it_knows_run_in_compiled_code() -> None:
    assert frame_stream(voice()).engine == "compiled"
    assert frame_stream(voice(), 50).engine != "compiled"
    assert frame_stream(voice(beam=3)).engine != "compiled"


def test_without_onnx_runtime_pytorch_runs_and_a_wish_for_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(frame_codec.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    assert frame_stream(tiny()).engine == "torch"

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(frame_codec.importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match="export"):
        frame_stream(tiny(), engine="onnx")


def test_double_precision_stays_double() -> None:
    model = tiny().double()
    session = frame_stream(model)
    assert session.engine == "torch"
    assert session.push(torch.randn(1, 1, 100, dtype=torch.float64)).dtype == torch.float64


class TestFilesAndLive:
    @pytest.fixture
    def speech(self, tmp_path: Any) -> Any:
        samples = (0.2 * np.random.default_rng(0).standard_normal(5003)).astype(np.float32)
        return write(tmp_path / "in.wav", samples, 24000, "float")

    def test_a_file_is_as_long_as_before_and_equals_the_offline_pass(self, speech: Any, tmp_path: Any) -> None:
        model = tiny()
        coded = encode_file(model, speech, tmp_path / "a.wsc", model_name="tiny")
        decode_file(model, tmp_path / "a.wsc", tmp_path / "out.wav", model_name="tiny", sample_format="float")
        audio = torch.from_numpy(read(speech)[0])[None]
        with torch.no_grad():
            want = model(audio)[0].numpy()
        out = read(tmp_path / "out.wav")[0]
        assert coded.samples == 5003
        assert out.shape == want.shape
        assert np.allclose(out, want, atol=1e-5)

    def test_a_lost_block_goes_to_the_model_that_can_bridge_it(self, speech: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny()
        path = tmp_path / "a.wsc"
        monkeypatch.setattr("wavespike.runtime.codec_files.block_frames_for", lambda *sizes: 50)
        encode_file(model, speech, path, model_name="tiny")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(bytes(data))
        done = decode_file(model, path, tmp_path / "out.wav", model_name="tiny", sample_format="float")
        assert done.lost_blocks >= 1
        assert done.samples == 5003
        with torch.no_grad():
            codes = model.encode(torch.from_numpy(read(speech)[0])[None])
            out, whole = read(tmp_path / "out.wav")[0][0], model.decode(codes)[0, 0, :5003].numpy()
        changed = np.flatnonzero(~np.isclose(out, whole, atol=1e-5))
        first, frames = (changed[0] + model.edge) // 20 // 50 * 50, 50 * done.lost_blocks
        missing = torch.zeros(1, codes.shape[-1], dtype=torch.bool)
        missing[:, first : first + frames] = True
        with torch.no_grad():
            assert np.allclose(out, model.decode(codes, missing)[0, 0, :5003].numpy(), atol=1e-5)
        decode_file(model, path, tmp_path / "silent.wav", model_name="tiny", conceal="silence", sample_format="float")
        assert not np.allclose(read(tmp_path / "silent.wav")[0][0], out, atol=1e-5)

    def test_the_live_pipeline_gives_the_file_back_whole(self, speech: Any, tmp_path: Any) -> None:
        model = tiny()
        report = stream_file(model, speech, tmp_path / "out.wav", frame_samples=20, fast=True, sample_format="float")
        with torch.no_grad():
            want = model(torch.from_numpy(read(speech)[0])[None])[0].numpy()
        out = read(tmp_path / "out.wav")[0]
        assert out.shape == want.shape
        assert np.allclose(out, want, atol=1e-5)
        assert report.algorithmic_delay_ms == pytest.approx(1000 * 40 / 24000)


def test_a_codec_that_does_not_conceal_refuses_to(tmp_path: Any) -> None:
    from wavespike.models.audiodec import AudioDec, AudioDecConfig, DecoderConfig, EncoderConfig

    model = AudioDec(AudioDecConfig(sample_rate=24000, encoder=EncoderConfig(channels=2, ratios=(2,), strides=(4,)), decoder=DecoderConfig(channels=2, ratios=(2,), strides=(4,)),
                                    quantizer=RVQConfig(dim=4, num_codebooks=2, codebook_size=8))).eval()
    write(tmp_path / "in.wav", np.zeros(100, np.float32), 24000)
    encode_file(model, tmp_path / "in.wav", tmp_path / "a.wsc", model_name="tiny")
    with pytest.raises((UsageError, BitstreamError), match="does not conceal"):
        decode_file(model, tmp_path / "a.wsc", tmp_path / "out.wav", model_name="tiny", conceal="model")


@pytest.mark.parametrize("make", [partial(tiny, spiking=True), partial(voice, decoder=SpikingConvNeXtConfig(input_channels=9, expansion_init_std=0.4, **SIZE))], ids=["fourier", "source-filter"])
def test_a_spiking_decoder_is_counted_beside_its_dense_twin(make: Callable[[], FrameCodec[Any]]) -> None:
    model = make()
    report = energy(model, 0.3 * torch.randn(1, 400))
    facts = report.to_dict()
    assert facts["baseline"] == "dense twin"
    assert facts["operations"]["acs"] > 0
    assert facts["operations"]["acs"] > 4 * facts["baseline_operations"]["acs"]
    assert facts["baseline_operations"]["macs"] > facts["operations"]["macs"]
    assert facts["uncounted"] == {}
    assert any(0 < rate < 1 for rate in facts["rates"].values())
    twin = model.dense_twin()
    assert twin is not None
    assert twin.dense_twin() is None
