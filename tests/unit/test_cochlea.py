"""The cochlea: places find their tones, spikes are seeded, independent of the batch, silent in silence, and quick."""

import time

import numpy as np
import pytest

from wavespike.errors import AudioError, ConfigError
from wavespike.signal.cochlea import CochleaConfig, bushy_cells, cochlea, hair_cells, loudest_rms, membrane, place_frequencies

CONFIG = CochleaConfig(channels=40)


def tone(hz, seconds=0.3, rate=16000):
    t = np.arange(int(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * hz * t).astype(np.float32)


@pytest.mark.parametrize("place", [3, 15, 25, 35])
def test_a_tone_moves_the_place_of_its_frequency_most(place):
    hz = place_frequencies(CONFIG)[place]
    peak = np.abs(membrane(tone(hz)[None], CONFIG)[2000:4000, 0]).max(0)
    assert peak.argmax() == place
    assert peak[place] == pytest.approx(0.5, rel=0.03)  # gain 1 at its own place


def test_low_tones_answer_at_low_places_and_spikes_keep_the_phase():
    (times, units), = cochlea(tone(220, 0.5)[None], CONFIG)
    assert len(times) > 50
    assert abs(np.median(place_frequencies(CONFIG)[units]) - 220) < 120
    busiest = np.bincount(units).argmax()
    late = times[(units == busiest) & (times > 0.02)]
    assert len(late) >= 5
    assert np.abs(np.exp(2j * np.pi * 220 * late).mean()) > 0.8  # vector strength: 1 is perfect phase locking, 0 none


def test_hair_cells_rest_adapt_and_recover():
    still = hair_cells(np.zeros((400, 1, 1), np.float32), 16000)[:, 0, 0]
    assert still.std() < 0.01 * still.mean()  # starts at rest
    loud = np.zeros((8000, 1, 1), np.float32)
    loud[800:5600] = 300.0
    rate = hair_cells(loud, 16000)[:, 0, 0]
    assert rate[800:900].max() > 3 * rate[5000:5600].mean()  # adapts
    assert rate[5650:5800].mean() < still.mean()  # depressed after the sound
    assert rate.min() >= 0


def test_bushy_cells_rest_between_spikes():
    spikes = bushy_cells(np.full((1600, 1, 1), 5000.0, np.float32), CONFIG, [0])[:, 0, 0]
    assert np.diff(spikes.nonzero()[0]).min() >= 16  # 1 ms
    assert spikes.sum() > 20


def test_spikes_are_a_function_of_the_seed():
    audio = tone(400)[None]
    (a, b), (c, _), (d, _) = cochlea(audio, CONFIG, [3])[0], cochlea(audio, CONFIG, [3])[0], cochlea(audio, CONFIG, [4])[0]
    assert np.array_equal(a, c)
    assert not np.array_equal(a, d)
    assert np.all(np.diff(a) >= 0)
    assert b.max() < 40


def test_a_clip_does_not_depend_on_its_neighbours():
    one, two = tone(400), tone(1000)
    alone, = cochlea(one[None], CONFIG, [7])
    together = cochlea(np.stack([two, one]), CONFIG, [1, 7])[1]
    assert np.array_equal(alone[0], together[0])
    assert np.array_equal(alone[1], together[1])


def test_silence_is_nearly_silent():
    (times, _), = cochlea(np.zeros((1, 16000), np.float32), CochleaConfig(channels=70))
    assert len(times) / 70 < 0.5


def test_loudness_is_taken_out_and_measured_where_it_is_loudest():
    audio = np.concatenate([np.zeros(3000, np.float32), tone(300, 0.1), np.zeros(3000, np.float32)])
    assert loudest_rms(audio[None], 16000)[0] == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    quiet, loud = cochlea(0.1 * audio[None], CONFIG)[0], cochlea(audio[None], CONFIG)[0]
    assert len(quiet[0]) == pytest.approx(len(loud[0]), rel=0.05)


def test_a_second_of_sound_takes_less_than_a_second():
    config = CochleaConfig(channels=70)
    audio = 0.1 * np.random.default_rng(0).standard_normal((4, 16000)).astype(np.float32)
    cochlea(audio[:, :1600], config)
    start = time.process_time()
    cochlea(audio, config)
    assert (time.process_time() - start) / 4 < 0.9  # 20 times faster than 18 s a second


def test_what_cannot_be_is_refused():
    with pytest.raises(AudioError, match="clips"):
        cochlea(np.zeros(100), CONFIG)
    with pytest.raises(AudioError, match="finite"):
        cochlea(np.full((1, 100), np.nan), CONFIG)
    with pytest.raises(ConfigError, match="high_hz"):
        CochleaConfig(sample_rate=12000)
