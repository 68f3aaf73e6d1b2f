"""The audit trail: who did what to which study, append-only, each row's digest over the one before."""

from __future__ import annotations

import json
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from medpipe.identity import digest
from workers.database import is_sqlite
from workers.tables import audit


def note(connection: Connection, who: str, what: str, study_uid: str | None, detail: dict[str, Any]) -> None:
    """Appends a row; none can be taken out, or changed, unseen."""
    if not is_sqlite(connection):
        connection.execute(sa.text("LOCK TABLE audit IN EXCLUSIVE MODE"))
    last = connection.execute(
        sa.select(audit.c.number, audit.c.chain).order_by(audit.c.number.desc()).limit(1)
    ).one_or_none()
    number, before = (last.number + 1, last.chain) if last is not None else (1, "")
    at = round(time.time(), 3)
    row = {"number": number, "at": at, "who": who, "what": what, "study_uid": study_uid, "detail": detail}
    connection.execute(sa.insert(audit).values(**row, chain=_link(before, row)))


def is_whole(connection: Connection) -> bool:
    """Whether no row was changed or taken out."""
    before = ""
    rows = connection.execute(sa.select(audit).order_by(audit.c.number))
    for number, row in enumerate(rows, start=1):
        plain = {k: getattr(row, k) for k in ("number", "at", "who", "what", "study_uid", "detail")}
        if row.number != number or row.chain != _link(before, plain):
            return False
        before = row.chain
    return True


def _link(before: str, row: dict[str, Any]) -> str:
    return digest(before, json.dumps(row, sort_keys=True))
