"""What the spool has received, taken into the tables: the instance, its study, and the record of its coming.

All of it is done in the caller's transaction and may be done twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from medpipe.identity import safe_name
from workers import audit, tables
from workers.database import insert
from workers.spool import Sidecar
from workers.tables import Retention


def take_in(connection: Connection, sidecar: Sidecar) -> int:
    """Adds one instance, whatever its header says, and counts it in; 1 where it is new, else 0."""
    odd = [uid for uid in (sidecar.study_uid, sidecar.series_uid) if uid is not None and not _fits(uid)]
    if odd:  # a foreign value that no column holds must not stop the instances beside it
        reason = sidecar.unreadable or "StudyInstanceUID or SeriesInstanceUID is not a UID"
        sidecar = replace(sidecar, study_uid=None, series_uid=None, unreadable=reason)
    if not _fits(sidecar.sop_instance_uid):
        sidecar = replace(sidecar, sop_instance_uid=safe_name(sidecar.sop_instance_uid))
    row = {
        "sop_instance_uid": sidecar.sop_instance_uid,
        "digest": sidecar.digest,
        "study_uid": sidecar.study_uid,
        "series_uid": sidecar.series_uid,
        "sop_class_uid": sidecar.sop_class_uid,
        "transfer_syntax": sidecar.transfer_syntax,
        "file": sidecar.file,
        "size": sidecar.size,
        "calling_ae": sidecar.calling_ae,
        "received_at": sidecar.received_at,
        "aside": sidecar.aside,
        "reason": sidecar.unreadable,
    }
    if not insert(connection, tables.instance, row):
        return _take_back(connection, row)
    _count_in(connection, row)
    return 1


def _take_back(connection: Connection, row: dict[str, Any]) -> int:
    """An instance that is known arrives again: new only where its files had been removed (retention).

    Where they were about to be, they simply stay: the instance is part of what was processed.
    """
    table, study = tables.instance, tables.study
    same = sa.and_(table.c.sop_instance_uid == row["sop_instance_uid"], table.c.digest == row["digest"])
    known = connection.execute(sa.select(table.c.study_uid, table.c.retention).where(same)).one()
    if known.retention == Retention.KEPT.value:
        return 0
    # the study before its instances, as whoever marks them does: two locks are taken in one order only
    its_study = study.c.study_uid == known.study_uid
    connection.execute(sa.select(study.c.study_uid).where(its_study).with_for_update())
    was = connection.execute(sa.select(table.c.retention).where(same).with_for_update()).scalar_one()
    connection.execute(sa.update(table).where(same).values(**row, retention=Retention.KEPT.value))
    if was == Retention.REMOVED.value:
        _count_in(connection, row)
        return 1
    if was == Retention.REMOVING.value and not row["aside"]:
        connection.execute(sa.update(study).where(its_study).values(instances=study.c.instances + 1))
    return 0


def _count_in(connection: Connection, row: dict[str, Any]) -> None:
    """The study has one instance more, and is to be settled anew."""
    study_uid, calling_ae, at = row["study_uid"], row["calling_ae"], row["received_at"]
    if study_uid is None or row["aside"]:
        return
    study = tables.study
    values: dict[str, Any] = {
        "study_uid": study_uid,
        "calling_aes": [calling_ae],
        "first_at": at,
        "last_at": at,
        "instances": 1,
        "generation": 1,
    }
    query = sa.select(study).where(study.c.study_uid == study_uid).with_for_update()
    found = connection.execute(query).one_or_none()
    if found is None:
        if insert(connection, study, values):
            return
        found = connection.execute(query).one()
    removed = found.retention == Retention.REMOVED.value
    connection.execute(
        sa.update(study)
        .where(study.c.study_uid == study_uid)
        .values(
            calling_aes=sorted({*found.calling_aes, calling_ae}),
            first_at=min(found.first_at, at),
            last_at=max(found.last_at, at),
            instances=study.c.instances + 1,
            generation=study.c.generation + 1,
            retention=Retention.KEPT.value if removed else found.retention,
        )
    )


def note_transfers(connection: Connection, received: Sequence[Sidecar]) -> None:
    """One record for what came of a study from one sender; what could not be read is of no study."""
    transfers: dict[tuple[str | None, str, str], Counter[str]] = {}
    for one in received:
        study_uid = one.study_uid if one.study_uid is not None and _fits(one.study_uid) else None
        transfers.setdefault((study_uid, one.calling_ae, one.called_ae), Counter())[one.sop_class_uid] += 1
    for (study_uid, source, destination), classes in transfers.items():
        detail = {"source": source, "destination": destination, "classes": dict(classes)}
        audit.note(connection, "medpipe", "instances received", study_uid, detail)


def _fits(uid: str) -> bool:
    """Whether a UID's text can stand in a column of either database (PS3.5 section 9.1 allows 64 characters)."""
    return len(uid) <= 64 and uid.isascii() and uid.isprintable()
