"""Threads for kernels that hold no Python lock. One pool a process, made when first needed; any number of callers may share it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_pool: tuple[int, ThreadPoolExecutor] | None = None


def _threads() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid():  # after a fork the parent's threads are not there
            _pool = os.getpid(), ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="wavespike-events")
        return _pool[1]


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
