"""A storm of kills and other troubles over a line of real processes: nothing is lost, everything ends, once.

    .venv/bin/python bench/chaos.py [--database sqlite] [--workers 3] [--kills 200] [--seed 0] [--every 1.0] [--matrix]

A modality keeps sending small drawn studies while listener, workers and inference children are killed (at random, and
at the named points of workers/faults.py), stopped and woken, the disk is full, the database is away for 20 s, and the
PACS refuses, hangs, drops and answers oddly. Two studies are poison: one kills its inference child, one its worker.
Then the storm ends, everything settles, and havoc/judge.py looks. `--matrix` goes through the faults one by one
instead. Prints Markdown; ends with status 1 where a rule is broken. As root the site has a small file system of its
own (tmpfs), so that the disk is really full; else a full disk is played at the points before a write. After five kills
the storm pauses until another study has ended, so that a slow machine has work in progress, too.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))
sys.path.insert(0, str(Path(__file__).parent))

import sqlalchemy as sa
from havoc.archive import Archive
from havoc.judge import broken_rules, ends, not_in_dead_letter, open_jobs
from havoc.line import Line
from havoc.matrix import NOTHING, Trial, faults
from havoc.modality import Modality
from havoc.storm import Storm
from havoc.studies import draw_study, study_uid
from havoc.takeover import spread
from local_process import free_port

from medpipe.identity import digest
from workers.faults import POINTS

OPEN_STUDIES = 12
KILLS_PER_STUDY = 5
SETTLE_SECONDS = 900
_LOOK_SECONDS, _WORD_SECONDS = 1.0, 30.0
POISON = {"child": "poison of a child", "worker": "poison of a worker"}


def main() -> None:
    """Prints one table, and what is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=1.0, help="mean seconds from one trouble to the next")
    parser.add_argument("--minutes", type=float, default=120, help="at most, for the storm")
    parser.add_argument("--attempts", type=int, default=6, help="worker.attempts of the line")
    parser.add_argument(
        "--own-disk", action=argparse.BooleanOptionalAction, default=True, help="mount a tmpfs"
    )
    parser.add_argument(
        "--warm",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fork processes that have imported all",
    )
    parser.add_argument("--matrix", action="store_true", help="the faults one by one")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="with --matrix: faults whose name holds it"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medpipe-chaos-") as name:
        broken = (matrix if options.matrix else storm)(Path(name), options)
    for line in broken:
        print(f"- {line}")
    if broken:
        sys.exit(f"{len(broken)} rules are broken")


def storm(folder: Path, options: argparse.Namespace) -> list[str]:
    """Runs the storm and lets it settle; what is broken."""
    with site(folder, options) as (line, archive, weather):
        room = Room(line)
        modality = Modality(line.port, room)
        room.modality = modality
        began = time.monotonic()
        line.look_after()
        modality.start_with([picture for name in POISON.values() for picture in draw_study(name)])
        until = began + 60 * options.minutes
        while weather.kills < options.kills and time.monotonic() < until:
            weather.tick(quiet=room.is_behind(weather.kills))
            room.look(weather.kills)
            time.sleep(0.05)
        stormed = time.monotonic() - began
        weather.calm()
        _settle(weather, modality, room)
        settled = time.monotonic() - began - stormed
        broken = _broken(line, archive, modality)
        broken += not_in_dead_letter([study_uid(name) for name in POISON.values()], line.registry)
        _print(options, weather, modality, archive, broken, stormed, settled)
        return broken


def matrix(folder: Path, options: argparse.Namespace) -> list[str]:
    """Has the faults happen one by one; what is broken."""
    with site(folder, options) as (line, archive, weather):
        trial = Trial(line, archive, lambda: weather.tick(quiet=True))
        print("| fault | where | how things stand there | the two studies | until both had ended |")
        print("| --- | --- | --- | --- | ---: |")
        broken = []
        chosen = [one for one in faults(line, archive) if options.only in one.what]
        for fault in [NOTHING, *chosen]:
            outcome, took, wrong = trial.run(fault)
            cells = (fault.what, f"`{fault.where}`", POINTS.get(fault.where, ""), outcome, f"{took:.0f} s")
            print(f"| {' | '.join(cells)} |", flush=True)
            broken += wrong
        for whom, name in POISON.items() if not options.only else ():
            outcome, took, wrong = trial.poisoned(whom, name)
            point = {"child": "in_step", "worker": "after_claim"}[whom]
            print(f"| poison that kills its {whom} | `{point}` | | {outcome} | {took:.0f} s |", flush=True)
            broken += wrong
        return broken + _broken(line, archive, trial.modality)


@contextlib.contextmanager
def site(folder: Path, options: argparse.Namespace) -> Iterator[tuple[Line, Archive, Storm]]:
    """A line, its PACS, and the weather over it."""
    archive_port = free_port()
    poison = [f"{whom}:{digest(draw_study(name)[0].sop_instance_uid)[:32]}" for whom, name in POISON.items()]
    line = Line(
        folder,
        archive_port,
        options.database,
        options.workers,
        poison=",".join(poison),
        attempts=options.attempts,
        own_disk=options.own_disk,
        warm=options.warm,
    )
    archive = Archive(archive_port, line.port)
    try:
        archive.start()
        yield line, archive, Storm(line, archive, options.seed, options.every)
    finally:
        archive.close()
        line.close()


def _broken(line: Line, archive: Archive, modality: Modality) -> list[str]:
    return broken_rules(line.root, line.registry, modality.acknowledged, archive.kept, archive.contradictions)


class Room:
    """Whether the line has room for another study: not too many are under way."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.modality: Modality | None = None
        self.ended = 0
        self._next_look = self._next_word = 0.0
        self._seen = (0, 0)

    def __call__(self) -> bool:
        return self.modality is not None and len(self.modality.studies) - self.ended < OPEN_STUDIES

    def is_behind(self, kills: int) -> bool:
        """Whether the storm must pause: so many kills have gone by without a study's end."""
        if self.ended > self._seen[0]:
            self._seen = (self.ended, kills)
        return kills - self._seen[1] >= KILLS_PER_STUDY

    def look(self, kills: int) -> None:
        """Counts, now and then, the studies that have ended, and says so. A database that is away says nothing new."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        if now >= self._next_word and self.modality is not None:
            self._next_word = now + _WORD_SECONDS
            sent = len(self.modality.studies)
            said = f"{time.strftime('%H:%M:%S')} {kills} kills, {sent} studies, {self.ended} ended"
            print(said, file=sys.stderr, flush=True)
        try:
            known, under_way = open_jobs(self._line.registry)
        except sa.exc.SQLAlchemyError:
            return
        self.ended = len(known - under_way)


def _settle(weather: Storm, modality: Modality, room: Room) -> None:
    """Waits until every study that was acknowledged has ended."""
    modality.ask_to_finish()
    until = time.monotonic() + SETTLE_SECONDS
    quiet_since = None
    while time.monotonic() < until:
        weather.tick(quiet=True)
        room.look(weather.kills)
        if modality.is_sending or room.ended < len(modality.studies):
            quiet_since = None
        elif quiet_since is None:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > 5:  # a study may still be settled anew
            return
        time.sleep(0.1)


def _print(
    options: argparse.Namespace,
    weather: Storm,
    modality: Modality,
    archive: Archive,
    broken: list[str],
    stormed: float,
    settled: float,
) -> None:
    points = sum(count for (_, what), count in weather.line.met.items() if what == "kill")
    killed = weather.counted
    rows = [
        ("database, workers, seed", f"{options.database}, {options.workers}, {options.seed}"),
        ("storm; until all had ended", f"{stormed / 60:.0f} min; {settled:.0f} s"),
        (
            "kill -9",
            f"{weather.kills}: listener {killed['killed: listener']}, workers {killed['killed: worker']}, "
            f"inference children {weather.line.children_killed}; {points} of them at "
            f"{len({name for name, what in weather.line.met if what == 'kill'})} named points",
        ),
        ("other troubles", ", ".join(f"{n} x {k}" for k, n in sorted(killed.items()) if "killed" not in k)),
        (
            "stopped or disk full at a point",
            str(sum(n for (_, w), n in weather.line.met.items() if w != "kill")),
        ),
        ("processes that ended by themselves", str(len(weather.ended_by_itself))),
        ("instances acknowledged", f"{len(modality.acknowledged)} (refused for now {modality.refused})"),
        ("studies", str(len(modality.studies))),
        ("jobs ended", ", ".join(f"{n} {k}" for k, n in sorted(ends(weather.line.registry).items()))),
        ("objects at the PACS", str(len(archive.kept))),
        ("queued again after a worker's death", spread(weather.takeovers.handed_on)),
        ("running at another worker", spread(weather.takeovers.running)),
        ("same, database away or a worker stopped meanwhile", spread(weather.takeovers.disturbed)),
        ("broken rules", str(len(broken))),
    ]
    print("| | |\n| --- | --- |")
    for name, value in rows:
        print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
