"""A line of real processes: a listener and workers, started again whenever they end, as systemd would."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tomli_w
from local_postgres import LocalPostgres
from local_process import LocalProcess, free_port

from havoc.warm import WarmPython
from medpipe.config import load_config
from workers.registry import Registry

PAUSE_SECONDS = 0.3
ROOT_MEGABYTES, SCRATCH_MEGABYTES = 400, 32


@dataclass
class Charge:
    """One process of the line, and when it may be started again."""

    process: LocalProcess
    not_before: float = 0.0
    seen_dead: bool = True

    @property
    def name(self) -> str:
        return self.process.name


@dataclass(frozen=True)
class Death:
    """A process has ended: which one, its number, and whether by SIGKILL."""

    name: str
    pid: int
    killed: bool


@dataclass
class Line:
    """One installation. Only the main thread may call `look_after`: processes die with the thread that starts them."""

    folder: Path
    archive_port: int
    database: str = "sqlite"
    workers: int = 3
    poison: str = ""
    attempts: int = 6
    own_disk: bool = True
    warm: bool = True
    children_killed: int = 0
    met: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    stopped: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server = LocalPostgres().create().start() if self.database == "postgresql" else None
        self.root = self.folder / "root"
        self.faults = self.folder / "faults"
        (self.faults / "met").mkdir(parents=True)
        self.scratch = self.folder / "scratch"
        self.root.mkdir()
        self.scratch.mkdir()
        self.on_tmpfs = self.own_disk and _mount(self.root, ROOT_MEGABYTES)
        self.scratch_on_tmpfs = self.own_disk and _mount(self.scratch, SCRATCH_MEGABYTES)
        file = self.folder / "medpipe.toml"
        file.write_text(tomli_w.dumps(self._settings()))
        self.config = load_config(file)
        self._warm = WarmPython(self.folder / "warm").start() if self.warm else None
        python = sys.executable if self._warm is None else str(self._warm.program)
        self._command = [python, "-P", "-m", "medpipe.cli", "--config", str(file)]
        subprocess.run([*self._command, "init"], check=True, capture_output=True)
        self.registry = Registry(self.config.site.database_url)
        names = ["listen", *(f"work-{n + 1}" for n in range(self.workers))]
        self.charges = [Charge(self._process(name)) for name in names]

    @property
    def port(self) -> int:
        return self.config.listener.port

    def _settings(self) -> dict[str, Any]:
        peer = {"ae_title": "PACS", "host": "127.0.0.1", "port": self.archive_port, "commitment": True}
        rule = {"name": "spots", "when": {"Modality": "OP"}, "bundle": "phantom-2d", "send": ["PACS"]}
        database = "sqlite" if self.server is None else self.server.url(self.server.new_database())
        return {
            "site": {"root": str(self.root), "minimum_free": "64 kB", "database": database},
            "listener": {"port": free_port(), "calling": ["MODALITY", "PACS"], "settle_seconds": 1},
            "worker": {
                "device": "cpu",
                "backend": "torch",
                "threads": 1,
                "scratch": str(self.scratch),
                "attempts": self.attempts,
                "send_attempts": 100,
            },
            "peers": {"PACS": {**peer, "timeout": 5}},
            "rules": [rule],
        }

    def _process(self, name: str) -> LocalProcess:
        environment = {"MEDPIPE_FAULTS": str(self.faults), "OMP_NUM_THREADS": "1", "TCP_NODELAY": "1"}
        if self.poison:
            environment["MEDPIPE_POISON"] = self.poison
        command = [*self._command, name.partition("-")[0]]
        return LocalProcess(name, command, self.folder / f"{name}.log", environment=environment)

    # --- processes -----------------------------------------------------------------------------------------------

    def look_after(self) -> list[Death]:
        """Starts what is not running; says what has ended since the last look. Wakes what has been stopped for long."""
        deaths = []
        now = time.monotonic()
        for charge in self.charges:
            process = charge.process
            if process.running:
                continue
            if not charge.seen_dead and process.process is not None:
                charge.seen_dead, charge.not_before = True, now + PAUSE_SECONDS
                killed = process.process.returncode == -signal.SIGKILL
                deaths.append(Death(charge.name, self.pid(process), killed))
            if now >= charge.not_before:
                process.start()
                charge.seen_dead = False
        for pid, until in list(self.stopped.items()):
            if now >= until:
                self.wake(pid)
        self._note_met()
        return deaths

    def _note_met(self) -> None:
        """Counts the armed points that were met; what stopped itself there is woken later."""
        for path in (self.faults / "met").iterdir():
            name, pid, _ = path.name.split(".")
            what = path.read_text()
            path.unlink()
            self.met[name, what] += 1
            if what == "stop":
                self.stopped[int(pid)] = time.monotonic() + 6.0
            elif what == "kill" and name in OF_CHILDREN:
                self.children_killed += 1

    def pid(self, process: LocalProcess) -> int:
        """The number of the process that does a started program's work."""
        return process.pid if self._warm is None else self._warm.pid(process.pid)

    def running(self, kind: str) -> list[LocalProcess]:
        """The processes of a kind ("listen", "work") that run now."""
        return [c.process for c in self.charges if c.name.startswith(kind) and c.process.running]

    def children(self) -> list[psutil.Process]:
        """The workers' inference children."""
        found = []
        for worker in self.running("work"):
            with contextlib.suppress(psutil.Error):
                found += [
                    p
                    for p in psutil.Process(self.pid(worker)).children()
                    if "workers.child" in " ".join(p.cmdline())
                ]
        return found

    def stop_for(self, pid: int, seconds: float) -> None:
        """SIGSTOP now, SIGCONT after `seconds`."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self.stopped[pid] = time.monotonic() + seconds

    def wake(self, pid: int) -> None:
        self.stopped.pop(pid, None)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def arm(self, point: str, what: str) -> None:
        aside = self.faults / f".{point}"
        aside.write_text(what)
        aside.rename(self.faults / point)

    def armed(self) -> list[str]:
        return [path.name for path in self.faults.iterdir() if path.is_file()]

    def disarm(self) -> None:
        for path in list(self.faults.iterdir()):
            if path.is_file():
                path.unlink(missing_ok=True)

    def log_lines(self, text: str) -> Iterator[str]:
        """Lines of all logs that hold `text`."""
        for charge in self.charges:
            if charge.process.log.exists():
                lines = charge.process.log.read_text(errors="replace").splitlines()
                yield from (f"{charge.name}: {line}" for line in lines if text in line)

    def close(self) -> None:
        """Ends everything and removes the root."""
        for pid in list(self.stopped):
            self.wake(pid)
        for charge in self.charges:
            charge.process.ask()
        for charge in self.charges:
            charge.process.stop()
        if self._warm is not None:
            self._warm.stop()
        self.registry.close()
        if self.server is not None:
            self.server.remove()
        for mounted, place in ((self.on_tmpfs, self.root), (self.scratch_on_tmpfs, self.scratch)):
            if mounted:
                subprocess.run(["umount", "--lazy", str(place)], check=False)


OF_CHILDREN = ("in_step", "in_predict", "after_write")
"""Points that only inference children pass."""


def _mount(place: Path, megabytes: int) -> bool:
    """A small file system of its own for a folder, where we may make one; else a full disk can only be played."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "medpipe-chaos", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
