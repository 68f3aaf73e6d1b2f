"""Ctrl-C in the middle of a training step: it waits for the step's end, so that nothing of a step is done twice."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt at the end of the block; a second one raises it at once.

    In the main thread, where signals arrive; what ignores Ctrl-C goes on ignoring it.
    """
    handled = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handled):
        yield
        return
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handled)
    if came:
        raise KeyboardInterrupt
