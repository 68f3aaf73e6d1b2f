"""What must hold whatever happened: nothing lost, all ended, nothing contradicted. Each broken rule is one line."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import sqlalchemy as sa

from havoc.archive import SEG, Kept
from havoc.modality import Acknowledged
from havoc.studies import data_set_digest
from medpipe.identity import digest, file_sha256
from workers import audit
from workers.publish import outbox
from workers.registry import Registry
from workers.spool import Spool
from workers.tables import FINAL, DeliveryState, JobState, delivery, instance, job, result


def broken_rules(
    root: Path,
    registry: Registry,
    acknowledged: Mapping[str, Acknowledged],
    kept: Mapping[str, Kept],
    contradictions: Iterable[str] = (),
) -> list[str]:
    """Every rule that does not hold, in one line each. `kept` is what the PACS holds."""
    return [
        *lost_instances(root, acknowledged),
        *unregistered(registry, acknowledged),
        *without_end({one.study_uid for one in acknowledged.values()}, registry),
        *wrong_results(root, registry, acknowledged, kept),
        *(f"{uid} came to the PACS with two contents" for uid in contradictions),
        *broken_chain(registry),
    ]


def lost_instances(root: Path, acknowledged: Mapping[str, Acknowledged]) -> Iterator[str]:
    """Acknowledged instances that the spool does not hold byte for byte, or without a sidecar."""
    spool = Spool(root)
    for uid, one in acknowledged.items():
        path = spool.path_named(f"{digest(uid)[:32]}-{one.digest[:16]}")
        if not path.is_file() or not path.with_suffix(".json").is_file():
            yield f"{uid} was acknowledged, and is not in the spool"
        elif data_set_digest(path) != one.digest:
            yield f"{uid} was acknowledged, and lies in the spool with other bytes"


def unregistered(registry: Registry, acknowledged: Mapping[str, Acknowledged]) -> Iterator[str]:
    """Acknowledged instances that the registry does not know, or knows under another study."""
    columns = (instance.c.sop_instance_uid, instance.c.study_uid, instance.c.aside)
    with registry.read() as connection:
        rows = {row.sop_instance_uid: row for row in connection.execute(sa.select(*columns))}
    for uid, one in acknowledged.items():
        row = rows.get(uid)
        if row is None or row.study_uid != one.study_uid or row.aside:
            yield f"{uid} was acknowledged, and the registry does not know it as such"


def without_end(studies: Iterable[str], registry: Registry) -> Iterator[str]:
    """Studies without any job, or with one that is still under way."""
    jobs = collections.defaultdict(list)
    with registry.read() as connection:
        for row in connection.execute(sa.select(job.c.study_uid, job.c.state, job.c.step, job.c.reason)):
            jobs[row.study_uid].append(row)
    for study in sorted(studies):
        if not jobs[study]:
            yield f"study {study} has no job"
        for row in jobs[study]:
            if not has_ended(row):
                yield f"study {study} has no end: {row.state} {row.step} ({row.reason})"


def not_in_dead_letter(studies: Iterable[str], registry: Registry) -> Iterator[str]:
    """Of studies that kill whoever works on them: those that did not end as failed, with a reason."""
    for study in studies:
        rows = registry.jobs(study)
        if not rows or any(row.state != JobState.FAILED.value or not row.reason for row in rows):
            yield f"study {study} is poison, and is not in the dead letter with a reason"


def has_ended(row: sa.Row[tuple[object, ...]]) -> bool:
    """Of a row of `job`: whether nobody works on it any more."""
    return JobState(row.state) in FINAL or (row.state == JobState.SENT.value and row.step == "")


def wrong_results(
    root: Path, registry: Registry, acknowledged: Mapping[str, Acknowledged], kept: Mapping[str, Kept]
) -> Iterator[str]:
    """Of each study with a confirmed job: one current segmentation per picture, and nothing unknown at the PACS.

    What is current and confirmed is at the PACS, byte for byte as it was published.
    """
    pictures = collections.Counter(one.study_uid for one in acknowledged.values())
    with registry.read() as connection:
        confirmed = set(
            connection.execute(
                sa.select(job.c.study_uid).where(job.c.state == JobState.CONFIRMED.value)
            ).scalars()
        )
        rows = connection.execute(
            sa.select(result, job.c.study_uid).join(job, job.c.id == result.c.job)
        ).all()
        said = connection.execute(
            sa.select(delivery.c.sop_instance_uid).where(delivery.c.state == DeliveryState.CONFIRMED.value)
        )
        said_confirmed = set(said.scalars())
    current = [row for row in rows if row.superseded_by is None]
    segmentations = collections.Counter(row.study_uid for row in current if row.sop_class_uid == SEG)
    for study in sorted(confirmed & set(pictures)):
        if segmentations[study] != pictures[study]:
            yield f"study {study}: {segmentations[study]} current SEG for {pictures[study]} pictures"
    known = {row.sop_instance_uid for row in rows}
    for uid, one in kept.items():
        if uid not in known:
            yield f"study {one.study_uid}: the PACS holds {uid}, of which the registry knows nothing"
    for row in current:
        path = outbox(root) / row.file
        if not path.is_file() or file_sha256(path) != row.digest:
            yield f"study {row.study_uid}: the outbox does not hold {row.sop_instance_uid} as published"
        elif row.sop_instance_uid in said_confirmed:
            there = kept.get(row.sop_instance_uid)
            if there is None or there.digest != data_set_digest(path):
                yield f"study {row.study_uid}: {row.sop_instance_uid} is confirmed, and not so at the PACS"


def broken_chain(registry: Registry) -> Iterator[str]:
    """The audit trail, where a row was changed or is missing."""
    with registry.read() as connection:
        if not audit.is_whole(connection):
            yield "the audit trail is not whole"


def ends(registry: Registry) -> collections.Counter[str]:
    """How many jobs ended how: the state, and the code of its reason."""
    counted: collections.Counter[str] = collections.Counter()
    with registry.read() as connection:
        for row in connection.execute(sa.select(job.c.state, job.c.reason)):
            code = (row.reason or "").partition(":")[0]
            counted[f"{row.state} ({code})" if code else row.state] += 1
    return counted


def open_jobs(registry: Registry) -> tuple[set[str], set[str]]:
    """Studies that have jobs, and those of them that have one under way."""
    with registry.read() as connection:
        rows = connection.execute(sa.select(job.c.study_uid, job.c.state, job.c.step)).all()
    return {row.study_uid for row in rows}, {row.study_uid for row in rows if not has_ended(row)}
