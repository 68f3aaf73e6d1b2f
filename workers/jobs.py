"""The workflow `job`: one durable step that assembles, predicts and writes, with publishing as its only effect."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from medpipe.config import Config
from medpipe.errors import Disposition, IntegrityError, MedpipeError, disposition
from medpipe.logs import Event, about
from workers import faults, fence, trace
from workers.database import is_away
from workers.errands import reason_of
from workers.fence import LostClaim
from workers.publish import had_attempts, outbox, publish
from workers.queue import JobQueue, job_workflow_id
from workers.registry import Registry
from workers.slots import Interrupted, Slots
from workers.spool import Spool
from workers.tables import FINAL, JobState, instance

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 2.0, 900.0
LONGEST_WAIT_FOR_ROOM = 60.0
"""A full disk is looked at more often: looking costs nothing but the worker's own time, which has no other use."""


def attempt_folders(config: Config, job_id: str, token: str) -> tuple[Path, Path]:
    """Where one attempt computes and where it puts its files; the token keeps attempts apart."""
    name = f"{job_id}-{token[:16]}"
    return (config.worker.scratch or config.site.root / "work") / name, outbox(config.site.root) / f".{name}"


def delay_after(attempt: int, longest: float = LONGEST_DELAY) -> float:
    """Seconds to wait after a failed attempt: doubled each time, with a ceiling."""
    return float(min(FIRST_DELAY * 2 ** min(attempt - 1, 30), longest))


def fills_disk(folder: Path, minimum_free: int) -> bool:
    """Whether an attempt's folder takes so much room that nobody else need be blamed for a full disk.

    That is as much as the site wants free at any time, or half of a small disk.
    """
    try:
        size = sum(512 * path.lstat().st_blocks for path in folder.rglob("*"))
        return size >= min(minimum_free, shutil.disk_usage(folder).total // 2)
    except OSError:
        return False


class JobRunner:
    """Runs a job's attempt in one of the worker's slots."""

    def __init__(
        self,
        config: Config,
        spool: Spool,
        registry: Registry,
        queue: JobQueue,
        slots: Slots,
        executor_id: str,
    ) -> None:
        self._config, self._spool, self._registry = config, spool, registry
        self._queue, self._slots, self._executor_id = queue, slots, executor_id
        self._begun: set[str] = set()

    def run(self, job_id: str, generation: int, attempt: int) -> str:
        """One attempt; returns the job's state after it. Raises LostClaim when another worker has the job by now."""
        workflow_id = job_workflow_id(job_id, generation, attempt)
        with self._registry.read() as connection:
            token = fence.claim_token(connection, workflow_id, self._executor_id)
        row = self._claim(job_id, generation, workflow_id, token)
        if row is None:
            return "nothing to do"
        started = time.monotonic()
        log.debug("study %s: claimed", row.study_uid, extra=about(Event.JOB_CLAIMED, **_facts(row)))
        faults.point("after_claim")
        faults.poison([self._spool.path_named(name) for name in row.instances], kills="worker")
        scratch, out = attempt_folders(self._config, job_id, token)
        span = trace.open_span(job_id, "job", **_facts(row), attempt=row.attempts, generation=generation)
        state: JobState | None = None
        code: str | None = "interrupted"
        try:
            if had_attempts(row):
                self._clear_away(job_id)
            out.mkdir(parents=True)
            scratch.mkdir(parents=True)
            outcome = self._slots.ask(
                self._request(row, out, scratch),
                seconds=self._config.worker.kill_stalled_after,
                still_wanted=lambda: self._still_ours(workflow_id, token),
            )
            span.steps(outcome["seconds"], len(outcome["images"]))
            faults.point("before_publish")
            with span.part("publish"):
                state = self._published(row, out, outcome, workflow_id, token)
            code = None
            faults.point("after_publish")
        except Interrupted:
            self._give_back(row, workflow_id, token)
            raise
        except Exception as error:
            code = error.code if isinstance(error, MedpipeError) else type(error).__name__
            state = self._failed(row, generation, attempt, error, workflow_id, token, (scratch, out))
        finally:
            span.close(error=code, state=state and state.value)
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(out, ignore_errors=True)
        self._begun.discard(token)
        log.info(
            "study %s: %s: %s", row.study_uid, row.bundle, state.value,
            extra=about(Event.JOB_ENDED, **_facts(row), state=state.value, seconds=_since(started)),
        )  # fmt: skip
        return state.value

    def _clear_away(self, job_id: str) -> None:
        """What earlier attempts of the job have left here: killed ones, or stalled ones that the fence keeps out."""
        scratch, out = attempt_folders(self._config, job_id, "")
        for pattern in (scratch, out):
            for folder in pattern.parent.glob(f"{pattern.name}*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _published(
        self, row: Row[Any], out: Path, outcome: dict[str, Any], workflow_id: str, token: str
    ) -> JobState:
        """Publishes, as soon as the database answers: what was computed is not thrown away for an outage."""
        pause = 1.0
        while True:
            try:
                return publish(
                    self._registry, self._queue, self._config.site.root, row, out, outcome, workflow_id, token
                )
            except sa.exc.SQLAlchemyError as error:
                if not is_away(error) or self._slots.is_closing:
                    raise
                log.warning(
                    "study %s: the database does not answer; the results wait for it",
                    row.study_uid,
                    extra=about(Event.DATABASE_AWAY, **_facts(row)),
                )
                time.sleep(pause)
                pause = min(pause * 1.5, 15.0)

    def _give_back(self, row: Row[Any], workflow_id: str, token: str) -> None:
        """The worker ends in the middle: the job waits again, and the attempt does not count."""
        try:
            with self._registry.begin() as connection:
                fence.check(connection, workflow_id, token)
                self._registry.move(
                    connection, row.id, JobState.QUEUED, attempts=max(0, row.attempts - 1), step=""
                )
        except (sa.exc.SQLAlchemyError, MedpipeError) as error:
            log.warning(
                "study %s: not given back (%s)",
                row.study_uid,
                type(error).__name__,
                extra=about(Event.DATABASE_AWAY, **_facts(row)),
            )

    def _claim(self, job_id: str, generation: int, workflow_id: str, token: str) -> Row[Any] | None:
        """Marks the job as running; None where this attempt's work is already published, cancelled or given up.

        Each claim counts as an attempt, so a study that kills its worker again and again ends in the dead letter. One
        that begins anew because the database was away in the midst of it is still the same.
        """
        known = token in self._begun
        self._begun.add(token)
        with self._registry.begin() as connection:
            fence.check(connection, workflow_id, token)
            row = self._registry.job(job_id, connection)
            state = JobState(row.state)
            if row.generation != generation or state in FINAL or state in (JobState.SENDING, JobState.SENT):
                return None
            if row.attempts >= self._config.worker.attempts and not known:
                reason = (
                    row.reason or f"given up after {row.attempts} attempts: each one ended without a word"
                )
                self._registry.move(connection, job_id, JobState.FAILED, reason=reason, step="")
                log.error(
                    "study %s: %s: %s", row.study_uid, row.bundle, reason,
                    extra=about(Event.JOB_GIVEN_UP, **_facts(row)),
                )  # fmt: skip
                return None
            count = row.attempts if known else row.attempts + 1
            self._registry.move(
                connection, job_id, JobState.RUNNING, attempts=count, step="process", reason=None
            )
            if trace.is_on():
                _trace_the_wait(connection, row)
            faults.point("in_claim")
            return self._registry.job(job_id, connection)

    def _request(self, row: Row[Any], out: Path, scratch: Path) -> dict[str, Any]:
        paths = [self._spool.path_named(name) for name in row.instances]
        for path in paths:
            if not path.is_file():
                raise IntegrityError(
                    f"instance {path.stem} of the job is no longer in the spool; send the study again"
                )
        return {
            "job": row.id,
            "paths": [str(p) for p in paths],
            "bundle": row.bundle,
            "out": str(out),
            "scratch": str(scratch),
        }

    def _still_ours(self, workflow_id: str, token: str) -> None:
        """Raises LostClaim when the job was handed on or cancelled. A database that is away is no reason to stop."""
        try:
            with self._registry.read() as connection:
                if fence.claim_token(connection, workflow_id, self._executor_id) != token:
                    raise LostClaim(f"{workflow_id} was taken over")
        except sa.exc.SQLAlchemyError as error:
            if not is_away(error):
                raise
            log.warning("the database does not answer; the step goes on", extra=about(Event.DATABASE_AWAY))

    def _failed(
        self,
        row: Row[Any],
        generation: int,
        attempt: int,
        error: Exception,
        workflow_id: str,
        token: str,
        folders: tuple[Path, Path],
    ) -> JobState:
        """What becomes of the job: it waits, is tried again later, quarantined, or given up, as the error's class says.

        Room on a disk is waited for where others have taken it; a study that fills one by itself is at fault.
        """
        if is_away(error):
            raise error  # begun anew when the database is back
        outcome = disposition(error)
        least = self._config.site.minimum_free
        if outcome is Disposition.WAIT and any(fills_disk(folder, least) for folder in folders):
            outcome = Disposition.RETRY
        if isinstance(error, MedpipeError | OSError):
            reason = reason_of(error)
        else:
            reason = type(error).__name__
            log.exception(
                "study %s: %s", row.study_uid, reason, extra=about(Event.PROCESS_STUMBLED, **_facts(row))
            )
        attempts, counted = row.attempts, row.attempts
        with self._registry.begin() as connection:
            fence.check(connection, workflow_id, token)
            present = JobState(self._registry.job(row.id, connection).state)
            if present is not JobState.RUNNING:  # cancelled in this very moment, or its results are out
                return present
            if outcome is Disposition.QUARANTINE:
                state = JobState.QUARANTINED
            elif outcome is Disposition.WAIT:
                state, counted = JobState.QUEUED, max(0, attempts - 1)
                delay = delay_after(attempt, LONGEST_WAIT_FOR_ROOM)
                self._queue.enqueue_attempt(connection, row.id, row.priority, generation, attempt + 1, delay)
            elif outcome is Disposition.RETRY and attempts < self._config.worker.attempts:
                state = JobState.QUEUED
                self._queue.enqueue_attempt(
                    connection, row.id, row.priority, generation, attempt + 1, delay_after(attempts)
                )
            else:
                state = JobState.FAILED
            self._registry.move(connection, row.id, state, reason=reason, step="", attempts=counted)
        log.warning(
            "study %s: %s: attempt %d: %s", row.study_uid, row.bundle, attempts, reason,
            extra=about(Event.JOB_ATTEMPT_FAILED, **_facts(row), attempt=attempts, reason=reason, state=state.value),
        )  # fmt: skip
        return state


def _trace_the_wait(connection: sa.Connection, row: Row[Any]) -> None:
    """What came before the claim of a job: known from its row, so that whoever plans one need not trace."""
    now = time.time()
    if row.attempts == 0 and row.generation == 1:
        first = connection.execute(
            sa.select(sa.func.min(instance.c.received_at)).where(instance.c.file.in_(row.instances))
        ).scalar()
        first = row.received_at if first is None else first
        trace.root(row.id, first, now, **_facts(row))
        trace.span(row.id, "received", first, row.received_at, instances=len(row.instances))
        trace.span(row.id, "settled", row.received_at, row.created_at)
    trace.span(row.id, "claim", row.updated_at, now, attempt=row.attempts + 1, generation=row.generation)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _facts(row: Row[Any]) -> dict[str, Any]:
    """What the log says of a job."""
    return {"job": row.id, "study": row.study_uid, "bundle": row.bundle}
