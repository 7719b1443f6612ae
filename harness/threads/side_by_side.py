"""Pieces of work on the CPU, one thread each.

torch runs each large operation on all its threads and waits for them: on a virtual machine, or with a passive wait
policy, waking them costs time at every operation. Work that falls into independent pieces of
several operations is therefore given to one thread a piece, which is woken once. Results do not depend on the number
of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from threading import Barrier
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], pieces: Sequence[T]) -> list[R]:
    """The results of `work`, without gradient, on each piece in order; on as many threads as torch uses.

    What `work` raises is raised here, once all pieces have ended.
    """
    n_threads = min(torch.get_num_threads(), len(pieces))
    if n_threads <= 1:
        return _each(work, pieces)
    pool = _pool(torch.get_num_threads(), os.getpid())
    bounds = [len(pieces) * i // n_threads for i in range(n_threads + 1)]
    parts = [pieces[start:stop] for start, stop in pairwise(bounds)]
    running = [pool.submit(_each, work, part) for part in parts]
    return [result for part in running for result in part.result()]


def one_thread_each(work: Callable[[T], R], pieces: Sequence[T]) -> list[R]:
    """The results of `work` on each piece in order, every piece on one thread, also where there is only one piece:
    what a piece gives does not depend on how many there are, nor on how many threads torch has.

    What `work` raises is raised here, once all pieces have ended.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1:
        return [work(piece) for piece in pieces]
    running = [_pool(n_threads, os.getpid()).submit(work, piece) for piece in pieces]
    wait(running)
    return [done.result() for done in running]


def _each(work: Callable[[T], R], pieces: Sequence[T]) -> list[R]:
    with torch.no_grad():  # the mode is a thread's own
        return [work(piece) for piece in pieces]


@cache
def _pool(n_threads: int, process: int) -> ThreadPoolExecutor:
    """Threads whose own operations run on that one thread. A forked process has none of its parent's."""
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="pieces", initializer=_compute_alone)
    started = Barrier(n_threads)
    list(pool.map(lambda _: started.wait(), range(n_threads)))
    # `set_num_threads` is for the calling thread, and the default of threads yet to come: restore that.
    torch.set_num_threads(n_threads)
    return pool


def _compute_alone() -> None:
    torch.get_num_threads()  # a thread's first call takes the default: afterwards the number is its own
    torch.set_num_threads(1)
