"""Batches cut ahead of the step that takes them, in the order asked for, so that a network seldom waits for one.

A batch depends on its key alone (medpipe.training.patches), so who cuts it, and when, changes nothing in it.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch
from torch.utils.data import DataLoader, Dataset

from medpipe.training.patches import Batch

Key = tuple[int, float, int]
"""What a batch follows from: its number, the spent part of the budget, and which process's share of the step it is."""
Cut = Callable[[int, float, int], Batch]

_AHEAD = 2
"""Batches kept ready by each worker."""


def cut_ahead(
    cut: Cut, keys: Iterator[Key], device: torch.device, processes: int | None = None
) -> Generator[Batch, None, None]:
    """The batches of an endless row of keys, which is drawn from in the calling thread alone.

    Beside a GPU `processes` cut them (by default as many as there are cores to spare): cutting holds Python's lock for
    a part of the time, which more threads do not shorten. Beside a network on the CPU one thread is enough.
    """
    if processes is None:
        processes = spare_cores() if device.type == "cuda" else 0
    if processes:
        yield from _by_processes(cut, keys, device, processes)
    else:
        yield from _by_thread(cut, keys)


def spare_cores() -> int:
    """Cores of this process but one, shared with the other processes that torchrun started on the machine."""
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(cores - 1, 16))


def _by_thread(cut: Cut, keys: Iterator[Key]) -> Generator[Batch, None, None]:
    with ThreadPoolExecutor(1) as pool:
        ahead: deque[Future[Batch]] = deque(pool.submit(cut, *key) for key in islice(keys, _AHEAD))
        try:
            while True:
                yield ahead.popleft().result()
                ahead.append(pool.submit(cut, *next(keys)))
        finally:
            pool.shutdown(cancel_futures=True)


class _Keyed(Dataset[Batch]):
    """A data set whose items are batches, by their keys."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut

    def __getitem__(self, key: Key) -> Batch:
        return self._cut(*key)


def _by_processes(
    cut: Cut, keys: Iterator[Key], device: torch.device, processes: int
) -> Generator[Batch, None, None]:
    handled = signal.getsignal(signal.SIGCHLD)
    with warnings.catch_warnings():
        # Python warns of forks beside threads: the children use neither OpenMP nor CUDA of their parent. torch warns
        # of more processes than cores: the number is the caller's.
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader: DataLoader[Batch] = DataLoader(
            _Keyed(cut),
            batch_size=None,
            sampler=keys,
            num_workers=processes,
            prefetch_factor=_AHEAD,
            pin_memory=device.type == "cuda",
            multiprocessing_context="fork",  # the pictures, mapped into memory, are shared and not sent
        )
        batches = iter(loader)
    try:
        yield from batches
    finally:
        del batches  # ends the processes
        # torch leaves a handler for the end of any child of this process: other children are not its business
        if handled is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handled)
