"""The worker's slots: one warm inference child each, started by the worker's main thread, killed when it must be.

PR_SET_PDEATHSIG follows the thread that started a child, not the process, so only the main thread may start them: the
engine's threads ask, `keep_full` (called by the main thread) starts.
"""

from __future__ import annotations

import json
import logging
import queue
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from medpipe.config import Config
from medpipe.errors import InferenceCrashed, StepTimeout, StorageError
from workers.child import error_from

log = logging.getLogger(__name__)
Plain = dict[str, Any]

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 120.0


class Child:
    """One inference child and the pipes to it."""

    def __init__(self, config: Config) -> None:
        command = [sys.executable, "-P", "-m", "workers.child"]
        guard = shutil.which("setpriv")
        if guard is not None:
            command = [guard, "--pdeathsig", "KILL", *command]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._held = b""
        self._send(config.model_dump(mode="json"))

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Plain, *, seconds: float, still_wanted: Callable[[], None]) -> Plain:
        """The child's answer. `still_wanted` is called each half second and raises when the answer is no longer wanted.

        Raises InferenceCrashed when the child died, StepTimeout after `seconds`, or the error that it reports.
        Whenever this raises anything but a reported error, the child is killed: it must not go on with the request.
        """
        deadline = time.monotonic() + seconds
        try:
            self._send(request)
            while True:
                answer = self._receive(_POLL_SECONDS)
                if answer is None:
                    still_wanted()
                    if time.monotonic() > deadline:
                        raise StepTimeout(
                            f"the step took longer than worker.kill_stalled_after ({seconds:g} s)"
                        )
                elif "done" in answer or "error" in answer:
                    break
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
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self, message: Plain) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, ValueError) as error:
            raise InferenceCrashed("the inference process is gone") from error

    def _receive(self, seconds: float) -> Plain | None:
        assert self._process.stdout is not None
        if b"\n" not in self._held:
            ready, _, _ = select.select([self._process.stdout], [], [], seconds)
            if not ready:
                return None
            block = self._process.stdout.read(1 << 16)
            if not block:
                code = self._process.wait()
                raise InferenceCrashed(
                    f"the inference process died (status {code}); out of memory, or killed"
                )
            self._held += block
            if b"\n" not in self._held:
                return None
        line, _, self._held = self._held.partition(b"\n")
        return dict(json.loads(line))


class Slots:
    """As many children as the worker has slots."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._idle: queue.Queue[Child] = queue.Queue()
        self._missing = threading.Semaphore(0)
        self._children: set[Child] = set()
        for _ in range(config.worker.slots):
            self._missing.release()

    def keep_full(self) -> None:
        """Starts what is missing. Only the main thread may call this, and it must do so again and again."""
        while self._missing.acquire(blocking=False):
            child = Child(self._config)
            self._children.add(child)
            self._idle.put(child)
        for child in list(self._children):
            if not child.is_alive():
                self._children.discard(child)

    def ask(self, request: Plain, *, seconds: float, still_wanted: Callable[[], None]) -> Plain:
        """Has an idle child do it; see Child.ask. A child that died idle is replaced without anybody noticing."""
        while True:
            try:
                child = self._idle.get(timeout=_PATIENCE_SECONDS)
            except queue.Empty:
                raise StorageError("no inference process can be started on this machine") from None
            if child.is_alive():
                break
            self._missing.release()
        try:
            return child.ask(request, seconds=seconds, still_wanted=still_wanted)
        finally:
            if child.is_alive():
                self._idle.put(child)
            else:
                self._missing.release()

    def close(self) -> None:
        """Kills all children."""
        for child in list(self._children):
            if child.is_alive():
                child.kill()
