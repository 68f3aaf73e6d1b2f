"""Figures for Prometheus at /metrics, in its text format 0.0.4.

Everything is read from the registry at the time of asking, so any number of processes gives the same answer. No patient
data, and no UID: counts by state, bundle and peer alone.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import quantiles

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from medpipe import __version__
from medpipe.config import Config
from medpipe.errors import PeerUnreachable
from workers.database import clock
from workers.registry import Registry
from workers.tables import DeliveryState, JobState, Retention, delivery, executor, instance, job, study

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FRESH_SECONDS = 5.0
_SILENT_SECONDS = 10.0
"""A worker beats every 2 s; the others take its work over after 8."""
_HOUR_SECONDS = 3600.0

Sample = tuple[dict[str, str], float]


@dataclass(frozen=True)
class Family:
    """One metric: its name without `medpipe_`, what it says, and a value for each set of labels."""

    name: str
    says: str
    samples: tuple[Sample, ...]
    kind: str = "gauge"

    def lines(self) -> Iterator[str]:
        yield f"# HELP medpipe_{self.name} {self.says}"
        yield f"# TYPE medpipe_{self.name} {self.kind}"
        for labels, value in self.samples:
            inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield f"medpipe_{self.name}{f'{{{inside}}}' if inside else ''} {value:.17g}"


class Metrics:
    """The figures of one site. Whoever asks too often gets the last answer again."""

    def __init__(self, config: Config, registry: Registry, fresh_seconds: float = _FRESH_SECONDS) -> None:
        self._config, self._registry, self._fresh_seconds = config, registry, fresh_seconds
        self._lock = threading.Lock()
        self._text, self._at = "", float("-inf")

    def text(self) -> str:
        """The whole page. A database that is away is a figure too, and the only one about it."""
        with self._lock:
            if time.monotonic() - self._at >= self._fresh_seconds:
                self._text = "".join(f"{line}\n" for family in self._families() for line in family.lines())
                self._at = time.monotonic()
            return self._text

    def _families(self) -> list[Family]:
        families = [Family("build_info", "The version that runs.", (({"version": __version__}, 1.0),))]
        families += self._disk()
        try:
            with self._registry.read() as connection:
                known = [*_received(connection), *_jobs(connection), *_queue(connection), *_steps(connection)]
                known += [*_peers(connection, self._config.peers), *_workers(connection)]
        except SQLAlchemyError:
            return [*families, _plain("database_up", "Whether the database answers.", 0)]
        return [*families, _plain("database_up", "Whether the database answers.", 1), *known]

    def _disk(self) -> list[Family]:
        site = self._config.site
        floor = _plain(
            "disk_minimum_free_bytes", "site.minimum_free: below it nothing is received.", site.minimum_free
        )
        try:
            free = shutil.disk_usage(site.root).free
        except OSError:
            return [floor]
        return [_plain("disk_free_bytes", "Free space under site.root.", free), floor]


def _received(connection: Connection) -> list[Family]:
    rows = connection.execute(
        sa.select(
            instance.c.retention, sa.func.count().label("number"), sa.func.sum(instance.c.size).label("size")
        ).group_by(instance.c.retention)
    ).all()
    kept = sum(int(row.size) for row in rows if row.retention != Retention.REMOVED.value)
    aside = connection.execute(
        sa.select(sa.func.count()).where(
            sa.or_(instance.c.aside, instance.c.study_uid.is_(None)),
            instance.c.retention != Retention.REMOVED.value,
        )
    ).scalar_one()
    return [
        _plain(
            "instances_received_total", "Instances ever received.", sum(row.number for row in rows), "counter"
        ),
        _plain("instances_odd", "Instances kept aside, or with an unreadable header.", aside),
        _plain("spool_bytes", "Size of the received instances that are kept.", kept),
    ]


def _jobs(connection: Connection) -> list[Family]:
    states, kept = _count_by(connection, job.c.state), _count_by(connection, study.c.retention)
    settling = connection.execute(
        sa.select(sa.func.count()).where(study.c.settled < study.c.generation)
    ).scalar_one()
    return [
        Family(
            "jobs",
            "Jobs by state.",
            tuple(
                ({"state": state.value}, float(states.get(state.value, 0)))
                for state in JobState
                if state is not JobState.SETTLING  # studies are settling, jobs come of it
            ),
        ),
        Family(
            "studies",
            "Studies by what is left of their files.",
            tuple(({"files": one.value}, float(kept.get(one.value, 0))) for one in Retention),
        ),
        _plain("studies_settling", "Studies that wait to be complete.", settling),
    ]


def _queue(connection: Connection) -> list[Family]:
    since = connection.execute(
        sa.select(sa.func.min(job.c.updated_at)).where(job.c.state == JobState.QUEUED.value)
    ).scalar()
    age = 0.0 if since is None else max(0.0, time.time() - since)
    return [_plain("queue_age_seconds", "How long the oldest queued job has been waiting.", age)]


def _steps(connection: Connection) -> list[Family]:
    """Of the last hour: sums over all time would mean reading every job."""
    rows = connection.execute(
        sa.select(job.c.bundle, job.c.seconds).where(job.c.updated_at > time.time() - _HOUR_SECONDS)
    )
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        for step, seconds in row.seconds.items():
            taken[row.bundle, step].append(float(seconds))
    samples = []
    for (bundle, step), values in sorted(taken.items()):
        cuts = quantiles(values, n=20, method="inclusive") if len(values) > 1 else values * 19
        for quantile, value in (("0.5", cuts[9]), ("0.95", cuts[18])):
            samples.append(({"bundle": bundle, "step": step, "quantile": quantile}, value))
    says = "Seconds of a step, of the jobs of the last hour."
    return [Family("step_seconds", says, tuple(samples))]


def _peers(connection: Connection, names: Iterable[str]) -> list[Family]:
    """From what sending has met; nobody is called."""
    waits = delivery.c.state == DeliveryState.WAITING.value
    away = sa.and_(waits, delivery.c.reason.startswith(f"{PeerUnreachable.code}:"))
    rows = connection.execute(
        sa.select(
            delivery.c.destination,
            sa.func.max(delivery.c.sent_at).label("sent_at"),
            sa.func.sum(sa.case((waits, 1), else_=0)).label("waiting"),
            sa.func.sum(sa.case((delivery.c.state == DeliveryState.FAILED.value, 1), else_=0)).label(
                "failed"
            ),
            sa.func.sum(sa.case((away, 1), else_=0)).label("away"),
        ).group_by(delivery.c.destination)
    ).all()
    of_peer = {row.destination: row for row in rows}
    known = {name: of_peer.get(name) for name in sorted({*names, *of_peer})}

    def by_peer(name: str, says: str, values: dict[str, float]) -> Family:
        return Family(name, says, tuple(({"peer": peer}, value) for peer, value in values.items()))

    return [
        by_peer(
            "peer_up",
            "0 while results wait for a peer that did not answer.",
            {peer: float(row is None or not row.away) for peer, row in known.items()},
        ),
        by_peer(
            "peer_results_waiting",
            "Results that are still to be sent.",
            {peer: float(row.waiting) if row is not None else 0.0 for peer, row in known.items()},
        ),
        by_peer(
            "peer_results_failed",
            "Results that a peer has refused, or that were given up.",
            {peer: float(row.failed) if row is not None else 0.0 for peer, row in known.items()},
        ),
        by_peer(
            "peer_last_sent_timestamp_seconds",
            "When a result was last stored there.",
            {peer: row.sent_at for peer, row in known.items() if row is not None and row.sent_at},
        ),
    ]


def _workers(connection: Connection) -> list[Family]:
    alive = connection.execute(
        sa.select(sa.func.count()).where(executor.c.beat_at > clock(connection) - _SILENT_SECONDS)
    ).scalar_one()
    return [_plain("workers_alive", "Workers that have given a sign of life.", alive)]


def _count_by(connection: Connection, column: sa.Column[str]) -> dict[str, int]:
    rows = connection.execute(sa.select(column, sa.func.count()).group_by(column))
    return {str(value): int(number) for value, number in rows}


def _plain(name: str, says: str, value: float, kind: str = "gauge") -> Family:
    return Family(name, says, (({}, float(value)),), kind)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
