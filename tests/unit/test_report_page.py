"""Laws of the report: one file that holds everything, true pictures and sound, and a page that loads, plays, sorts and fits a phone (headless Chromium)."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from wavespike.errors import AudioError
from wavespike.metrics.evaluation import Evaluation, Settings, evaluate
from wavespike.metrics.systems import Made, System
from wavespike.signal.files import write
from wavespike.signal.resample import Samples
from wavespike.view.report import audio_address, page_data, palette_png, spectrogram_png, worst_first, write_report

RATE = 16000


class Noisy(System):
    """The input with noise that grows with the file's number; fails at `bad`."""

    parameters = 1000
    in_process = False  # a name that no other process can open

    def __init__(self, name: str, level: float, kind: str = "vocoder", bad: str = ""):
        self.name, self.level, self.kind, self.bad = name, level, kind, bad

    def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
        if path.stem == self.bad:
            raise AudioError("</script><script>document.title='broken'</script>")
        noise = self.level * int(path.stem) * np.random.default_rng(0).normal(size=audio.size)
        return Made((audio + noise).astype(np.float32), rate_hz, 700 * (1 + len(self.name)) if self.kind == "codec" else None)

    def identity(self, path: Path | None = None) -> str:
        return self.name

    def energy(self, audio: Samples, rate_hz: int) -> dict[str, Any] | None:
        return {"millijoules_per_second": 100 * self.level, "technology": "45nm", "rates": {}, "uncounted": {}, "published_ratio": None, "ratio": None}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(1)
    t = np.arange(2 * RATE) / RATE
    for i in (1, 2, 3):
        write(folder / f"{i}.wav", 0.2 * np.sin(2 * np.pi * 220 * i * t).astype(np.float32) + 0.001 * rng.normal(size=t.size).astype(np.float32), RATE)
    (folder / "4.wav").write_text("no audio")
    systems: dict[str, System] = {"good": Noisy("good", 0.001), "bad & <b>worse": Noisy("bad", 0.03, bad="2"), "a/coder": Noisy("a/coder", 0.01, "codec")}
    return evaluate(systems, [folder / f"{i}.wav" for i in (1, 2, 3, 4)], Settings(metrics=["mel_l1", "lsd", "si_sdr"], costs=True), data=str(folder))


@pytest.fixture(scope="module")
def page(found: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(found, tmp_path_factory.mktemp("page"), files=2, command=["wavespike", "eval"])


def test_the_page_is_one_file_that_asks_no_network(page: Path, found: Evaluation) -> None:
    html = page.read_text(encoding="utf-8")
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)""", html)
    assert all(a.startswith(("data:", "#")) for a in addresses), addresses
    assert "default-src 'none'" in html
    assert sorted(p.name for p in page.parent.iterdir()) == ["index.html", "results.json"]
    assert json.loads((page.parent / "results.json").read_text()) == json.loads(json.dumps(found.as_dict()))
    assert "</script><script>document" not in html  # data is never markup
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])  # type: ignore[index]
    assert len(data["players"]) == 2
    assert [s["label"] for s in data["systems"]][::2] == ["good", "coder"]


def test_worst_files_come_first_and_failed_ones_before_all(found: Evaluation) -> None:
    names = list(found.seconds)
    assert worst_first(found, "mel_l1") == names[::-1]  # the noise grows with the number
    assert worst_first(found, None) == names
    data = page_data(found, files=1)
    assert [p["label"] for p in data["players"]] == ["3.wav"]
    assert data["players"][0]["systems"]["good"]["audio"].startswith("data:audio/mpeg;base64,")
    assert page_data(found, files=0)["players"] == []
    flipped = Evaluation(**{**vars(found), "results": dict(reversed(found.results.items()))})
    flipped.results = {"bad": found.results["bad & <b>worse"], **found.results}
    assert Path(worst_first(flipped, "lsd")[0]).stem == "2"


def test_what_failed_is_said_on_the_page(found: Evaluation) -> None:
    data = page_data(found, files=3)
    said = " ".join(data["alerts"])
    assert "1 file could not be used" in said
    assert "mel L1 in 1, LSD in 1, SI-SDR in 1 of 3 files" in said
    player = next(p for p in data["players"] if p["label"] == "2.wav")
    assert player["systems"]["bad & <b>worse"]["audio"] is None
    assert player["systems"]["good"]["audio"]


@pytest.mark.parametrize(("kind", "rate_hz", "held_hz"), [("mp3", 24000, 24000), ("flac", 22050, 22050), ("opus", 22050, 24000), ("mp3", 96000, 48000)])
def test_embedded_audio_is_the_audio(kind: Any, rate_hz: int, held_hz: int) -> None:
    t = np.arange(rate_hz) / rate_hz
    tone = 0.3 * np.sin(2 * np.pi * 440 * t).astype(np.float32)
    address = audio_address(tone, rate_hz, kind)
    got, own_hz = soundfile.read(io.BytesIO(base64.b64decode(address.split(",")[1])))
    assert own_hz in (held_hz, 48000 if kind == "opus" else held_hz)
    assert got.size / own_hz == pytest.approx(1.0, abs=0.06)
    spectrum = np.abs(np.fft.rfft(got[: own_hz // 2]))
    assert int(np.argmax(spectrum)) * 2 == 440
    assert np.std(got[own_hz // 10 : own_hz // 2]) == pytest.approx(0.3 / np.sqrt(2), rel=0.02)


def test_png_pictures_hold_the_indices_and_the_colours() -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 5
    palette = np.arange(15, dtype=np.uint8).reshape(5, 3)
    png = palette_png(indices, palette)
    parts = {}
    at = 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        parts[kind] = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + parts[kind])
        at += 12 + length
    assert struct.unpack(">IIBB", parts[b"IHDR"][:10]) == (4, 3, 8, 3)
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(3, 5)
    np.testing.assert_array_equal(rows[:, 1:], indices)
    assert parts[b"PLTE"] == palette.tobytes()


@pytest.mark.parametrize(("seconds", "rate_hz"), [(0.01, 8000), (1.0, 24000), (40.0, 48000)])
def test_spectrograms_of_any_length_are_small_and_show_where_the_tone_is(seconds: float, rate_hz: int) -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow not installed")
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    png = spectrogram_png(0.5 * np.sin(2 * np.pi * 0.25 * rate_hz * t).astype(np.float32), rate_hz, 5.0)
    picture = np.asarray(image.open(io.BytesIO(png)).convert("L")).astype(float)
    assert picture.shape[0] == 96
    assert picture.shape[1] <= 910
    brightest = 95 - int(picture.mean(1).argmax())
    mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    assert brightest == pytest.approx(96 * mel(0.25 * rate_hz) / mel(0.5 * rate_hz), abs=3)


# ---- in a browser ------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright not installed")
    from playwright.sync_api import sync_playwright

    path = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on the path (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, page: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page in a tab that must stay without errors and without requests."""
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1280, "height": 900}}))
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(("data:", "file:")) else None)
    tab.goto(page.as_uri())
    tab.wait_for_selector("body[data-ready]", state="attached")
    yield tab
    assert wrong == []
    context.close()


def until(tab: Any, expression: str, argument: Any = None) -> None:
    """Waits until an expression is true. (Playwright's own wait needs eval, which the page forbids.)"""
    for _ in range(100):
        if tab.evaluate(expression, argument):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(f"not within 5 s: {expression}, {argument}")


def test_the_page_loads_and_shows_everything(opened: Any) -> None:
    assert opened.title() == "wavespike report"
    assert opened.locator("#summary tbody tr").count() == 3
    assert opened.locator(".file").count() == 2
    assert opened.locator(".file").first.locator(".tile").count() == 4
    assert opened.locator("#pareto figure").count() == 3  # speed, energy, bitrate
    assert opened.locator("#all tbody tr").count() == 3
    assert "bad & <b>worse" in opened.locator("#summary").inner_text()  # names are text
    assert opened.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 50)")


def test_a_click_plays_switching_keeps_the_place_and_a_second_click_stops(opened: Any) -> None:
    tiles = opened.locator(".file").first.locator(".tile")
    tiles.nth(1).locator("button").click()
    until(opened, "!audio.paused && audio.currentTime > 0.25")
    assert tiles.nth(1).locator("button").get_attribute("aria-pressed") == "true"
    place = opened.evaluate("audio.currentTime")
    tiles.nth(0).locator("button").click()
    until(opened, "current.system === '' && !audio.paused && audio.readyState >= 2")
    assert opened.evaluate("audio.currentTime") >= place - 0.1
    tiles.nth(0).locator("button").click()
    assert opened.evaluate("audio.paused")
    assert 1.9 < opened.evaluate("audio.duration") < 2.2
    tiles.nth(3).locator(".picture").click(position={"x": 120, "y": 40})
    until(opened, "audio.currentTime > 0.5")


def difference_rows(tab: Any) -> dict[str, str]:
    rows = (re.split(r"[\n\t]", row.inner_text()) for row in tab.locator("#difference tbody tr").all())
    return {words[0].strip(): " ".join(words[1:]) for words in rows}


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Eight files: `worse` is noisier than `good` on each, `alike` on every other one."""
    folder = tmp_path_factory.mktemp("paired")
    t = np.arange(RATE) / RATE
    for i in range(1, 9):
        write(folder / f"{i}.wav", (0.2 * np.sin(2 * np.pi * 110 * i * t) + 0.002 * np.random.default_rng(i).normal(size=t.size)).astype(np.float32), RATE)

    class Alike(Noisy):
        def make(self, audio: Samples, rate_hz: int, path: Path) -> Made:
            even = int(path.stem) % 2 == 0
            return Noisy("x", self.level * (1.2 if even else 0.8)).make(audio, rate_hz, path)

    systems: dict[str, System] = {"good": Noisy("good", 0.002), "worse": Noisy("worse", 0.004), "alike": Alike("alike", 0.002)}
    return evaluate(systems, [folder / f"{i}.wav" for i in range(1, 9)], Settings(metrics=["lsd", "mel_l1"], against="alike"), data="eight")


def test_differences_stand_on_the_page_each_pair_once(paired: Evaluation, found: Evaluation) -> None:
    data = page_data(paired, files=0)
    assert data["against"] == "alike"
    assert {a: list(b) for a, b in data["differences"].items()} == {"good": ["worse", "alike"], "worse": ["alike"]}
    expected = paired.differences("worse", "good")["lsd"]
    assert data["differences"]["good"]["worse"]["lsd"] == pytest.approx([expected.mean, *expected.interval, 8], rel=1e-3)
    assert paired.as_dict()["models"]["worse"]["differences"]["lsd"]["verdict"] == "worse"
    assert page_data(found, files=0)["differences"]["good"]["bad & <b>worse"]["lsd"][3] == 2  # one of three files failed


def test_the_reader_chooses_with_what_systems_are_compared(browser: Any, paired: Evaluation, tmp_path: Path) -> None:
    tab = browser.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(write_report(paired, tmp_path, files=1).as_uri())
    tab.wait_for_selector("body[data-ready]", state="attached")
    assert tab.locator("#against").input_value() == "alike"
    rows = difference_rows(tab)
    assert set(rows) == {"good", "worse"}
    assert "▼ worse" in rows["worse"]
    assert "▲" not in rows["good"] + rows["worse"]
    tab.select_option("#against", "worse")
    rows = difference_rows(tab)
    assert set(rows) == {"good", "alike"}
    assert rows["good"].count("▲ better") == 2
    tab.select_option("#against", "good")
    assert "▼ worse" in difference_rows(tab)["worse"]
    assert "▲" not in difference_rows(tab)["alike"]
    tab.select_option("#forest-metric", "mel_l1")
    assert "mel L1" in tab.locator("#forest").inner_text()
    assert tab.locator("#forest .dot").count() == 2
    assert tab.locator("#forest .whisker.same").count() == 1
    tab.locator("#difference thead button", has_text="LSD").click()
    assert next(iter(difference_rows(tab))) == "alike"
    assert tab.locator("#summary td.near").count() >= 1  # what cannot be told from the best
    assert wrong == []
    tab.close()


def test_few_files_tell_nothing_and_the_page_says_so(opened: Any) -> None:
    assert "nothing can be told from chance" in opened.locator("#differences-hint").inner_text()
    assert opened.locator("#difference .mark").count() == 0


def test_blind_listening_hides_names_and_scores_until_it_is_switched_off(opened: Any) -> None:
    opened.locator("#blind").check()
    tiles = opened.locator(".file").first.locator(".tile")
    names = tiles.all_inner_texts()
    assert sorted(name.strip()[0] for name in names) == ["A", "B", "C", "o"]
    assert not any(system in " ".join(names) for system in ("good", "coder", "worse"))
    tiles.nth(2).locator("button").click()
    until(opened, "!audio.paused && audio.currentTime > 0")
    opened.locator("#blind").uncheck()
    assert "good" in " ".join(opened.locator(".file").first.locator(".tile").all_inner_texts())


def test_the_page_works_by_keyboard(opened: Any) -> None:
    opened.locator(".tile button").first.focus()
    opened.keyboard.press("Enter")
    until(opened, "!audio.paused")
    for key, system in (("1", "good"), ("ArrowRight", "bad & <b>worse"), ("ArrowLeft", "good"), ("0", "")):
        opened.keyboard.press(key)
        until(opened, "system => current.system === system", system)
    first = opened.evaluate("current.file")
    opened.keyboard.press("n")
    until(opened, "file => current.file !== file", first)
    opened.keyboard.press("Space")
    until(opened, "audio.paused")
    heading = opened.locator("#summary thead button").nth(1)
    heading.focus()
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.dataset.key") == "mel_l1"
    reached = set()
    for _ in range(110):
        opened.keyboard.press("Tab")
        reached.add(opened.evaluate("document.activeElement.id || document.activeElement.getAttribute('class')"))
    assert {"against", "forest-metric", "blind", "pareto-metric", "dot", "order-metric", "pitch", "all-metric"} <= reached  # everything is reached without a mouse


def test_a_heading_sorts_best_first_then_the_other_way(opened: Any) -> None:
    def names() -> list[str]:
        return [name.split("\n")[0].strip() for name in opened.locator("#summary tbody th").all_inner_texts() if not name.startswith("original")]

    button = opened.locator("#summary thead button", has_text="LSD")
    button.click()
    assert opened.locator("#summary thead th[aria-sort=ascending]").inner_text().startswith("LSD")
    best_first = names()
    assert best_first[0] == "good"
    button.click()
    assert opened.locator("#summary thead th[aria-sort=descending]").count() == 1
    assert names() == best_first[::-1]
    opened.locator("#summary thead button", has_text="bitrate").click()
    assert names()[0] == "coder"  # what has no value stays below
    opened.select_option("#columns", "costs")
    assert "LSD" not in opened.locator("#summary thead").inner_text()
    opened.select_option("#pareto-metric", "lsd")
    assert "LSD" in opened.locator("#pareto").inner_text()
    opened.locator("#all thead button", has_text="length").click()
    assert opened.locator("#all thead th[aria-sort]:not([aria-sort=none])").count() == 1


@pytest.mark.parametrize("opened", [{"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}], indirect=True)
def test_the_page_fits_a_phone(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.evaluate("document.querySelector('.tile').getBoundingClientRect().width > 300")
    assert opened.evaluate("[...document.querySelectorAll('.tile button')].every(b => b.getBoundingClientRect().height >= 44)")
    opened.locator(".tile button").first.tap()
    until(opened, "!audio.paused")


@pytest.mark.parametrize(("opened", "dark"), [({"color_scheme": "dark"}, True), ({"color_scheme": "light"}, False)], indirect=["opened"])
def test_colours_follow_the_system_and_the_button_and_text_stays_readable(opened: Any, dark: bool) -> None:
    luminance = """id => { const c = getComputedStyle(document.querySelector(id[0]))[id[1]].match(/[\\d.]+/g).map(Number).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; }"""

    def contrast(element: str) -> float:
        a, b = opened.evaluate(luminance, [element, "color"]), opened.evaluate(luminance, ["body", "backgroundColor"])
        return (max(a, b) + 0.05) / (min(a, b) + 0.05)

    assert (opened.evaluate(luminance, ["body", "backgroundColor"]) < 0.1) == dark
    assert contrast("body") > 7
    assert contrast(".hint") > 4.5
    opened.locator("#theme").click()  # light
    opened.locator("#theme").click()  # dark
    assert opened.evaluate(luminance, ["body", "backgroundColor"]) < 0.1
    assert contrast("body") > 7
