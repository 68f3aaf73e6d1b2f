"""The worklist: studies with their jobs, pictures, lesions and results, as the pages and `/api` show them.

Everything comes from the registry, which holds no patient data; names and ids are added by `people`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.engine import Connection, Row

from medpipe.bundle import find_bundle
from medpipe.errors import MedpipeError
from medpipe.refusals import advice_for, meaning_of
from medpipe.review.links import opened, with_segmentation
from medpipe.review.words import COUNTED, GROUPS, STATES, plain_reason
from workers.registry import Registry
from workers.tables import DeliveryState, JobState, delivery, image, job, result, study

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


class Reason(BaseModel):
    """Why something was refused or failed: the stable code, what it means, the sentence of this case, what to do.

    `meaning` and `advice` are those of docs/troubleshooting.md, empty where the code has none.
    """

    code: str
    meaning: str
    sentence: str
    advice: str


class Finding(BaseModel):
    """How many of one class were found."""

    class_id: str
    name: str
    count: int


class Picture(BaseModel):
    """One picture or volume of a job. `link` opens it in the viewer, with its segmentation once the PACS has it."""

    number: int
    analysed: bool
    findings: list[Finding]
    reasons: list[Reason]
    link: str | None
    has_segmentation: bool


class Sent(BaseModel):
    """One result object at one destination."""

    sop_instance_uid: str
    kind: str
    destination: str
    state: str


class Job(BaseModel):
    """The newest job of a study for one bundle."""

    job: str
    bundle: str
    bundle_version: str
    title: str
    state: JobState
    words: str
    step: str
    urgent: bool
    reasons: list[Reason]
    findings: list[Finding]
    pictures: list[Picture]
    results: list[Sent]
    updated_at: datetime
    seconds: float


class Study(BaseModel):
    """One line of the worklist. `link` is where a reader goes first; None where there is no viewer.

    `has_result`: a segmentation is drawn over what the link opens.
    """

    study_uid: str
    received_at: datetime
    instances: int
    settling: bool
    jobs: list[Job]
    link: str | None
    has_result: bool


class Worklist:
    """Reads the registry. `pacs` is the peer whose pictures the viewer shows, None where there is no viewer."""

    def __init__(self, registry: Registry, bundle_folders: Sequence[Path], pacs: str | None) -> None:
        self._registry = registry
        self._folders = tuple(bundle_folders)
        self._pacs = pacs

    def studies(self, group: str | None = None, limit: int = 100) -> list[Study]:
        """The newest studies, those received last first; of one of `GROUPS` only, where it is named."""
        query = sa.select(study).order_by(study.c.last_at.desc(), study.c.study_uid).limit(limit)
        if group is not None:
            query = query.where(_of_group(group))
        with self._registry.read() as connection:
            return self._studies(connection, connection.execute(query).all())

    def counts(self) -> dict[str, int]:
        """How many studies each group of `COUNTED` has."""
        with self._registry.read() as connection:
            numbers = {
                group: sa.select(sa.func.count()).select_from(study).where(_of_group(group))
                for group in COUNTED
            }
            return {group: connection.execute(query).scalar_one() for group, query in numbers.items()}

    def study(self, study_uid: str) -> Study | None:
        """One study, None where the registry does not know it."""
        with self._registry.read() as connection:
            rows = connection.execute(sa.select(study).where(study.c.study_uid == study_uid)).all()
            return next(iter(self._studies(connection, rows)), None)

    def pulse(self) -> tuple[Any, ...]:
        """A value that changes whenever the worklist may look different."""
        numbers = (
            sa.select(sa.func.max(job.c.updated_at)),
            sa.select(sa.func.count()).select_from(job),
            sa.select(sa.func.sum(study.c.generation + study.c.settled)),
            sa.select(sa.func.count()).select_from(delivery).where(delivery.c.state == DeliveryState.SENT.value),
            sa.select(sa.func.max(delivery.c.sent_at)),
            sa.select(sa.func.max(delivery.c.committed_at)),
        )  # fmt: skip
        with self._registry.read() as connection:
            return tuple(connection.execute(sa.select(*(n.scalar_subquery() for n in numbers))).one())

    def _studies(self, connection: Connection, rows: Sequence[Row[Any]]) -> list[Study]:
        uids = [row.study_uid for row in rows]
        jobs = self._jobs(connection, uids)
        found = []
        for row in rows:
            own = jobs.get(row.study_uid, [])
            shown = [picture for one in own for picture in one.pictures if picture.link is not None]
            first = max(shown, key=lambda picture: picture.has_segmentation, default=None)
            fallback = opened(row.study_uid) if self._pacs is not None else None
            found.append(
                Study(
                    study_uid=row.study_uid,
                    received_at=_time(row.last_at),
                    instances=row.instances,
                    settling=row.settled < row.generation,
                    jobs=own,
                    link=first.link if first is not None else fallback,
                    has_result=first is not None and first.has_segmentation,
                )
            )
        return found

    def _jobs(self, connection: Connection, uids: Sequence[str]) -> dict[str, list[Job]]:
        """The jobs that no newer one has replaced, by study."""
        query = sa.select(job).where(job.c.study_uid.in_(uids), ~_replaced())
        newest = connection.execute(query.order_by(job.c.created_at.desc(), job.c.id)).all()
        ids = [row.id for row in newest]
        pictures = _grouped(connection.execute(
            sa.select(image).where(image.c.job.in_(ids)).order_by(image.c.job, image.c.number)
        ))  # fmt: skip
        results = _grouped(connection.execute(
            sa.select(result, delivery.c.destination, delivery.c.state.label("delivery_state"), delivery.c.reason)
            .outerjoin(delivery, delivery.c.sop_instance_uid == result.c.sop_instance_uid)
            .where(result.c.job.in_(ids), result.c.superseded_by.is_(None))
            .order_by(result.c.file, delivery.c.destination)
        ))  # fmt: skip
        by_study: dict[str, list[Job]] = defaultdict(list)
        for row in newest:
            by_study[row.study_uid].append(self._job(row, pictures[row.id], results[row.id]))
        return by_study

    def _job(self, row: Row[Any], pictures: Sequence[Row[Any]], results: Sequence[Row[Any]]) -> Job:
        title, names = _described(row.bundle, self._folders)
        state = JobState(row.state)
        total: dict[str, int] = {}
        for one in pictures:
            for class_id, count in one.lesions.items():
                total[class_id] = total.get(class_id, 0) + count
        return Job(
            job=row.id,
            bundle=row.bundle,
            bundle_version=row.bundle_version,
            title=title,
            state=state,
            words=STATES[state],
            step=row.step,
            urgent=row.priority < 100,
            reasons=_reasons(row.reason or _held_up(results)),
            findings=_findings(total, names),
            pictures=[self._picture(row.study_uid, one, results, names) for one in pictures],
            results=[
                Sent(
                    sop_instance_uid=one.sop_instance_uid,
                    kind="SEG" if one.sop_class_uid == SEGMENTATION else "SR",
                    destination=one.destination or "",
                    state=one.delivery_state or "made",
                )
                for one in results
            ],
            updated_at=_time(row.updated_at),
            seconds=round(sum(row.seconds.values()), 1),
        )

    def _picture(
        self, study_uid: str, row: Row[Any], results: Sequence[Row[Any]], names: dict[str, str]
    ) -> Picture:
        there = {DeliveryState.SENT.value, DeliveryState.CONFIRMED.value}
        segmentation = next(
            (
                one.series_uid
                for one in results
                if one.image == row.name
                and one.sop_class_uid == SEGMENTATION
                and one.destination == self._pacs
                and one.delivery_state in there
            ),
            None,
        )
        link = None
        if self._pacs is not None and row.series_uid:
            link = with_segmentation(study_uid, row.series_uid, segmentation)
        return Picture(
            number=row.number,
            analysed=row.outcome == "done",
            findings=_findings(row.lesions, names),
            reasons=_reasons(row.reason),
            link=link,
            has_segmentation=link is not None and segmentation is not None,
        )


def _of_group(group: str) -> sa.ColumnElement[bool]:
    """Whether a study has a job in one of the group's states, or, for those under way, is still arriving."""
    states = [state.value for state in GROUPS[group]]
    with_job = sa.select(job.c.study_uid).where(job.c.state.in_(states), ~_replaced())
    concerned: sa.ColumnElement[bool] = study.c.study_uid.in_(with_job)
    return sa.or_(concerned, study.c.settled < study.c.generation) if group == "under way" else concerned


def _replaced() -> sa.ColumnElement[bool]:
    """Whether a newer job of the same study stands for a job: one for its bundle, or, for "no rule", one for any.

    A row without a bundle that was planned together with jobs says which series belong to none of them: it stays.
    """
    newer = job.alias("newer")
    return sa.exists().where(
        newer.c.study_uid == job.c.study_uid,
        sa.or_(newer.c.bundle == job.c.bundle, job.c.bundle == ""),
        sa.or_(
            newer.c.created_at > job.c.created_at,
            sa.and_(
                newer.c.created_at == job.c.created_at,
                newer.c.bundle == job.c.bundle,
                newer.c.id < job.c.id,
            ),
        ),
    )


def _grouped(rows: Iterable[Row[Any]]) -> dict[str, list[Row[Any]]]:
    """Rows by their job."""
    groups: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        groups[row.job].append(row)
    return groups


def _findings(lesions: dict[str, int], names: dict[str, str]) -> list[Finding]:
    return [Finding(class_id=key, name=names.get(key, key), count=count) for key, count in lesions.items()]


def _held_up(results: Sequence[Row[Any]]) -> str | None:
    """Why results are not at their destination, or not known to be kept there."""
    return next((one.reason for one in results if one.reason), None)


def _reasons(text: str | None) -> list[Reason]:
    return [
        Reason(code=code, meaning=meaning_of(code), sentence=sentence, advice=advice_for(code))
        for code, sentence in plain_reason(text)
    ]


@lru_cache(maxsize=64)
def _described(bundle_id: str, folders: tuple[Path, ...]) -> tuple[str, dict[str, str]]:
    """Title and class names of a bundle; its id alone where this machine does not have it."""
    if not bundle_id:
        return "", {}
    try:
        bundle = find_bundle(bundle_id, folders)
    except (MedpipeError, OSError):
        return bundle_id, {}
    return bundle.title, {spec.id: spec.name for spec in bundle.classes}


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
