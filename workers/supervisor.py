"""`serve`: a small parent of the commands that systemd or compose would start on one machine: `listen`, `work`, and
where they are set up `reconcile` (an Orthanc's REST interface is known), `review` and `watch` (alerts tell somebody).

A child that dies is started again, later and later when it dies again and again. The parent holds no state.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from medpipe.config import Config
from medpipe.logs import Event, about
from workers.work import prepare

log = logging.getLogger(__name__)

_STEADY_SECONDS = 30.0
_LONGEST_PAUSE = 30.0
_PATIENCE_SECONDS = 20.0


@dataclass
class Charge:
    """One child: the command's name, its process, when it may be started again."""

    name: str
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 0.5
    not_before: float = field(default=0.0)


def run_supervisor(config: Config, config_file: Path, stop: threading.Event | None = None) -> int:
    """Runs until SIGTERM or SIGINT; then ends its children, by process id, and waits for them."""
    prepare(config)
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    charges = [*(Charge("listen") for _ in range(config.listener.processes)), Charge("work")]
    if any(peer.orthanc is not None for peer in config.peers.values()):
        charges.append(Charge("reconcile", options=("--follow",)))
    if config.review is not None:
        charges.append(Charge("review"))
    if config.alerts.tells_somebody:
        charges.append(Charge("watch"))
    try:
        while not stop.is_set():
            for charge in charges:
                _look_after(charge, config_file)
            stop.wait(0.25)
    finally:
        _end(charges)
    return 0


def _look_after(charge: Charge, config_file: Path) -> None:
    """Starts a child that is not running, with a growing pause between starts that did not last."""
    if charge.process is not None:
        code = charge.process.poll()
        if code is None:
            return
        lasted = time.monotonic() - charge.started
        charge.pause = 0.5 if lasted > _STEADY_SECONDS else min(charge.pause * 2, _LONGEST_PAUSE)
        charge.not_before = time.monotonic() + charge.pause
        charge.process = None
        log.error(
            "%s ended (status %d); started again in %.1f s", charge.name, code, charge.pause,
            extra=about(Event.PROCESS_ENDED, process=charge.name, status=code),
        )  # fmt: skip
    if time.monotonic() >= charge.not_before:
        charge.started = time.monotonic()
        charge.process = subprocess.Popen([*_command(charge.name, config_file), *charge.options])


def _command(name: str, config_file: Path) -> list[str]:
    """The very command that a person would type; it dies with this parent."""
    command = [sys.executable, "-P", "-m", "medpipe.cli", "--config", str(config_file.absolute()), name]
    guard = shutil.which("setpriv")
    return [guard, "--pdeathsig", "TERM", *command] if guard is not None else command


def _end(charges: list[Charge]) -> None:
    running = [charge.process for charge in charges if charge.process is not None]
    for process in running:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for process in running:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
