"""The filterbank is Kaldi's."""

import numpy as np
import pytest
import torch

from wavespike.errors import ConfigError, FeatureError
from wavespike.signal.filterbank import FilterbankConfig, filterbank, frame_count


@pytest.mark.parametrize(("rate", "bins"), [(16000, 40), (8000, 40), (16000, 23), (22050, 40)])
def test_it_agrees_with_kaldi_native_fbank(rate, bins):
    knf = pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed")
    audio = 0.2 * np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    audio += 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    options = knf.FbankOptions()
    options.frame_opts.dither, options.frame_opts.samp_freq, options.mel_opts.num_bins = 0, rate, bins
    oracle = knf.OnlineFbank(options)
    oracle.accept_waveform(rate, audio.tolist())
    oracle.input_finished()
    theirs = np.stack([oracle.get_frame(i) for i in range(oracle.num_frames_ready)])
    ours = filterbank(torch.from_numpy(audio)[None], FilterbankConfig(sample_rate=rate, num_mel_bins=bins))[0].T.numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-3


def test_frames_do_not_see_what_lies_outside_of_them():
    c = FilterbankConfig()
    audio = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    whole = filterbank(audio, c)
    assert whole.shape[2] == frame_count(4000, c) == 23
    torch.testing.assert_close(filterbank(audio[:, : 400 + 5 * 160], c), whole[:, :, :6])


def test_a_doubled_signal_is_log_4_louder():
    c = FilterbankConfig()
    audio = torch.randn(1, 1600, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(filterbank(2 * audio, c) - filterbank(audio, c), torch.full((1, 40, 8), 1.3862944), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_is_refused():
    with pytest.raises(FeatureError, match="400 samples"):
        filterbank(torch.zeros(1, 399), FilterbankConfig())
    with pytest.raises(ConfigError, match="high_freq_hz"):
        FilterbankConfig(sample_rate=8000, high_freq_hz=5000)
