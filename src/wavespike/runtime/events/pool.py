"""Threads for kernels that hold no Python lock. One pool a process, made when first needed; any number of callers may share it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

_lock = threading.Lock()
_pool: tuple[int, ThreadPoolExecutor] | None = None


def _threads() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid():  # after a fork the parent's threads are not there
            _pool = os.getpid(), ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="wavespike-events")
        return _pool[1]


@contextlib.contextmanager
def torch_on_one_thread() -> Iterator[int]:
    """PyTorch's own operators on the caller's thread alone, inside; yields how many threads there were.

    After every parallel operator PyTorch's workers spin for milliseconds, and would take the cores from this pool. The setting is the calling thread's
    own and is put back, so that callers do not disturb each other.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def run_all(work: Callable[[T], None], jobs: Sequence[T], threads: int) -> None:
    """work(job) for every job, `threads` at a time, the caller's own among them. The first error is raised when all have ended."""
    if threads <= 1 or len(jobs) <= 1:
        for job in jobs:
            work(job)
        return
    left = list(reversed(jobs))
    guard = threading.Lock()

    def take() -> None:
        while True:
            with guard:
                if not left:
                    return
                job = left.pop()
            work(job)

    futures = [_threads().submit(take) for _ in range(min(threads, len(jobs)) - 1)]
    try:
        take()
    finally:
        for future in futures:
            future.exception()  # wait
    for future in futures:
        future.result()
