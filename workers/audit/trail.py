"""The trail itself: append-only rows, each one's digest over its own content and the digest before."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from medpipe.identity import digest
from workers.database import is_sqlite
from workers.tables import audit

_PAGE = 1000


@dataclass(frozen=True)
class Record:
    """One event. `at`: seconds since 1970; `who`: a user, or medpipe itself; `what`: see workers.audit.events."""

    number: int
    at: float
    who: str
    what: str
    study_uid: str | None
    detail: dict[str, Any]
    chain: str

    def plain(self) -> dict[str, Any]:
        """What the chain is made over."""
        return {key: value for key, value in vars(self).items() if key != "chain"}


@dataclass(frozen=True)
class Verdict:
    """`records` from the first one on fit together; `chain`: the digest of the last of them; `fault`: what follows."""

    records: int
    chain: str
    fault: str | None = None


def note(
    connection: Connection,
    who: str,
    what: str,
    study_uid: str | None,
    detail: dict[str, Any],
    at: float | None = None,
) -> None:
    """Appends a record; none can be taken out, or changed, unseen. `at` is now unless it happened earlier.

    The last thing that a transaction does, for on PostgreSQL it holds up every other one that has something to record.
    """
    if not is_sqlite(connection):
        connection.execute(sa.text("LOCK TABLE audit IN EXCLUSIVE MODE"))
    last = connection.execute(
        sa.select(audit.c.number, audit.c.chain).order_by(audit.c.number.desc()).limit(1)
    ).one_or_none()
    number, before = (last.number + 1, last.chain) if last is not None else (1, "")
    at = round(time.time() if at is None else at, 3)
    row = {"number": number, "at": at, "who": who, "what": what, "study_uid": study_uid, "detail": detail}
    connection.execute(sa.insert(audit).values(**row, chain=link(before, row)))


def link(before: str, row: dict[str, Any]) -> str:
    """The digest that chains a record to the one before it."""
    return digest(before, json.dumps(row, sort_keys=True))


def records(
    connection: Connection, *, after: int = 0, since: float | None = None, until: float | None = None
) -> Iterator[Record]:
    """The records after a number, of a span of time (`until` is no longer part of it), by their numbers."""
    query = sa.select(audit).order_by(audit.c.number).limit(_PAGE)
    if since is not None:
        query = query.where(audit.c.at >= since)
    if until is not None:
        query = query.where(audit.c.at < until)
    while page := connection.execute(query.where(audit.c.number > after)).all():
        yield from map(_record, page)
        after = page[-1].number


def examine(connection: Connection) -> Verdict:
    """Looks at every record of the trail. What was cut off at its end only shows beside an earlier copy or export."""
    before, count = "", 0
    for count, one in enumerate(records(connection), start=1):
        if one.number != count:
            return Verdict(
                count - 1, before, f"record {count} is missing; the next one there is {one.number}"
            )
        if one.chain != link(before, one.plain()):
            return Verdict(count - 1, before, f"record {count} was changed, or put there by somebody else")
        before = one.chain
    return Verdict(count, before)


def is_whole(connection: Connection) -> bool:
    """Whether no record was changed or taken out."""
    return examine(connection).fault is None


def chain_at(connection: Connection, number: int) -> str | None:
    """The digest of one record, None where there is no such record."""
    found: str | None = connection.execute(
        sa.select(audit.c.chain).where(audit.c.number == number)
    ).scalar_one_or_none()
    return found


def _record(row: Row[Any]) -> Record:
    return Record(row.number, row.at, row.who, row.what, row.study_uid, row.detail, row.chain)
