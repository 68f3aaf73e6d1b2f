"""Named points at which a test can have a process die, stand still or find the disk full.

Without these variables nothing happens here:
`MEDPIPE_FAULT=name:marker` kills the process once at that name (the marker file makes it once, so that the process
that takes over gets through); `MEDPIPE_STALL=name` stops it there (SIGSTOP) until somebody wakes it;
`MEDPIPE_FAULTS=folder` arms points of processes that run: whoever first comes by `name` takes the file `folder/name`
away and does what it says, `kill`, `stop` or `full` (no space left on the device);
`MEDPIPE_POISON=prefix` kills every inference child that is given an instance whose spool name begins so,
`MEDPIPE_POISON=worker:prefix` every worker that claims a job with such an instance (several of them: with commas).
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

POINTS = {
    "in_receive": "a part of an instance is written to `incoming`",
    "received": "the instance is complete, nothing of it is flushed",
    "before_sidecar": "its sidecar is about to be written",
    "after_fsync": "instance and sidecar are flushed, neither has its name",
    "after_rename": "the instance has its name, its sidecar has not",
    "after_sidecar": "both have their names, the folder is not flushed",
    "before_acknowledge": "all is durable, 0x0000 is not sent",
    "before_report": "a storage commitment report is about to be written",
    "after_report": "the report is durable, not answered",
    "before_register": "arrivals are read, not registered",
    "in_register": "rows are written, not committed",
    "after_register": "committed, the arrival is not ticked off",
    "before_settle": "a study is complete, not yet read",
    "in_settle": "jobs are planned and queued, not committed",
    "after_settle": "committed",
    "in_claim": "a job is marked as running, not committed",
    "after_claim": "committed, nothing is computed",
    "in_step": "the child has the request",
    "in_predict": "the child has assembled and is predicting",
    "after_write": "the child has written the results, not answered",
    "before_publish": "the worker has the answer",
    "before_folder": "the outbox folder is about to be written",
    "after_folder": "the outbox folder has its name, no row names it",
    "in_publish": "results, deliveries and their place on the queue are written, not committed",
    "after_publish": "committed",
    "before_checkpoint": "a step has had its effect, the engine does not know",
    "after_checkpoint": "the engine knows the step, not the workflow's end",
    "before_send": "results are about to be sent",
    "after_instance": "one of the results is at the PACS",
    "after_send": "all of them are, no row says so",
    "in_sent": "rows say so, not committed",
    "before_confirm": "the PACS is about to be asked",
    "after_request": "storage commitment was asked for",
    "in_confirm": "rows say that the PACS keeps them, not committed",
    "after_confirm": "committed, the report is removed",
    "after_hand_on": "a dead worker's work is queued again, not brought forward",
    "after_let_go": "an instance's files are removed, its row does not say so",
    "before_removed": "all files of a study are removed, its row does not say so",
    "in_backup": "members of a backup are written, it has no name",
    "before_backup": "a backup is whole and flushed, it has no name",
    "in_restore": "some of a backup lies in its place",
}
"""Every state change, in the order of a study's way, and how things stand there."""

WRITES = ("in_receive", "before_sidecar", "before_report", "before_folder")
"""Points right before a write to the disk: only there the disk can be full."""


def point(name: str) -> None:
    """Dies, stands still or raises OSError (ENOSPC) here when the environment asks for it."""
    if os.environ.get("MEDPIPE_STALL") == name:
        _stand_still(name)
    wanted, _, marker = os.environ.get("MEDPIPE_FAULT", "").partition(":")
    if wanted == name and marker and _is_first(Path(marker)):
        _die()
    folder = os.environ.get("MEDPIPE_FAULTS")
    if folder is not None:
        _act(name, _disarm(Path(folder), name))


def poison(paths: Sequence[Path], *, kills: str = "child") -> None:
    """Dies of the instance that the environment names, every time."""
    for one in os.environ.get("MEDPIPE_POISON", "").split(","):
        whom, _, prefix = one.rpartition(":")
        if prefix and (whom or "child") == kills and any(path.name.startswith(prefix) for path in paths):
            _die()


def _is_first(marker: Path) -> bool:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def _disarm(folder: Path, name: str) -> str:
    """What the point is armed with. The file goes to `folder/met`, where whoever armed it sees that it was met."""
    met = folder / "met" / f"{name}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    try:
        (folder / name).rename(met)
        return met.read_text()
    except FileNotFoundError:  # not armed, or another process was quicker
        return ""


def _act(name: str, what: str) -> None:
    if what == "kill":
        _die()
    elif what == "stop":
        _stand_still(name)
    elif what == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _stand_still(name: str) -> None:
    print(f"stalled at {name}", file=sys.stderr, flush=True)  # noqa: T201
    # to this thread: sent to the process, it waits for the main thread, and this one goes on meanwhile
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
