"""Named points at which a test can have a process die: `MEDPIPE_FAULT=name:marker` kills it once, at that name.

The marker file makes it once per marker, so the process that takes over gets through.
"""

from __future__ import annotations

import os
import signal
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
)


def point(name: str) -> None:
    """Dies here (SIGKILL to itself) when the environment asks for it and the marker is not there yet."""
    armed = os.environ.get("MEDPIPE_FAULT", "")
    wanted, _, marker = armed.partition(":")
    if wanted != name or not marker:
        return
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    assert Path(marker).exists()
    os.kill(os.getpid(), signal.SIGKILL)
