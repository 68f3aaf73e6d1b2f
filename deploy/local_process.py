"""Server programs run as ordinary processes: on free ports, with a log file, and gone when we are gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


class StartError(RuntimeError):
    """A program is missing, or ended, or did not answer in time; the text ends with the tail of its log."""


def _own_ports() -> Iterator[int]:
    """Ports that no other process gets from here: blocks of them, each taken by a name that the kernel forgets with us.

    They lie below those that the kernel gives to whoever asks for any (on Linux from 32768 on): what listens on one
    later, or nobody does, is not disturbed by another test's server or by the near end of a connection.
    """
    for first in range(20_000, 32_000, 50):
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0medpipe-ports-{first}")
        except OSError:
            name.close()
            continue
        name.detach()  # it stays open, and the name ours, until this process ends
        yield from range(first, first + 50)


_ports = _own_ports()


def free_port() -> int:
    """A TCP port that nobody listens on, on any address; a new one each time."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise StartError("no TCP port from 20000 to 31999 is free")


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.05) -> bool:
    """Polls until `condition()` holds; whether it did within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(interval)
    return True


class LocalProcess:
    """One program with its log and process group, stopped by the kernel when the starting thread ends.

    Start it from the main thread: PR_SET_PDEATHSIG follows the thread that made the child.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        folder: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.log = log
        self.environment = dict(environment or {})
        self.user = user
        self.folder = folder
        self.stop_signal = stop_signal
        self.process: subprocess.Popen[bytes] | None = None
        self.asked = False
        self._gone = False

    def start(self) -> None:
        """Starts it in a session of its own (a terminal's Ctrl-C does not reach it), its output appended to the log."""
        self.asked = self._gone = False
        wrapper = ["setpriv", "--pdeathsig", self.stop_signal.name.removeprefix("SIG")]
        if self.user is not None:
            wrapper += ["--reuid", self.user, "--regid", self.user, "--clear-groups"]
        if shutil.which("setpriv") is None:
            if self.user is not None:
                raise StartError(
                    f"{self.name}: setpriv (package util-linux) is needed to run it as {self.user}"
                )
            wrapper = []
        with self.log.open("ab") as log:
            try:
                self.process = subprocess.Popen(
                    [*wrapper, *self.command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self.environment},
                    cwd=self.folder,
                    start_new_session=True,
                )
            except OSError as error:
                raise StartError(
                    f"{self.name}: {self.command[0]} cannot be started ({error.strerror})"
                ) from error

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise StartError(f"{self.name} was never started")
        return self.process.pid

    def wait_ready(self, condition: Callable[[], bool], seconds: float) -> None:
        """Polls `condition` until it holds. Raises StartError when the program ends or the time is over."""
        if wait_until(lambda: not self.running or condition(), seconds) and self.running:
            return
        state = f"did not answer within {seconds:g} s" if self.running else "ended while starting"
        raise StartError(f"{self.name} {state}; the end of {self.log}:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the program's whole group."""
        if self.process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def ask(self) -> None:
        """Asks the program itself to end; it knows best in which order its own children do."""
        if self.process is not None and self.running and not self.asked:
            self.asked = True
            self.process.send_signal(self.stop_signal)

    def stop(self, seconds: float = 10) -> int | None:
        """Asks it to end and kills what is left of its group after `seconds` at most.

        Its exit status, None if it was never started.
        """
        if self.process is None:
            return None
        self.ask()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL for its whole group, whether or not the program itself has ended, and waits for its end."""
        if self.process is None or self._gone:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._gone = True  # its number may be another's from now on
