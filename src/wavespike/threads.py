"""One call on several threads by pieces of its work, where PyTorch would share out every single operator.

Operators on blocks that fit the cache last tens of microseconds: sharing each of them out costs as much as it saves, and PyTorch's workers spin for milliseconds
after it. Here a thread takes a range of frames through many operators, PyTorch on one thread in each.

    audio = spread(lambda: decode(features), features)      # as many threads as torch.get_num_threads() says
    ...
    run_all(work, cut(frames, share(frames)))               # somewhere inside

Settings of the caller and of the process stay as they are: all of it runs on threads of one pool a process, made when first needed, whose PyTorch is set to one
thread for good. Any number of callers may share it.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
R = TypeVar("R")

FRAMES_A_THREAD = 48
"""Fewest frames for which one more thread pays."""

_lock = threading.Lock()
_pool: tuple[int, ThreadPoolExecutor] | None = None
_here = threading.local()
"""`count` is set on threads of the pool: how many threads the work on this one may take."""


def _threads() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid():  # after a fork the parent's threads are not there
            size = max(2, os.cpu_count() or 1)
            pool = ThreadPoolExecutor(size, thread_name_prefix="wavespike")
            together = threading.Barrier(size)
            found: list[int] = []

            def begin() -> None:
                _here.count = 1
                found.append(torch.get_num_threads())  # what a new thread of this process gets
                together.wait()
                torch.set_num_threads(1)

            for started in [pool.submit(begin) for _ in range(size)]:
                started.result()
            # the number is each thread's own, but new threads take the last one set anywhere: put that back, on a thread that nobody needs
            last = threading.Thread(target=torch.set_num_threads, args=(max(found),))
            last.start()
            last.join()
            _pool = os.getpid(), pool
        return _pool[1]


def _plain(tensor: Tensor, modules: Sequence[nn.Module]) -> bool:
    """Whether a computation may leave the caller's thread: nothing there watches it or changes what operators mean."""
    if tensor.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call,unused-ignore]
        return False
    if torch.is_autocast_enabled("cpu") or torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    if type(tensor) is not Tensor or nn.modules.module._has_any_global_hook():  # type: ignore[no-untyped-call,unused-ignore]
        return False
    return not any(m._forward_hooks or m._forward_pre_hooks for module in modules for m in module.modules())


def spread(work: Callable[[], R], tensor: Tensor, *modules: nn.Module) -> R:
    """work(), whose calls of `run_all` share as many threads as the caller's PyTorch has.

    It is just called where it must stay on the caller's thread: gradients are kept, the tensor is not on the CPU, a hook in one of the modules or a mode of
    PyTorch watches, the graph is being captured; and where there is one thread only, or the caller is itself a piece of such work.
    """
    count = 1 if hasattr(_here, "count") else torch.get_num_threads()
    if count == 1 or not _plain(tensor, modules):
        return work()
    inference = torch.is_inference_mode_enabled()

    def coordinate() -> R:
        _here.count = count
        try:
            return _in_mode(work, inference)
        finally:
            _here.count = 1

    return _threads().submit(coordinate).result()


def _in_mode(work: Callable[[], R], inference: bool) -> R:
    with torch.inference_mode(inference), torch.no_grad():
        return work()


def share(frames: int) -> int:
    """How many threads work on so many frames is worth, here: 1 outside of `spread`."""
    return max(1, min(getattr(_here, "count", 1), frames // FRAMES_A_THREAD))


def cut(length: int, pieces: int) -> list[tuple[int, int]]:
    """0..length in so many ranges of nearly equal size."""
    ends = [length * i // pieces for i in range(pieces + 1)]
    return list(itertools.pairwise(ends))


def run_all(work: Callable[[T], None], jobs: Sequence[T]) -> None:
    """work(job) for every job, on as many threads as `spread` was given; this one takes part. The first error is raised when all have ended."""
    count = min(getattr(_here, "count", 1), len(jobs))
    if count <= 1:
        for job in jobs:
            work(job)
        return
    left = list(reversed(jobs))
    guard = threading.Lock()
    inference = torch.is_inference_mode_enabled()

    def take() -> None:
        while True:
            with guard:
                if not left:
                    return
                job = left.pop()
            work(job)

    helpers = [_threads().submit(_in_mode, take, inference) for _ in range(count - 1)]
    before, _here.count = _here.count, 1
    try:
        take()
    finally:
        _here.count = before
        left.clear()
        for helper in helpers:
            if not helper.cancel():  # a helper that has not begun has nothing to do: never wait for a busy pool
                helper.exception()
    for helper in helpers:
        if not helper.cancelled():
            helper.result()
