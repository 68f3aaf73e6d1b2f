"""Named points at which a test can have a process die or stand still. Without these variables nothing happens here.

`MEDPIPE_FAULT=name:marker` kills the process once at that name (the marker file makes it once, so that the process
that takes over gets through); `MEDPIPE_STALL=name` stops it there (SIGSTOP) until somebody wakes it;
`MEDPIPE_POISON=prefix` kills every inference child that is given an instance whose spool name begins so.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

POINTS = (
    "after_claim",
    "in_step",
    "before_publish",
    "after_publish",
    "before_send",
    "after_send",
    "before_confirm",
    "after_confirm",
    "after_let_go",
    "before_removed",
    "in_backup",
    "before_backup",
    "in_restore",
)


def point(name: str) -> None:
    """Dies or stands still here when the environment asks for it."""
    if os.environ.get("MEDPIPE_STALL") == name:
        print(f"stalled at {name}", file=sys.stderr, flush=True)  # noqa: T201
        os.kill(os.getpid(), signal.SIGSTOP)
    wanted, _, marker = os.environ.get("MEDPIPE_FAULT", "").partition(":")
    if wanted != name or not marker:
        return
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def poison(paths: Iterable[Path]) -> None:
    """Dies of the instance that the environment names, every time."""
    prefix = os.environ.get("MEDPIPE_POISON", "")
    if prefix and any(path.name.startswith(prefix) for path in paths):
        os.kill(os.getpid(), signal.SIGKILL)
