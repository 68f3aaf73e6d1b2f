"""Where the lines go: stderr of each process, in the form that the settings choose; libraries go through it too."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from types import TracebackType
from typing import Any

from medpipe.config import Logs
from medpipe.logs.discretion import OURS, Discretion
from medpipe.logs.events import Event, about
from medpipe.logs.lines import JsonLine, TextLine

log = logging.getLogger(__name__)

_QUIET = {
    "pynetdicom": logging.CRITICAL,  # says our errors a second time, and prints data sets
    "pydicom": logging.ERROR,
    "highdicom": logging.ERROR,
}
"""Of the other libraries only warnings and errors are told."""


class _ToStderr(logging.Handler):
    """Writes to what is stderr now. A line that cannot be made is replaced, not shown with its arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            line = f"a line of {record.name}:{record.lineno} could not be written"
        with contextlib.suppress(OSError, ValueError):  # stderr is gone: nobody reads the log
            sys.stderr.write(f"{line}\n")  # in one piece: other processes may write there too
            sys.stderr.flush()


def begin(role: str, settings: Logs, *, verbose: bool = False) -> None:
    """From now on this process, as `role`, writes its log to stderr. Again with other settings: those hold."""
    discretion = Discretion(plain_uids=settings.uids == "plain")
    handler = _ToStderr()
    handler.setFormatter((JsonLine if is_json(settings) else TextLine)(role, discretion))
    root = logging.getLogger()
    for before in [one for one in root.handlers if isinstance(one, _ToStderr)]:
        root.removeHandler(before)
    root.addHandler(handler)
    level = logging.DEBUG if verbose else logging.getLevelNamesMapping()[settings.level.upper()]
    root.setLevel(max(level, logging.WARNING))
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)
    logging.getLogger("dbos").addHandler(logging.NullHandler())  # else it brings a handler of its own
    logging.captureWarnings(True)


def is_json(settings: Logs) -> bool:
    """Whether a program is to read the lines."""
    return settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())


def catch_all() -> None:
    """What nobody caught, in any thread, becomes a line like all others: a traceback's last line may quote a value."""

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        log.critical("nobody caught this", exc_info=error, extra=about(Event.PROCESS_STUMBLED))

    def in_a_thread(told: threading.ExceptHookArgs) -> None:
        if told.exc_value is not None and told.exc_type is not SystemExit:
            uncaught(told.exc_type, told.exc_value, told.exc_traceback)

    def unraisable(told: Any) -> None:
        log.error("nobody could catch this", exc_info=told.exc_value, extra=about(Event.PROCESS_STUMBLED))

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_a_thread, unraisable
