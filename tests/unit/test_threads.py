"""Work on several threads by pieces: the numbers of one thread, and nothing of the caller or the process changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from wavespike import threads
from wavespike.models.vocos import Vocos, VocosConfig
from wavespike.nn.convnext import ConvNeXtConfig
from wavespike.nn.heads import SourceFilterHeadConfig
from wavespike.signal.griffin_lim import Frames, griffin_lim
from wavespike.signal.mel import MelConfig


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def vocoder(padding: Any = "center", steps: int = 2, momentum: float = 0.5) -> Vocos:
    torch.manual_seed(0)
    head = SourceFilterHeadConfig(dim=16, n_fft=256, hop_length=64, pitch_dim=8, pitch_layers=1, padding=padding, consistency_steps=steps, momentum=momentum)
    return Vocos(VocosConfig(features=MelConfig(n_mels=20, n_fft=256, hop_length=64, padding=padding),
                             backbone=ConvNeXtConfig(input_channels=20, dim=16, intermediate_dim=32, num_layers=2), head=head)).eval()


def features(frames: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 20, frames, generator=torch.Generator().manual_seed(frames)).cumsum(-1) * 0.05 - 3


def on_one_thread(model: Vocos, x: Tensor) -> Tensor:
    torch.set_num_threads(1)
    try:
        return model.decode(x)
    finally:
        torch.set_num_threads(2)


def which_threads(x: Tensor, *modules: torch.nn.Module) -> tuple[str, int]:
    return threads.spread(lambda: (threading.current_thread().name, threads.share(1000)), x, *modules)


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize(("steps", "momentum"), [(0, 0.0), (3, 0.0), (2, 0.5)])
@pytest.mark.parametrize(("frames", "batch"), [(97, 1), (300, 2)])
def test_pieces_give_the_waveform_of_one_thread(padding: str, steps: int, momentum: float, frames: int, batch: int) -> None:
    model, x = vocoder(padding, steps, momentum), features(frames, batch)
    want = on_one_thread(model, x)
    torch.testing.assert_close(model.decode(x), want, atol=2e-5 * float(want.abs().max()), rtol=0)


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_projections_in_pieces_are_those_of_the_whole(padding: Any, momentum: float) -> None:
    g = torch.Generator().manual_seed(1)
    spectrum = torch.randn(2, 200, 129, 2, generator=g, dtype=torch.float64)
    frames = Frames.of(spectrum.norm(dim=-1), torch.view_as_complex(spectrum))
    whole = griffin_lim(frames, 5, 256, 64, momentum=momentum, padding=padding)  # with gradients: never in pieces
    with torch.no_grad():
        pieces = threads.spread(lambda: griffin_lim(frames, 5, 256, 64, momentum=momentum, padding=padding), spectrum)
    torch.testing.assert_close(pieces, whole, atol=1e-9, rtol=0)


def test_a_single_frame_spans_no_samples() -> None:
    assert vocoder().decode(features(1)).shape == (1, 0)
    assert vocoder("same").decode(features(1)).shape == (1, 64)


def test_nothing_of_the_caller_or_the_process_changes() -> None:
    model, x = vocoder(), features(200)
    with torch.inference_mode():
        out = model.decode(x)
        assert out.is_inference()
    assert not model.decode(x).is_inference()
    assert torch.get_num_threads() == 2
    found: list[int] = []
    new = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert found == [2]
    assert torch.is_grad_enabled()


def test_many_callers_at_once() -> None:
    """More callers than the pool has threads, each with pieces of its own: no one waits for ever, everyone gets the same."""
    model, x = vocoder(), features(200)
    want = model.decode(x)
    found: list[Tensor] = []

    def call() -> None:
        torch.set_num_threads(2)
        found.extend(model.decode(x) for _ in range(5))

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert len(found) == 40
    assert all(torch.equal(y, want) for y in found)


def test_where_something_watches_the_caller_computes_itself() -> None:
    x, model, here = features(4), vocoder(), threading.current_thread().name
    with torch.no_grad():
        name, count = which_threads(x, model)
        assert name != here
        assert count == 2
        handle = model.backbone.register_forward_hook(lambda *_: None)
        assert which_threads(x, model) == (here, 1)
        handle.remove()
        with torch.autocast("cpu", torch.bfloat16):
            assert which_threads(x, model) == (here, 1)
        with torch.device("cpu"):
            assert which_threads(x, model) == (here, 1)
        assert which_threads(torch.nn.Parameter(x), model) == (here, 1)
        torch.set_num_threads(1)
        assert which_threads(x, model) == (here, 1)
    assert which_threads(x, model) == (here, 1)  # gradients are kept


def test_errors_of_pieces_and_of_the_whole_are_raised() -> None:
    def work(job: int) -> None:
        raise ValueError(str(job))

    with torch.no_grad(), pytest.raises(ValueError, match=r"[01]"):
        threads.spread(lambda: threads.run_all(work, [0, 1]), features(4))
    with torch.no_grad(), pytest.raises(KeyError):
        threads.spread(lambda: {}["none"], features(4))


@pytest.mark.parametrize(("length", "pieces"), [(10, 3), (2, 2), (7, 1)])
def test_ranges_cover_everything_once(length: int, pieces: int) -> None:
    assert [i for a, b in threads.cut(length, pieces) for i in range(a, b)] == list(range(length))
