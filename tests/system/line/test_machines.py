"""Two machines: each with a host name, a boot and a scratch of its own; spool, outbox and PostgreSQL are shared."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from local_orthanc import LocalOrthanc
from local_process import LocalProcess, wait_until

from medpipe.config import load_config
from medpipe.identity import uid_from
from workers.queue import status_table
from workers.registry import Registry

PROGRAM = Path(__file__).parents[3] / "deploy" / "simulated_machines.py"
ON_POSTGRESQL = pytest.mark.parametrize("line", ["postgresql"], indirect=True)


class Machine:
    """One machine with its worker; `pid` is that of the worker itself."""

    def __init__(self, line: Any, number: int) -> None:
        self._log = line.folder / f"machine-{number}.log"
        self.scratch = line.folder / "scratch" / f"machine-{number}"
        command = [sys.executable, PROGRAM, line.config_file, "--scratch", line.folder / "scratch"]
        self.process = LocalProcess(f"machine-{number}", [*command, "--first", str(number)], self._log)

    def start(self, stall: str = "") -> Machine:
        self.process.environment = {"OMP_NUM_THREADS": "1", **({"MEDPIPE_STALL": stall} if stall else {})}
        self._begun = self._log.stat().st_size if self._log.exists() else 0
        self.process.start()
        assert wait_until(lambda: self.said("is ready"), 120), self.process.tail()
        return self

    def said(self, words: str) -> bool:
        return words in self._log.read_bytes()[self._begun :].decode()

    def attempts(self) -> list[str]:
        """Folders of attempts in its own scratch."""
        return sorted(path.name for path in self.scratch.iterdir()) if self.scratch.is_dir() else []


@pytest.fixture
def machines(line: Any) -> Iterator[Callable[[int], Machine]]:
    made: list[Machine] = []

    def make(number: int) -> Machine:
        made.append(Machine(line, number))
        return made[-1]

    yield make
    for machine in made:
        machine.process.signal(signal.SIGCONT)
        machine.process.stop(20)


def owner(registry: Registry) -> str:
    """The worker that has claimed the study's job."""
    with registry.read() as connection:
        query = f"SELECT executor_id FROM {status_table(connection)} WHERE workflow_uuid LIKE 'job:%'"
        return str(connection.execute(sa.text(query)).scalar_one())


def state(registry: Registry) -> tuple[str, int]:
    """State and attempts of the only job."""
    (row,) = registry.jobs()
    return row.state, row.attempts


@ON_POSTGRESQL
@pytest.mark.parametrize("end", ["lost", "frozen"])
def test_a_machine_takes_over_the_study_of_another(
    end: str, line: Any, orthanc: LocalOrthanc, dcmtk: Any, spots: Callable[..., Path], machines: Any
) -> None:
    line.start("listen")
    first, second = machines(1), machines(2)
    first.start(stall="before_publish")
    dcmtk("storescu", "-aet", "MODALITY", "-aec", "MEDPIPE", "127.0.0.1", line.port, spots(1))
    assert wait_until(lambda: first.said("stalled at before_publish"), 120), first.process.tail()
    registry = Registry(load_config(line.config_file).site.database_url)
    try:
        assert owner(registry).startswith("machine-1-") and len(first.attempts()) == 1
        second.start()
        if end == "lost":
            first.process.kill()
        assert wait_until(lambda: state(registry) == ("confirmed", 2), 120), second.process.tail()
        assert owner(registry).startswith("machine-2-")
        check_nothing_is_left(end, first, second)
        assert state(registry) == ("confirmed", 2)
    finally:
        registry.close()
    study = uid_from("2.25", "spots", "1")
    assert len(orthanc.sop_instance_uids(StudyInstanceUID=study, Modality="SEG")) == 1
    outbox = [path.name for path in (line.folder / "root" / "outbox").iterdir()]
    assert len(outbox) == 1 and not outbox[0].startswith(".")


def check_nothing_is_left(end: str, first: Machine, second: Machine) -> None:
    """The first machine comes back and finds its study done; what it had computed is not published."""
    assert second.said("took over 1 workflows of 1 dead workers")
    left = first.attempts()
    assert len(left) == 1 and second.attempts() == [], "nobody can reach the other's scratch"
    if end == "lost":
        first.start()
    else:
        first.process.signal(signal.SIGCONT)
    assert wait_until(lambda: first.attempts() == [], 60), "what was left is removed by its own machine"
