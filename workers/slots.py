"""The worker's slots: one warm inference child each, started by the worker's main thread, killed when it must be.

PR_SET_PDEATHSIG follows the thread that started a child, not the process, so only the main thread may start them: the
engine's threads ask, `keep_full` (called by the main thread) starts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from medpipe.config import Config
from medpipe.errors import InferenceCrashed, StepTimeout, StorageError
from workers.child import error_from

log = logging.getLogger(__name__)
Plain = dict[str, Any]

CHILD_COMMAND = (sys.executable, "-P", "-m", "workers.child")
_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 120.0


class Interrupted(BaseException):
    """The worker is about to end: the attempt was not the study's fault and does not count.

    Not an Exception: nothing on the way up may take it for a failure of the job.
    """


class Child:
    """One inference child and the pipes to it."""

    def __init__(self, config: Config, command: Sequence[str] = CHILD_COMMAND) -> None:
        guard = shutil.which("setpriv")
        if guard is not None:
            command = [guard, "--pdeathsig", "KILL", *command]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._unsent, self._held = bytearray(), b""
        self._polling = threading.Lock()
        self._say(config.model_dump(mode="json"))
        with contextlib.suppress(InferenceCrashed):  # found out when it is asked
            self._write()

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        with self._polling:  # of two threads that poll at once, Popen tells one that a dead child is alive
            return self._process.poll() is None

    def ask(self, request: Plain, *, seconds: float, still_wanted: Callable[[], None]) -> Plain:
        """The child's answer. `still_wanted` is called each second and raises when the answer is no longer wanted.

        Raises InferenceCrashed when the child died, StepTimeout after `seconds`, or the error that it reports.
        Whenever this raises anything but a reported error, the child is killed: it must not go on with the request.
        """
        deadline = time.monotonic() + seconds
        next_look = time.monotonic() + _LOOK_SECONDS
        try:
            self._say(request)
            while True:
                answer = self._exchange(min(next_look, deadline) - time.monotonic())
                if answer is not None and ("done" in answer or "error" in answer):
                    break
                if time.monotonic() >= deadline:
                    raise StepTimeout(f"the step took longer than worker.kill_stalled_after ({seconds:g} s)")
                if time.monotonic() >= next_look:
                    still_wanted()
                    next_look = time.monotonic() + _LOOK_SECONDS
        except BaseException:
            self.kill()
            raise
        if "error" in answer:
            raise error_from(*answer["error"])
        return dict(answer["done"])

    def kill(self) -> None:
        """Ends the child at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            pipe.close()

    def _say(self, message: Plain) -> None:
        self._unsent += json.dumps(message).encode() + b"\n"

    def _exchange(self, seconds: float) -> Plain | None:
        """Writes what is left to say and reads one message; None when none came within `seconds`."""
        if b"\n" not in self._held:
            writing = [self._stdin] if self._unsent else []
            readable, writable, _ = select.select([self._stdout], writing, [], max(0.0, seconds))
            if writable:
                self._write()
            if readable:
                self._read()
        if b"\n" not in self._held:
            return None
        line, _, self._held = self._held.partition(b"\n")
        return dict(json.loads(line))

    def _write(self) -> None:
        try:
            written = os.write(self._stdin.fileno(), self._unsent)
        except BlockingIOError:
            return
        except (BrokenPipeError, ValueError) as error:
            raise InferenceCrashed("the inference process is gone") from error
        del self._unsent[:written]

    def _read(self) -> None:
        block = os.read(self._stdout.fileno(), 1 << 16)
        if not block:
            code = self._process.wait()
            raise InferenceCrashed(f"the inference process died (status {code}); out of memory, or killed")
        self._held += block


class Slots:
    """As many children as the worker has slots."""

    def __init__(self, config: Config, command: Sequence[str] = CHILD_COMMAND) -> None:
        self._config, self._command = config, command
        self._idle: queue.Queue[Child] = queue.Queue()
        self._missing = threading.Semaphore(0)
        self._closing = threading.Event()
        self._children: set[Child] = set()
        for _ in range(config.worker.slots):
            self._missing.release()

    def keep_full(self) -> None:
        """Starts what is missing. Only the main thread may call this, and it must do so again and again."""
        while not self._closing.is_set() and self._missing.acquire(blocking=False):
            child = Child(self._config, self._command)
            self._children.add(child)
            self._idle.put(child)
        for child in list(self._children):
            if not child.is_alive():
                self._children.discard(child)

    def ask(self, request: Plain, *, seconds: float, still_wanted: Callable[[], None]) -> Plain:
        """Has an idle child do it; see Child.ask. A child that died idle is replaced without anybody noticing.

        Raises Interrupted once `close` was called.
        """

        def look() -> None:
            if self._closing.is_set():
                raise Interrupted
            still_wanted()

        child = self._idle_child(look)
        try:
            return child.ask(request, seconds=seconds, still_wanted=look)
        finally:
            if child.is_alive():
                self._idle.put(child)
            else:
                self._missing.release()

    def _idle_child(self, look: Callable[[], None]) -> Child:
        end = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < end:
            look()
            try:
                child = self._idle.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if child.is_alive():
                return child
            child.kill()  # gone already; its pipes are not
            self._missing.release()
        raise StorageError("no inference process can be started on this machine")

    @property
    def is_closing(self) -> bool:
        return self._closing.is_set()

    def close(self) -> None:
        """Interrupts what is being asked; each asking thread kills its child. Any thread may call this."""
        self._closing.set()

    def end(self) -> None:
        """Kills the children that are left. Only after `close`."""
        self.close()
        for child in list(self._children):
            child.kill()
