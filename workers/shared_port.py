"""Several `listen` processes of one site on one port (SO_REUSEPORT): who may join, and that no stranger is among them.

The kernel lets any process of the same user join a shared port, so a listener of another site that was given the same
port by mistake would take a part of the instances unnoticed. Each process holds a numbered lock; the first one makes
sure that nobody else is on the port.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from medpipe.errors import ConfigError, StorageError


class SharedPort:
    """This process's place among the listeners of `root` on a port. Bind the socket inside; the place is kept open."""

    def __init__(self, root: Path, host: str, port: int, processes: int) -> None:
        self._folder = root / "locks"
        self._name = f"listener-{socket.gethostname()}-{port}"
        self._address, self._processes = (host, port), processes
        self._place = -1

    def __enter__(self) -> SharedPort:
        """Raises ConfigError where all places are taken, StorageError where somebody else is on the port."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._entrance = self._open("entrance")
        fcntl.flock(self._entrance, fcntl.LOCK_EX)  # until the socket is bound: the next one finds us there
        taken = 0
        for number in range(self._processes):
            place = self._open(str(number))
            if self._place < 0 and _lock(place):
                self._place = place
            else:
                taken += not _free(place)
                os.close(place)
        if self._place < 0:
            os.close(self._entrance)
            raise ConfigError(
                f"listener.processes is {self._processes}, and as many listen on port {self._address[1]} already"
            )
        if not taken:
            self._be_alone()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._entrance)
        if kind is not None:
            self.leave()

    def leave(self) -> None:
        if self._place >= 0:
            os.close(self._place)
            self._place = -1

    def _open(self, part: str) -> int:
        path = self._folder / f"{self._name}.{part}"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _be_alone(self) -> None:
        """A socket that does not share finds out whether anybody is there."""
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(self._address)
            except OSError as error:
                self.leave()
                os.close(self._entrance)
                host, port = self._address
                raise StorageError(
                    f"cannot listen on {host}:{port}: {error.strerror}; is another listener running?"
                ) from error


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free(descriptor: int) -> bool:
    """Whether nobody holds a lock that we do not want; taking it for a moment does no harm at the entrance."""
    if not _lock(descriptor):
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True
