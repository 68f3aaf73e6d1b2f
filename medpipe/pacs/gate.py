"""What holds back pynetdicom's own thread of an association while we ask and wait for answers.

That thread takes whatever arrives, and answers that it takes are lost: a C-FIND then tells of a smaller study. It has
to wait for an event first; but pynetdicom asks whether it stands there by a flag that the thread lowers only after it
went on, so that on a busy machine it now and then takes one message more (pynetdicom issue 875, "Received unexpected
C-FIND service message").
"""

from __future__ import annotations

import threading

from pynetdicom.association import Association


class Gate(threading.Event):
    """The event that the thread `held` waits for; `clear` returns only once that thread stands before it."""

    def __init__(self, held: threading.Thread) -> None:
        super().__init__()
        self._held = held
        self._changed = threading.Condition()
        self._open, self._stands = True, False

    def is_set(self) -> bool:
        with self._changed:
            return self._open

    def set(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._open = False
            if threading.current_thread() is self._held:
                return
            while not self._stands and not self._open and self._held.is_alive():
                self._changed.wait(0.05)

    def wait(self, timeout: float | None = None) -> bool:
        with self._changed:
            self._stands = True
            self._changed.notify_all()
            passed = self._changed.wait_for(lambda: self._open, timeout)
            self._stands = False
            return passed


def hold_back(assoc: Association) -> None:
    """Gives an established association this gate in place of its own."""
    assoc._reactor_checkpoint = Gate(assoc)  # read anew by the thread before each wait
