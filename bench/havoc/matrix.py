"""The faults one by one: each happens once while two studies are on their way, and both must end confirmed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from havoc.archive import MOODS, Archive
from havoc.judge import open_jobs
from havoc.line import Line
from havoc.modality import Modality
from havoc.storm import AWAY_SECONDS, KILLABLE, fill, take_away
from havoc.studies import draw_study, study_uid
from workers.faults import WRITES
from workers.tables import JobState

PATIENCE_SECONDS = 150.0
MOOD_SECONDS = 8.0
FULL_SECONDS = 5.0
LONG_FULL_SECONDS = 90.0
"""Longer than the attempts of a job last: six of them take a good minute."""

STANDS_STILL = ("before_acknowledge", "in_settle", "in_claim", "before_publish", "in_publish", "after_send")
"""Points at which a process stands still for six seconds, too: in its transactions nobody else can write on SQLite."""


@dataclass(frozen=True)
class Fault:
    """What happens, and where; `begin` makes it happen and gives what ends it (None: it ends by itself).

    `point` names the armed point that must be met.
    """

    what: str
    where: str
    begin: Callable[[], Callable[[], None] | None]
    seconds: float = 0.0
    point: tuple[str, str] | None = None


NOTHING = Fault("none", "to compare", lambda: None)


def faults(line: Line, archive: Archive) -> list[Fault]:
    """All of them, in the order of a study's way."""
    found = [_armed(line, "kill", "kill -9", point) for point in KILLABLE]
    found += [_armed(line, "stop", "SIGSTOP for 6 s", point) for point in STANDS_STILL]
    found += [_armed(line, "full", "disk full once (played)", point) for point in WRITES]

    def moody(mood: str) -> Callable[[], Callable[[], None]]:
        def begin() -> Callable[[], None]:
            archive.mood = mood
            return lambda: setattr(archive, "mood", "good")

        return begin

    found += [Fault(f"PACS {mood} for 8 s", "C-STORE", moody(mood), MOOD_SECONDS) for mood in MOODS]

    def away() -> Callable[[], None]:
        return take_away(line, crash=True)

    def full(place: Path) -> Callable[[], Callable[[], None]]:
        def begin() -> Callable[[], None]:
            ballast = place / "ballast"
            fill(ballast)
            return lambda: ballast.unlink(missing_ok=True)

        return begin

    found.append(Fault(f"database away for {AWAY_SECONDS:.0f} s", "everywhere", away, AWAY_SECONDS))
    if line.on_tmpfs:
        found.append(
            Fault(f"disk full for {FULL_SECONDS:.0f} s", "everywhere", full(line.root), FULL_SECONDS)
        )
    if line.scratch_on_tmpfs:
        long = f"scratch full for {LONG_FULL_SECONDS:.0f} s"
        found.append(Fault(long, "in an attempt", full(line.scratch), LONG_FULL_SECONDS))
    return found


def _armed(line: Line, what: str, name: str, point: str) -> Fault:
    def begin() -> None:
        if point == "after_hand_on":  # somebody has to die before
            line.arm("after_claim", "kill")
        line.arm(point, what)

    return Fault(name, point, begin, point=(point, what))


class Trial:
    """Lets faults happen to a line, and says what became of the studies meanwhile."""

    def __init__(self, line: Line, archive: Archive, tick: Callable[[], None]) -> None:
        self.line, self.archive, self._tick = line, archive, tick
        self.modality = Modality(line.port, lambda: False)
        self._number = 0

    def run(self, fault: Fault) -> tuple[str, float, list[str]]:
        """How the two studies ended, after how many seconds, and what is wrong with that."""
        self._number += 1
        names = [f"trial {self._number} {n}" for n in range(2)]
        pictures = [picture for name in names for picture in draw_study(name)]
        sending = threading.Thread(target=self.modality.send, args=(pictures, PATIENCE_SECONDS), daemon=True)
        began = time.monotonic()
        end = fault.begin()
        sending.start()
        studies = [study_uid(name) for name in names]
        while time.monotonic() - began < PATIENCE_SECONDS:
            self._tick()
            over = time.monotonic() - began > fault.seconds
            if end is not None and over:
                end()
                end = None
            if over and not sending.is_alive() and self._is_met(fault) and self._have_ended(studies):
                break
            time.sleep(0.1)
        took = time.monotonic() - began
        states = [row.state for study in studies for row in self.line.registry.jobs(study)]
        wrong = [] if states == [JobState.CONFIRMED] * 2 else [f"{fault.what}, {fault.where}: {states}"]
        if not self._is_met(fault):
            wrong.append(f"{fault.what}, {fault.where}: never came there")
        if fault.point is not None:
            self.line.met.pop(fault.point, None)
        self.line.disarm()
        return ", ".join(sorted(set(states))), took, wrong

    def _is_met(self, fault: Fault) -> bool:
        return fault.point is None or self.line.met[fault.point] > 0

    def _have_ended(self, studies: list[str]) -> bool:
        known, under_way = open_jobs(self.line.registry)
        return known >= set(studies) and not under_way & set(studies)

    def poisoned(self, whom: str, name: str) -> tuple[str, float, list[str]]:
        """A study that kills whoever works on it, beside one that does not."""
        beside = f"beside {name}"
        sound = study_uid(beside)
        began = time.monotonic()
        pictures = [*draw_study(name), *draw_study(beside)]
        threading.Thread(target=self.modality.send, args=(pictures, PATIENCE_SECONDS), daemon=True).start()
        while time.monotonic() - began < PATIENCE_SECONDS:
            self._tick()
            if self._have_ended([study_uid(name), sound]):
                break
            time.sleep(0.1)
        states = {
            row.study_uid: row for uid in (study_uid(name), sound) for row in self.line.registry.jobs(uid)
        }
        poison, well = states.get(study_uid(name)), states.get(sound)
        took = time.monotonic() - began
        if poison is None or well is None:
            return "no job", took, [f"poison of a {whom}: no job"]
        good = poison.state == JobState.FAILED and bool(poison.reason) and well.state == JobState.CONFIRMED
        outcome = f"{poison.state} after {poison.attempts} attempts: {poison.reason}; the other {well.state}"
        return outcome, took, [] if good else [f"poison of a {whom}: {outcome}"]
