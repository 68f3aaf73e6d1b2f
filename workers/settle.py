"""From received instances to jobs: register what has arrived, settle studies that are quiet or known to be complete.

Every worker has a steward; that of the worker that leads is at work. Any number of them may race: registering is
idempotent, and a generation of a study is turned into jobs in one transaction that only the first one wins.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import sqlalchemy as sa

from medpipe.bundle import find_bundle
from medpipe.config import Config, Rule
from medpipe.dicom import GuardedReader, InstanceHeader, Scan
from medpipe.dicom.classes import SLICES
from medpipe.errors import MedpipeError, ReasonCode, Refused
from medpipe.logs import Event, about
from medpipe.pacs import count_instances
from medpipe.routing import facts_of, route
from medpipe.types import Quarantine
from workers import faults
from workers.late import PART, parts_of
from workers.registry import ROUTINE, STAT, Enqueue, JobPlan, Registry, StudyRow, content_digest
from workers.spool import Spool
from workers.tables import JobState
from workers.urgency import Urgency

log = logging.getLogger(__name__)

_BATCH = 500
_STUDIES_PER_ROUND = 50
"""About a second's work: then what has come meanwhile is looked at, for it may be urgent."""
_COUNT_AGAIN_SECONDS = 2.0
_STALE_RETRIEVAL_SECONDS = 3600.0


class Steward:
    """Registers and settles. `tick` does one round; `run` does rounds until told to stop."""

    def __init__(
        self, config: Config, spool: Spool, registry: Registry, enqueue: Enqueue, *, ask_peers: bool = True
    ) -> None:
        self._config, self._spool, self._registry, self._enqueue = config, spool, registry, enqueue
        self._reader = GuardedReader(config.reading, uid_root=config.site.uid_root)
        self._counts = _ExpectedCounts(config) if ask_peers else None
        self._urgency = Urgency(config, spool, registry, self._reader)
        self._is_behind = False

    def __enter__(self) -> Steward:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()
        if self._counts is not None:
            self._counts.close()

    def run(
        self, stop: threading.Event, leads: Callable[[], bool] = lambda: True, every: float = 0.5
    ) -> None:
        """Rounds until `stop`, while we lead. A database that is away is waited for: arrivals stay in the spool."""
        away = False
        while not stop.is_set():
            try:
                if leads():
                    self.tick()
                    if away:
                        log.info("the database is back", extra=about(Event.DATABASE_BACK))
                    away = False
            except sa.exc.DBAPIError as error:
                if not away:
                    log.error(
                        "the database does not answer (%s); waiting for it",
                        type(error.orig).__name__,
                        extra=about(Event.DATABASE_AWAY),
                    )
                away = True
            except Exception:
                log.exception("settling stumbled; it is tried again", extra=about(Event.PROCESS_STUMBLED))
            stop.wait(0 if self._is_behind and not away else every)

    def tick(self) -> list[str]:
        """One round: what is complete settles, the urgent first, not more than some; returns the new jobs."""
        self._is_behind = False
        self.register()
        self._registry.end_stale_retrievals(_STALE_RETRIEVAL_SECONDS)
        complete = [study for study in self._registry.unsettled() if self._is_complete(study)]
        jobs: list[str] = []
        for study in self._urgency.ordered(complete)[:_STUDIES_PER_ROUND]:
            jobs += self.settle(study)
        self._is_behind = len(complete) > _STUDIES_PER_ROUND
        return jobs

    def register(self) -> int:
        """Brings all arrivals into the registry; returns how many instances were new."""
        return register_arrivals(self._spool, self._registry)

    def settle(self, study: StudyRow) -> list[str]:
        """Turns a study's present content into jobs."""
        faults.point("before_settle")
        try:
            plans = self._plans(study)
            if parts := parts_of(self._registry, study.study_uid, plans):
                here = _content(self._registry.instances_of(study.study_uid))
                also = [plan.reason or "" for plan in plans if plan.state is JobState.QUARANTINED]
                plans = [plan for plan in plans if plan not in parts and plan.bundle]
                plans.append(self._idle_plan(study, here, JobState.QUARANTINED, "; ".join([PART, *also])))
        except MedpipeError as error:
            log.error(
                "study %s cannot be settled: %s", study.study_uid, error,
                extra=about(Event.STUDY_NOT_SETTLED, study=study.study_uid, reason=error.code),
            )  # fmt: skip
            plans = [self._idle_plan(study, "", JobState.FAILED, f"{error.code}: {error}")]
        jobs = self._registry.settle(study, plans, self._enqueue)
        faults.point("after_settle")
        for plan in plans:
            if plan.id in jobs:
                log.info(
                    "study %s: %s %s",
                    study.study_uid,
                    plan.bundle or "no bundle",
                    plan.reason or plan.state.value,
                    extra=about(Event.STUDY_SETTLED, study=study.study_uid, job=plan.id, bundle=plan.bundle),
                )
        return jobs

    def _is_complete(self, study: StudyRow) -> bool:
        if time.time() - study.last_at >= self._config.listener.settle_seconds:
            return True
        return self._counts is not None and self._counts.reached(study)

    def _plans(self, study: StudyRow) -> list[JobPlan]:
        rows = self._registry.instances_of(study.study_uid)
        paths = {self._spool.path_named(row.file): row for row in rows}
        scan = self._reader.scan(list(paths))
        if len({header.patient_key for header in scan.instances}) > 1:
            sentence = "the study holds instances of two patient ids; correct it in the PACS"
            return [
                self._idle_plan(
                    study, _content(rows), JobState.QUARANTINED, f"{ReasonCode.TWO_PATIENTS}: {sentence}"
                )
            ]
        calling = {path: row.calling_ae for path, row in paths.items()}
        foreign = [header for header in scan.instances if not header.own_output]
        elsewhere = self._registry.series_first_elsewhere(study.study_uid)
        chosen: dict[str, tuple[Rule, list[InstanceHeader]]] = {}
        unreadable = unreadable_by_series(scan, paths)
        refused = [cannot_be_read(series_uid, found) for series_uid, found in unreadable.items()]
        for facts in facts_of(foreign, calling):
            members = [header for header in foreign if header.series_uid == facts.series_uid]
            wanting = route(self._config.rules, facts)
            if wanting and facts.series_uid in elsewhere:
                refused.append(in_two_studies(facts.series_uid, elsewhere[facts.series_uid]))
                continue
            if facts.series_uid in unreadable and any(one.sop_class_uid in SLICES for one in members):
                continue  # no volume is made of what is left of it
            for rule in wanting:
                chosen.setdefault(rule.bundle, (rule, []))[1].extend(members)
        plans = [self._plan(study, rule, members, paths) for rule, members in chosen.values()]
        if refused:
            reason = "; ".join(f"{one.code}: {one}" for one in refused)
            plans.append(self._idle_plan(study, _content(rows), JobState.QUARANTINED, reason))
        if not plans:
            reason = self._why_nothing(foreign, len(scan.instances))
            plans.append(self._idle_plan(study, _content(rows), JobState.IGNORED, reason))
        return plans

    def _plan(
        self,
        study: StudyRow,
        rule: Rule,
        members: list[InstanceHeader],
        paths: dict[Path, sa.Row[tuple[object, ...]]],
    ) -> JobPlan:
        bundle = find_bundle(rule.bundle, self._config.worker.bundle_folders)
        rows = [paths[header.path] for header in members]
        return JobPlan(
            study_uid=study.study_uid,
            bundle=bundle.id,
            bundle_version=bundle.version,
            bundle_hash=bundle.hash,
            content=_content(rows),
            instances=tuple(sorted(str(row.file) for row in rows)),
            rule=rule.name,
            priority=STAT if rule.priority == "stat" else ROUTINE,
            destinations=rule.send,
            received_at=study.last_at,
        )

    def _idle_plan(self, study: StudyRow, content: str, state: JobState, reason: str) -> JobPlan:
        """A row that nothing will be done for, so that `status` shows the study and why."""
        return JobPlan(
            study.study_uid,
            "",
            "",
            "",
            content,
            (),
            "",
            ROUTINE,
            (),
            study.last_at,
            state=state,
            reason=reason,
        )

    def _why_nothing(self, foreign: list[InstanceHeader], readable: int) -> str:
        if readable and not foreign:
            return f"{ReasonCode.OWN_OUTPUT}: results of medpipe are never processed again"
        kinds = "/".join(sorted({header.modality or "?" for header in foreign}))
        return f"{ReasonCode.NO_RULE}: no rule wants these series ({kinds}); `medpipe explain` says why"


def unreadable_by_series(
    scan: Scan, paths: Mapping[Path, sa.Row[tuple[object, ...]]]
) -> dict[str | None, list[Quarantine]]:
    """What cannot be read, by the series that the listener saw when it came."""
    found: dict[str | None, list[Quarantine]] = {}
    for quarantine, path in zip(scan.unreadable, scan.unreadable_paths, strict=True):
        found.setdefault(paths[path].series_uid, []).append(quarantine)
    return found


def cannot_be_read(series_uid: str | None, found: Sequence[Quarantine]) -> Refused:
    count = "1 instance" if len(found) == 1 else f"{len(found)} instances"
    of_series = f" of series {series_uid}" if series_uid else ""
    return Refused(found[0].code, f"{count}{of_series} cannot be read: {found[0].sentence}")


def in_two_studies(series_uid: str, first: str) -> Refused:
    """Why a series is refused that study `first` had before: which study is the right one is not guessed."""
    sentence = f"series {series_uid} came first as part of study {first}; correct it in the PACS"
    return Refused(ReasonCode.SERIES_IN_TWO_STUDIES, sentence)


def register_arrivals(spool: Spool, registry: Registry) -> int:
    """Spool -> registry, in batches of one transaction each; an arrival is ticked off after its commit."""
    new = 0
    while batch := spool.arrivals(_BATCH):
        faults.point("before_register")
        new += registry.register(batch)
        faults.point("after_register")
        for sidecar in batch:
            spool.registered(sidecar)
    return new


def rescan(spool: Spool, registry: Registry) -> int:
    """Rebuilds the rows of all received instances from the spool; returns how many were missing."""
    new, batch = 0, []
    for sidecar in spool.sidecars():
        batch.append(sidecar)
        if len(batch) >= _BATCH:
            new += registry.register(batch)
            batch = []
    return new + registry.register(batch)


def _content(rows: list[sa.Row[tuple[object, ...]]]) -> str:
    return content_digest((row.sop_instance_uid, row.digest) for row in rows)


class _ExpectedCounts:
    """How many instances the sender's archive holds of a study, asked in the background and never waited for."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="count")
        self._asked: dict[str, tuple[int, float, Future[int | None]]] = {}

    def reached(self, study: StudyRow) -> bool:
        """Whether the archive that sent the study holds just as many instances as we have received."""
        peers = [found for ae in study.calling_aes if (found := self._config.peer_named(ae)) is not None]
        if len(study.calling_aes) != 1 or not peers:
            return False
        known = self._asked.get(study.study_uid)
        now = time.monotonic()
        if known is None or (
            known[0] != study.generation and known[2].done() and now - known[1] > _COUNT_AGAIN_SECONDS
        ):
            call = self._pool.submit(
                count_instances, peers[0][1], self._config.listener.ae_title, study.study_uid
            )
            self._asked[study.study_uid] = (study.generation, now, call)
            if len(self._asked) > 10_000:
                self._asked.pop(next(iter(self._asked)))
            return False
        generation, _, call = known
        if generation != study.generation or not call.done() or call.exception() is not None:
            return False
        return call.result() == study.instances

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
