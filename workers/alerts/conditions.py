"""What is wrong now. Each condition has a name that stays, a sentence, and what to do; none of them names a patient."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from medpipe.certificates import first_end
from medpipe.config import Config, Peer, files_of
from medpipe.errors import CODES, ConfigError, DiskFull, MedpipeError
from medpipe.pacs import echo
from workers.database import clock
from workers.lease import TTL_SECONDS
from workers.registry import Registry
from workers.spool import Spool
from workers.tables import FINAL, JobState, executor, job, result, study

_NAMED = 5
_ECHO_SECONDS = 10.0
_DAY = 86400.0
_ENDED = [state.value for state in FINAL]


@dataclass(frozen=True)
class Condition:
    """`key` is `kind` or `kind:which`. It is told once it has lasted `after` seconds, and again when `mark` rises."""

    key: str
    sentence: str
    advice: str
    mark: float = 0.0
    after: float = 0.0


@dataclass(frozen=True)
class Look:
    """All that is wrong, and the kinds of which nobody can say now whether they are."""

    conditions: tuple[Condition, ...]
    unknown: frozenset[str] = frozenset()


def look(config: Config, registry: Registry, spool: Spool, now: float | None = None) -> Look:
    """One look at the site. `now` is in seconds since 1970."""
    now = time.time() if now is None else now
    conditions = [*_disk(config), *_certificates(config, now), *_peers(config)]
    try:
        with registry.read() as connection:
            conditions += [*_queue(config, connection, spool, now), *_room(connection), *_failed(connection)]
    except SQLAlchemyError as error:
        after = 60 * config.alerts.peer_minutes
        sentence = f"the database does not answer ({type(error).__name__})"
        conditions.append(
            Condition("database", sentence, "start it again; instances are received meanwhile", after=after)
        )
        return Look(tuple(conditions), frozenset({"queue", "standstill", "room", "failed"}))
    return Look(tuple(conditions))


def _queue(config: Config, connection: Connection, spool: Spool, now: float) -> Iterator[Condition]:
    """Jobs that wait too long; and work of any kind (arrivals too) of which nothing is finished."""
    limit, twice = 60 * config.alerts.queue_minutes, config.alerts.every
    waits = job.c.state == JobState.QUEUED.value
    runs = job.c.state == JobState.RUNNING.value
    row = connection.execute(
        sa.select(
            sa.func.min(sa.case((waits, job.c.updated_at))).label("waits_since"),
            sa.func.min(sa.case((waits | runs, job.c.updated_at))).label("since"),
            sa.func.max(sa.case((job.c.state.in_(_ENDED), job.c.updated_at))).label("ended"),
            sa.func.sum(sa.case((waits, 1), else_=0)).label("waiting"),
            sa.func.sum(sa.case((runs, 1), else_=0)).label("running"),
        )
    ).one()
    advice = f"see `medpipe status` and the workers' log ({_alive(connection)} workers are alive)"
    if row.waits_since is not None and now - row.waits_since > limit:
        sentence = f"{row.waiting} jobs wait, the oldest for {_minutes(now - row.waits_since)}"
        yield Condition("queue", sentence, advice, after=twice)
    settling = connection.execute(
        sa.select(sa.func.min(study.c.last_at)).where(
            study.c.settled < study.c.generation, study.c.retrieval.is_(None)
        )
    ).scalar()
    published = connection.execute(sa.select(sa.func.max(result.c.created_at))).scalar()
    since = [at for at in (row.since, settling, spool.oldest_arrival()) if at is not None]
    idle = now - max(min(since), row.ended or 0.0, published or 0.0) if since else 0.0
    if idle > limit:
        sentence = (
            f"nothing was finished for {_minutes(idle)}, while {row.waiting or 0} jobs wait, "
            f"{row.running or 0} run, and studies {'are' if settling else 'are not'} waiting to become jobs"
        )
        yield Condition("standstill", sentence, advice, after=twice)


def _room(connection: Connection) -> Iterator[Condition]:
    """Jobs that wait for a disk. A quota's end shows nowhere else."""
    waits = sa.and_(job.c.state == JobState.QUEUED.value, job.c.reason.startswith(f"{DiskFull.code}:"))
    number = connection.execute(sa.select(sa.func.count()).where(waits)).scalar_one()
    if number:
        sentence = f"{number} jobs wait for room on the disk of worker.scratch or site.root ({DiskFull.code})"
        yield Condition("room", sentence, "free it, or raise the quota; they go on by themselves")


def _alive(connection: Connection) -> int:
    recent = executor.c.beat_at > clock(connection) - TTL_SECONDS
    return int(connection.execute(sa.select(sa.func.count()).where(recent)).scalar_one())


def _failed(connection: Connection) -> Iterator[Condition]:
    """The dead letters: told again for each new one, over when none is left."""
    failed = job.c.state == JobState.FAILED.value
    number = connection.execute(sa.select(sa.func.count()).where(failed)).scalar_one()
    if not number:
        return
    rows = connection.execute(
        sa.select(job.c.id, job.c.bundle, job.c.reason, job.c.updated_at)
        .where(failed)
        .order_by(job.c.updated_at.desc())
        .limit(_NAMED)
    ).all()
    newest = ", ".join(f"{row.id} {row.bundle or 'no bundle'} {_code(row.reason)}" for row in rows)
    sentence = f"{number} jobs have failed; the newest: {newest}"
    advice = "`medpipe status` says why, `medpipe retry JOB` runs one again"
    yield Condition("failed", sentence, advice, mark=float(rows[0].updated_at))


def _code(reason: str | None) -> str:
    """The reason's code alone: its sentence is for `status`."""
    words = re.findall(r"[A-Z_0-9]+", reason or "")
    return next((word for word in words if word in CODES), "without a code")


def _disk(config: Config) -> Iterator[Condition]:
    places = {"root": config.site.root}
    if config.worker.scratch is not None:
        places["scratch"] = config.worker.scratch
    for name, folder in places.items():
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            yield Condition(
                f"disk:{name}", f"{folder}: {error.strerror}", "make it reachable again", mark=2.0
            )
            continue
        if free < config.alerts.disk:
            stops = name == "root" and free < config.site.minimum_free
            sentence = f"{free / 1e9:.1f} GB are left at {folder}"
            sentence += "; nothing is received any more" if stops else ""
            yield Condition(f"disk:{name}", sentence, "free it, or lower site.keep_days", mark=float(stops))


def _certificates(config: Config, now: float) -> Iterator[Condition]:
    """Told again a week and a day before the end, and at the end."""
    for key, path in files_of(config, "certificate", "ca"):
        try:
            days = (first_end(key, path).timestamp() - now) / _DAY
        except ConfigError as error:
            yield Condition(f"certificate:{key}", str(error), f"see {key}", mark=9.0)
            continue
        if days < config.alerts.certificate_days:
            sentence = f"{path} ends in {int(days)} days" if days > 0 else f"{path} has expired"
            mark = float(sum(days < least for least in (7, 1, 0)))
            yield Condition(f"certificate:{key}", sentence, "renew it, then restart medpipe", mark=mark)


def _peers(config: Config) -> Iterator[Condition]:
    """A C-ECHO to each peer, all at once."""

    def away(item: tuple[str, Peer]) -> Condition | None:
        name, peer = item
        quick = peer.model_copy(update={"timeout": min(peer.timeout, _ECHO_SECONDS)})
        try:
            echo(quick, config.listener.ae_title)
        except (MedpipeError, OSError) as error:
            why = str(error) if isinstance(error, MedpipeError) else error.strerror or type(error).__name__
            advice = f"`medpipe check-destination {name}` says more; results wait for it"
            return Condition(f"peer:{name}", why, advice, after=60 * config.alerts.peer_minutes)
        return None

    if config.peers:
        with ThreadPoolExecutor(min(8, len(config.peers)), thread_name_prefix="echo") as pool:
            yield from filter(None, pool.map(away, config.peers.items()))


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
