"""The live pipeline: what comes out is what the codec gives offline, queues are bounded, losses are counted, a card that goes ends the run cleanly."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from wavespike.errors import AudioError, UsageError
from wavespike.models.audiodec import AudioDec, AudioDecConfig, DecoderConfig, EncoderConfig
from wavespike.nn.rvq import RVQConfig
from wavespike.runtime.live import DeviceGone, Pipeline, list_devices, stream_devices, stream_file

RATE = 8000


@pytest.fixture(scope="module")
def codec() -> AudioDec:
    torch.manual_seed(0)
    return AudioDec(AudioDecConfig(
        sample_rate=RATE, quantizer=RVQConfig(dim=8, num_codebooks=2, codebook_size=16), activate=True,
        encoder=EncoderConfig(channels=2, strides=(4, 10), ratios=(2, 4)), decoder=DecoderConfig(channels=2, strides=(10, 4), ratios=(4, 2)))).eval()


def speech(path: Path, seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    audio = 0.3 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels)).astype(np.float32)
    soundfile.write(path, audio, rate, subtype="FLOAT")
    return audio


@pytest.mark.parametrize(("fast", "frame"), [(True, 40), (True, 77), (False, 400)])
def test_a_file_comes_out_as_the_offline_reconstruction(codec, tmp_path, fast, frame):
    audio = speech(tmp_path / "in.wav", 0.5)
    report = stream_file(codec, tmp_path / "in.wav", tmp_path / "out.wav", frame_samples=frame, fast=fast, sample_format="float", queue_frames=100)
    out, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    with torch.no_grad():
        offline = codec(torch.from_numpy(audio.T.copy())[None])[0, 0].numpy()
    assert np.abs(out - offline).max() < 1e-4
    assert report.frames == -(-4000 // frame)
    assert report.dropped_frames == 0
    assert report.algorithmic_delay_ms == 1000 * frame / RATE
    assert (report.end_to_end_ms is None) == fast
    if not fast:
        assert report.end_to_end_ms.p50 >= report.algorithmic_delay_ms
        assert report.end_to_end_ms.p50 <= report.end_to_end_ms.p95 <= report.end_to_end_ms.p99


def test_real_time_pace_takes_real_time(codec, tmp_path):
    speech(tmp_path / "in.wav", 0.6)
    start = time.perf_counter()
    stream_file(codec, tmp_path / "in.wav", tmp_path / "out.wav", frame_samples=400)
    assert time.perf_counter() - start > 0.55


def test_another_rate_is_resampled_and_other_channels_are_refused(codec, tmp_path):
    speech(tmp_path / "in.wav", 0.3, rate=16000)
    stream_file(codec, tmp_path / "in.wav", tmp_path / "out.wav", frame_samples=40, fast=True)
    assert soundfile.info(tmp_path / "out.wav").frames == 2400
    speech(tmp_path / "stereo.wav", 0.1, channels=2)
    with pytest.raises(AudioError, match="expected 1 channels"):
        stream_file(codec, tmp_path / "stereo.wav", tmp_path / "s.wav", frame_samples=40, fast=True)
    assert not (tmp_path / "s.wav").exists()


def test_a_full_queue_drops_and_counts_instead_of_growing(codec):
    pipeline = Pipeline(codec, 40, queue_frames=2)
    gate = threading.Event()
    slow, pipeline._session.encode = pipeline._session.encode, lambda x: (gate.wait(5), slow(x))[1]
    fed = [pipeline.feed(np.zeros((1, 40), np.float32)) for _ in range(20)]
    gate.set()
    pipeline.close()
    report = pipeline.report(paced=True)
    assert 2 <= sum(fed) <= 4
    assert report.dropped_frames == 20 - sum(fed)
    assert report.drop_rate == report.dropped_frames / 20


def test_output_that_is_late_is_silence_and_counted(codec):
    pipeline = Pipeline(codec, 40)
    assert np.array_equal(pipeline.take(100), np.zeros((1, 100)))
    pipeline.feed(np.ones((1, 40), np.float32))
    pipeline.close()
    assert np.abs(pipeline.take(60)[:, :40]).max() > 0
    assert pipeline.report(paced=True).silent_samples == 120


def test_an_error_in_a_worker_reaches_the_caller(codec, tmp_path):
    pipeline = Pipeline(codec, 40)
    pipeline.feed(np.full((1, 40), np.nan, np.float32))
    with pytest.raises(AudioError, match="NaN"):
        pipeline.close()
    with pytest.raises(UsageError, match="at least 1"):
        Pipeline(codec, 0)


class FakeCard:
    """A sound card in software: calls back with a ramp every frame, and may be pulled out after some frames."""

    def __init__(self, gone_after: int | None = None):
        self.gone_after, self.played = gone_after, []

    def query_devices(self):
        return [{"name": "fake", "max_input_channels": 1, "max_output_channels": 1, "default_samplerate": float(RATE)}]

    def Stream(self, *, samplerate, blocksize, device, channels, dtype, latency, callback):
        if device[0] == "missing":
            raise ValueError("no input device matching 'missing'")
        card = self

        class Running:
            active = True

            def __enter__(self):
                self.thread = threading.Thread(target=self.run)
                self.thread.start()
                return self

            def run(self):
                heard = 0
                while self.active:
                    out = np.full((blocksize, channels[1]), np.nan, np.float32)
                    callback(np.full((blocksize, channels[0]), 0.1, np.float32), out, blocksize, None, None)
                    card.played.append(out)
                    heard += 1
                    if card.gone_after is not None and heard >= card.gone_after:
                        self.active = False
                    time.sleep(blocksize / samplerate)

            def __exit__(self, *_):
                self.active = False
                self.thread.join()

        return Running()


def test_a_duplex_session_plays_what_it_hears_and_dumps_both(codec, tmp_path):
    card = FakeCard()
    report = stream_devices(codec, None, None, frame_samples=80, seconds=0.4, backend=card, dump_input=tmp_path / "in.wav", dump_output=tmp_path / "out.wav")
    played = np.concatenate(card.played)
    assert np.isfinite(played).all()
    assert np.abs(played).max() > 0
    assert report.frames == len(card.played)
    heard, said = soundfile.read(tmp_path / "in.wav")[0], soundfile.read(tmp_path / "out.wav")[0]
    assert len(heard) == len(said) == len(played)
    assert np.abs(heard - 0.1).max() < 1e-3
    assert np.abs(said - played[:, 0]).max() < 1e-3


def test_a_card_that_goes_ends_the_run_with_a_message_and_closed_files(codec, tmp_path):
    with pytest.raises(DeviceGone, match="it stopped") as caught:
        stream_devices(codec, None, None, frame_samples=80, backend=FakeCard(gone_after=5), dump_input=tmp_path / "in.wav")
    assert caught.value.report.frames == 5
    assert soundfile.info(tmp_path / "in.wav").frames == 400


def test_a_card_that_is_not_there_is_a_usage_error(codec):
    with pytest.raises(UsageError, match="list-devices"):
        stream_devices(codec, "missing", None, frame_samples=80, backend=FakeCard())
    assert list_devices(FakeCard()) == [{"index": 0, "name": "fake", "inputs": 1, "outputs": 1, "rate_hz": float(RATE)}]


def missing_for_a_virtual_card() -> str:
    absent = [name for name in ("pulseaudio", "pactl", "paplay", "parecord") if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian: pulseaudio pulseaudio-utils libasound2-plugins libportaudio2)"
    if importlib.util.find_spec("sounddevice") is None:
        return "needs the package sounddevice (extra live)"
    return ""


@pytest.mark.skipif(bool(missing_for_a_virtual_card()), reason=missing_for_a_virtual_card() or "-")
def test_end_to_end_over_a_virtual_sound_card(codec, tmp_path):
    """paplay -> null sink -> its monitor -> ALSA -> PortAudio -> codec -> second null sink -> parecord: what is recorded is not silence."""
    import wavespike

    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    (tmp_path / "asound.conf").write_text("pcm.!default { type pulse }\nctl.!default { type pulse }\n")
    env = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "HOME": str(tmp_path), "PULSE_SERVER": f"unix:{runtime}/pulse.sock"}
    env["ALSA_CONFIG_PATH"] = "/usr/share/alsa/alsa.conf"
    shutil.copy(tmp_path / "asound.conf", tmp_path / ".asoundrc")
    server = subprocess.Popen(
        ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", f"--load=module-native-protocol-unix socket={runtime}/pulse.sock auth-anonymous=1",
         "--load=module-null-sink sink_name=voice", "--load=module-null-sink sink_name=speaker"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    helpers = [server]
    try:
        for _ in range(50):
            time.sleep(0.1)
            if subprocess.run(["pactl", "info"], env=env, capture_output=True, check=False).returncode == 0:
                break
        else:
            pytest.skip("the virtual sound card (pulseaudio) does not start here")
        env.update(PULSE_SINK="speaker", PULSE_SOURCE="voice.monitor")
        wavespike.save(codec, tmp_path / "toy")
        soundfile.write(tmp_path / "voice.wav", 0.3 * np.random.default_rng(0).standard_normal(RATE * 20), RATE)
        helpers.append(subprocess.Popen(["paplay", "--device=voice", str(tmp_path / "voice.wav")], env=env))
        helpers.append(subprocess.Popen(["parecord", "--device=speaker.monitor", "--file-format=wav", str(tmp_path / "heard.wav")], env=env))
        done = subprocess.run(
            [sys.executable, "-m", "wavespike", "stream", "--model", str(tmp_path / "toy"), "--input-device", "default", "--output-device", "default",
             "--frame-samples", "400", "--seconds", "5", "--dump-input", str(tmp_path / "in.wav"), "--dump-output", str(tmp_path / "out.wav")],
            env=env, capture_output=True, text=True, check=False, timeout=120)
        if "PortAudio" in done.stderr and done.returncode:
            pytest.skip(f"PortAudio cannot open the virtual sound card here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        assert "end to end" in done.stdout
    finally:
        for helper in reversed(helpers):
            helper.terminate()
            helper.wait(timeout=10)
    heard, _ = soundfile.read(tmp_path / "heard.wav")
    said, _ = soundfile.read(tmp_path / "out.wav")
    microphone, _ = soundfile.read(tmp_path / "in.wav")
    assert len(microphone) > RATE // 4
    assert np.abs(microphone).max() > 0.05
    assert np.abs(said).max() > 1e-3
    assert np.abs(heard).max() > 1e-3
