"""`reprocess`: a study from the PACS, through the same spool, engine and workers as one that was routed to us.

The retrieval is marked first, so that no rule starts a second job of what comes in. Without `force` nothing is
computed that is already there: the bundle's present result for the same instances, as long as the PACS holds it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from medpipe.bundle import find_bundle
from medpipe.config import Config, Peer, Rule
from medpipe.dicom import GuardedReader, InstanceHeader
from medpipe.dicom.classes import SLICES
from medpipe.errors import NotFound, PeerUnreachable, Refused, StorageError, UsageError
from medpipe.identity import resembles_uid
from medpipe.pacs import (
    NOT_IMAGES,
    ReceivedFile,
    find_instances,
    find_results,
    find_series,
    find_studies,
    retrieve,
)
from medpipe.routing import facts_of, route
from workers import audit
from workers.late import PART
from workers.peek import Identity, UnreadableHeader, peek
from workers.queue import JobQueue
from workers.registry import ROUTINE, JobPlan, Registry, content_digest
from workers.settle import cannot_be_read, in_two_studies, register_arrivals, unreadable_by_series
from workers.spool import Arrival, Spool
from workers.tables import FINAL, JobState, job, result, study

log = logging.getLogger(__name__)

_MOVE_SECONDS = 300.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the operator asks for. `bundle` None: as the rules say. `force`: compute and send even what is there."""

    source: str
    bundle: str | None = None
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Reprocessed:
    """What was done for one study: `queued` jobs that run now, `present` results that the PACS holds already."""

    study_uid: str
    queued: tuple[str, ...]
    present: tuple[str, ...]
    reason: str | None = None


class Reprocessor:
    """Retrieves studies and queues their jobs, for a person: what archives are asked for `who` is on record before."""

    def __init__(self, config: Config, registry: Registry, queue: JobQueue, say: Say, who: str) -> None:
        self._config, self._registry, self._queue, self._say, self._who = config, registry, queue, say, who
        self._spool = Spool(config.site.root)

    def studies_with(self, accession: str, source: str) -> list[str]:
        """Study UIDs that the source lists under an accession number."""
        self._note_query(source, "STUDY", "AccessionNumber")
        found = find_studies(self._peer(source), self._config.listener.ae_title, accession=accession)
        if not found:
            raise NotFound(f"{source} lists no study with this accession number")
        return [study.study_uid for study in found]

    def run(self, study_uid: str, request: Request) -> Reprocessed:
        """One study: retrieve, plan, queue. Following the jobs is the caller's."""
        peer = self._peer(request.source)
        self._note_query(request.source, "SERIES", "StudyInstanceUID", study_uid)
        if request.dry_run:
            return self._foretell(peer, study_uid, request)
        token = uuid.uuid4().hex
        was_settled = self._is_settled(study_uid)
        self._registry.mark_retrieval(study_uid, token)
        try:
            self._retrieve(peer, study_uid)
            plans, refused = self._plans(peer, study_uid, request)
            held = find_results(peer, self._config.listener.ae_title, study_uid)
            outcome = self._queue_missing(study_uid, plans, held, request, refused)
            self._take_parts_along(study_uid, outcome)
            if was_settled:
                self._mark_settled(study_uid)
            return outcome
        finally:
            self._registry.mark_retrieval(study_uid, None)

    def _note_query(self, source: str, level: str, key: str, study_uid: str | None = None) -> None:
        """One record for a question, however many C-FIND it takes (PS3.15 A.5.3.10)."""
        ways = {"source": self._config.listener.ae_title, "destination": self._peer(source).ae_title}
        detail = {**ways, "level": level, "key": key}
        with self._registry.begin() as connection:
            audit.note(connection, self._who, "archive queried", study_uid, detail)

    def _foretell(self, peer: Peer, study_uid: str, request: Request) -> Reprocessed:
        """What would be done with what is here already; what the rules say of the rest shows once it is retrieved."""
        ours = self._config.listener.ae_title
        known = {row.sop_instance_uid for row in self._registry.instances_of(study_uid)}
        listed = find_instances(peer, ours, study_uid)
        missing = [
            one for one in listed if one.sop_instance_uid not in known and one.modality not in NOT_IMAGES
        ]
        if not listed:
            raise NotFound(f"study {study_uid}: {request.source} lists no instance of it")
        if not known:
            reason = f"{len(missing)} instances would be retrieved; the rules are asked then"
            return Reprocessed(study_uid, (), (), reason)
        plans, refused = self._plans(peer, study_uid, request)
        outcome = self._queue_missing(study_uid, plans, find_results(peer, ours, study_uid), request, refused)
        if not missing:
            return outcome
        return replace(outcome, reason=f"{len(missing)} more instances would be retrieved before")

    # --- retrieve ------------------------------------------------------------------------------------------------

    def _peer(self, name: str) -> Peer:
        if name not in self._config.peers:
            known = ", ".join(sorted(self._config.peers)) or "none"
            raise UsageError(f"no peer {name!r} in the settings; known: {known}")
        return self._config.peers[name]

    def _retrieve(self, peer: Peer, study_uid: str) -> None:
        ours = self._config.listener.ae_title
        retrieval = retrieve(peer, ours, study_uid, self._store, self._spool.incoming)
        if retrieval.method == "move":
            self._wait_for({item.sop_instance_uid for item in retrieval.expected}, study_uid)
        register_arrivals(self._spool, self._registry)
        if not retrieval.complete:
            raise PeerUnreachable(
                f"study {study_uid}: {len(retrieval.missing) or retrieval.failed} of {len(retrieval.expected)} "
                "instances were not delivered; try again"
            )
        self._say(f"{study_uid}: {len(retrieval.expected)} instances retrieved")

    def _store(self, received: ReceivedFile) -> int:
        """A C-GET sub-operation: into the spool as if the archive had sent it to the listener."""
        identity, unreadable = Identity(), None
        try:
            identity = peek(received.path, received.transfer_syntax)
        except UnreadableHeader as error:
            unreadable = f"the header cannot be read: {error}"
        arrival = Arrival(
            received.sop_instance_uid,
            received.sop_class_uid,
            identity.study if resembles_uid(identity.study) else None,
            identity.series if resembles_uid(identity.series) else None,
            received.transfer_syntax,
            received.source_ae,
            received.called_ae,
            unreadable,
        )
        try:
            self._spool.receive(received.path, arrival, time.time())
        except OSError as error:
            raise StorageError(f"the spool does not take a retrieved instance: {error.strerror}") from error
        return 0x0000

    def _wait_for(self, expected: set[str], study_uid: str) -> None:
        """After a C-MOVE: until our listener has all of them."""
        deadline = time.monotonic() + _MOVE_SECONDS
        while True:
            register_arrivals(self._spool, self._registry)
            have = {row.sop_instance_uid for row in self._registry.instances_of(study_uid)}
            if expected <= have:
                return
            if time.monotonic() > deadline:
                raise PeerUnreachable(
                    f"study {study_uid}: {len(expected - have)} moved instances did not arrive; "
                    "is `medpipe listen` running?"
                )
            time.sleep(0.3)

    # --- plan ----------------------------------------------------------------------------------------------------

    def _plans(self, peer: Peer, study_uid: str, request: Request) -> tuple[list[JobPlan], list[Refused]]:
        """The jobs to be, and why series that would be wanted are refused. Raises Refused where all of them are."""
        rows = {self._spool.path_named(row.file): row for row in self._registry.instances_of(study_uid)}
        if not rows:
            raise NotFound(f"study {study_uid}: none of its instances could be taken into the spool")
        with GuardedReader(self._config.reading, uid_root=self._config.site.uid_root) as reader:
            scan = reader.scan(list(rows))
        unreadable = unreadable_by_series(scan, rows)
        foreign = [
            header
            for header in scan.instances
            if not header.own_output
            and not (header.series_uid in unreadable and header.sop_class_uid in SLICES)
        ]
        elsewhere = self._elsewhere(request.source, study_uid)
        calling = {path: row.calling_ae for path, row in rows.items()}
        chosen, refused = self._chosen(foreign, calling, request, elsewhere)
        refused = [*(cannot_be_read(uid, found) for uid, found in unreadable.items()), *refused]
        if refused and not chosen:
            raise refused[0]
        plans = []
        for bundle_id, (rule, members) in chosen.items():
            bundle = find_bundle(bundle_id, self._config.worker.bundle_folders)
            used = [rows[header.path] for header in members]
            plans.append(
                JobPlan(
                    study_uid=study_uid,
                    bundle=bundle.id,
                    bundle_version=bundle.version,
                    bundle_hash=bundle.hash,
                    content=content_digest((row.sop_instance_uid, row.digest) for row in used),
                    instances=tuple(sorted(str(row.file) for row in used)),
                    rule=rule.name if rule is not None else "reprocess",
                    priority=ROUTINE,
                    destinations=rule.send if rule is not None and rule.send else (request.source,),
                    received_at=max(row.received_at for row in used),
                )
            )
        return plans, refused

    def _elsewhere(self, source: str, study_uid: str) -> dict[str, str]:
        """Series that another study had first, as long as the archive lists them there: it may have been corrected."""
        first = self._registry.series_first_elsewhere(study_uid)
        peer, ours = self._peer(source), self._config.listener.ae_title
        for one in sorted(set(first.values())):
            self._note_query(source, "SERIES", "StudyInstanceUID", one)
        listed = {one: {s.series_uid for s in find_series(peer, ours, one)} for one in set(first.values())}
        return {series_uid: one for series_uid, one in first.items() if series_uid in listed[one]}

    def _chosen(
        self,
        foreign: list[InstanceHeader],
        calling: dict[Path, str],
        request: Request,
        elsewhere: dict[str, str],
    ) -> tuple[dict[str, tuple[Rule | None, list[InstanceHeader]]], list[Refused]]:
        chosen: dict[str, tuple[Rule | None, list[InstanceHeader]]] = {}
        refused: list[Refused] = []
        for facts in facts_of(foreign, calling):
            members = [header for header in foreign if header.series_uid == facts.series_uid]
            rules: list[Rule | None] = [
                rule
                for rule in route(self._config.rules, facts)
                if request.bundle is None or rule.bundle == request.bundle
            ]
            if request.bundle is not None and not rules:
                rules = [None]
            if rules and facts.series_uid in elsewhere:
                refused.append(in_two_studies(facts.series_uid, elsewhere[facts.series_uid]))
                continue
            for rule in rules:
                bundle_id = rule.bundle if rule is not None else str(request.bundle)
                chosen.setdefault(bundle_id, (rule, []))[1].extend(members)
        return chosen, refused

    def _queue_missing(
        self,
        study_uid: str,
        plans: list[JobPlan],
        held: frozenset[str],
        request: Request,
        refused: list[Refused],
    ) -> Reprocessed:
        queued: list[str] = []
        present: list[str] = []
        for plan in plans:
            if not request.force and self._is_present(plan.id, held):
                present.append(plan.id)
            elif not request.dry_run:
                self._enqueue(plan)
                queued.append(plan.id)
            else:
                queued.append(plan.id)
        reason = "; ".join(f"{one.code}: {one}" for one in refused) or None
        if not plans and not refused:
            reason = "no rule wants any series of this study; name a bundle with --bundle"
        return Reprocessed(study_uid, tuple(queued), tuple(present), reason)

    def _is_present(self, job_id: str, held: frozenset[str]) -> bool:
        """Whether this very job has been done and the archive holds all its current results."""
        with self._registry.read() as connection:
            state = connection.execute(sa.select(job.c.state).where(job.c.id == job_id)).scalar()
            uids = set(
                connection.execute(
                    sa.select(result.c.sop_instance_uid).where(
                        result.c.job == job_id, result.c.superseded_by.is_(None)
                    )
                ).scalars()
            )
        done = state in (JobState.SENT.value, JobState.CONFIRMED.value, JobState.SENDING.value)
        return done and bool(uids) and uids <= held

    def _enqueue(self, plan: JobPlan) -> None:
        with self._registry.begin() as connection:
            if self._registry.plan(connection, plan, self._queue.enqueue, time.time()):
                return
            row = self._registry.job(plan.id, connection)
            if JobState(row.state) in FINAL or row.state == JobState.SENT.value:
                self._registry.again(connection, plan.id, self._queue.enqueue, "reprocess")
                # the study's present content and today's bundle: newer than whatever was made of it since
                connection.execute(sa.update(job).where(job.c.id == plan.id).values(created_at=time.time()))

    def _is_settled(self, study_uid: str) -> bool:
        """Whether nothing that was routed to us is still on its way to its own jobs."""
        with self._registry.read() as connection:
            row = connection.execute(
                sa.select(study.c.settled, study.c.generation).where(study.c.study_uid == study_uid)
            ).one_or_none()
        return row is None or row.settled >= row.generation

    def _take_parts_along(self, study_uid: str, outcome: Reprocessed) -> None:
        """What had come too late, and was kept apart, is now part of the whole."""
        if outcome.queued or outcome.present:
            late = sa.and_(job.c.study_uid == study_uid, job.c.bundle == "", job.c.reason == PART)
            with self._registry.begin() as connection:
                connection.execute(sa.delete(job).where(late))

    def _mark_settled(self, study_uid: str) -> None:
        """What was retrieved is dealt with: no rule looks at it again until something new arrives."""
        with self._registry.begin() as connection:
            connection.execute(
                sa.update(study).where(study.c.study_uid == study_uid).values(settled=study.c.generation)
            )


def wait_for_jobs(
    registry: Registry,
    jobs: list[str],
    say: Say,
    pause: float = 0.3,
    at_work: Callable[[], bool] = lambda: True,
) -> bool:
    """Follows jobs to their end; True when all of them were sent (or confirmed).

    Raises NotFound when `at_work()` says that nobody is left who could do them.
    """
    last: dict[str, str] = {}
    while True:
        lonely = not at_work()
        rows = [registry.job(job_id) for job_id in jobs]
        for row in rows:
            if last.get(row.id) != row.state:
                last[row.id] = row.state
                say(f"{row.study_uid}: {row.bundle}: {row.state}" + (f": {row.reason}" if row.reason else ""))
        if all(_ended(row.state, row.step) for row in rows):
            return all(row.state in (JobState.SENT.value, JobState.CONFIRMED.value) for row in rows)
        if lonely:
            raise NotFound("no worker is alive any more; the jobs stay queued for the next `medpipe work`")
        time.sleep(pause)


def _ended(state: str, step: str) -> bool:
    return JobState(state) in FINAL or (state == JobState.SENT.value and step != "confirm")
