"""What processes without a database have to say to the trail: files under `<site.root>/audit`, taken in by a worker.

The listener touches only files, and what it refuses must be on record even while the database is away. A notice is
durable when `leave` returns. Those that are left while nobody takes them in wait.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpipe.logs import Event, about
from workers.audit.trail import note
from workers.durable import write_json

if TYPE_CHECKING:
    from workers.registry import Registry

log = logging.getLogger(__name__)

_PER_MINUTE = 60
_BATCH = 500


class Notices:
    """Leaves notices for one process. A flood of them is counted, not written: it must not fill the disk."""

    def __init__(self, root: Path) -> None:
        self._folder = folder(root)
        self._lock = threading.Lock()
        self._minute, self._written, self._kept_back, self._number = 0.0, 0, 0, 0

    def leave(self, who: str, what: str, study_uid: str | None = None, **detail: Any) -> None:
        """Says it to the trail. Never raises for the disk: who has something to say has something to do, too."""
        now = time.time()
        with self._lock:
            if now - self._minute >= 60:
                self._minute, self._written = now, 0
            if self._written >= _PER_MINUTE:
                self._kept_back += 1
                return
            self._written += 1
            self._number += 1
            name = f"{time.time_ns():020d}-{os.getpid()}-{self._number}.json"
            if self._kept_back:
                detail["not_recorded_before"], self._kept_back = self._kept_back, 0
        content = {"at": now, "who": who, "what": what, "study_uid": study_uid, "detail": detail}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / name, content)
        except OSError as error:
            log.error(
                "%r could not be left for the audit trail (%s)", what, error.strerror,
                extra=about(Event.TRAIL_NOT_WRITTEN),
            )  # fmt: skip


def folder(root: Path) -> Path:
    """Where notices wait."""
    return root / "audit"


@contextmanager
def active(root: Path, name: str) -> Iterator[None]:
    """Records the start and the end of a process; the end is missing where it was killed."""
    notices = Notices(root)
    process: dict[str, Any] = {"process": name, "host": socket.gethostname(), "pid": os.getpid()}
    notices.leave("medpipe", "application started", **process)
    try:
        yield
    finally:
        notices.leave("medpipe", "application stopped", **process)


def take_in(root: Path, registry: Registry) -> int:
    """Brings the notices into the trail, oldest first; how many. Killed in the midst of it, some may be there twice."""
    if not any(_waiting(root)):
        return 0
    with alone(folder(root) / ".taking") as is_alone:
        if not is_alone:
            return 0
        paths = sorted(_waiting(root))[:_BATCH]
        notices = [(path, content) for path in paths if (content := _read(path)) is not None]
        with registry.begin() as connection:
            for _, said in notices:
                note(connection, said["who"], said["what"], said["study_uid"], said["detail"], said["at"])
        for path, _ in notices:
            path.unlink(missing_ok=True)
    return len(notices)


def _waiting(root: Path) -> Iterator[Path]:
    return folder(root).glob("[0-9]*.json")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: content[key] for key in ("at", "who", "what", "study_uid", "detail")}
    except (ValueError, KeyError, TypeError):
        log.error("%s is no notice to the audit trail: put aside", path, extra=about(Event.TRAIL_NOT_WRITTEN))
        with suppress(OSError):
            path.rename(path.with_suffix(".odd"))
        return None


@contextmanager
def alone(lock: Path) -> Iterator[bool]:
    """Whether no other process holds this lock; ours until the end, or until we die."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
