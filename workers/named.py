"""A study by the name that the log has for it: a pseudonym cannot be turned back, but it can be looked for."""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from medpipe.errors import NotFound, UsageError
from medpipe.logs import pseudonym
from workers.registry import Registry
from workers.tables import instance, study

_NAME = re.compile(r"uid-[0-9a-f]{4,16}")
_SHOWN = 5


def study_named(registry: Registry, name: str) -> str:
    """The UID of the study that the log calls `name` (uid-4f0c..., or its beginning); any other name is left as it is.

    The log has such names for series and instances, too: theirs leads to their study. Raises NotFound where nothing
    that was received is called so, UsageError where several studies are, or where it can be no name of the log.
    """
    if not name.startswith("uid-"):
        return name
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name}: a name in the log is uid- and 16 of 0-9a-f, of which at least 4 must be given"
        )
    with registry.read() as connection:
        found = _called(connection, name)
    if not found:
        raise NotFound(f"{name}: nothing that was received has this name in the log")
    if len(found) > 1:
        names = ", ".join(sorted(pseudonym(uid) for uid in found)[:_SHOWN])
        raise UsageError(
            f"{name}: so begin the names of {len(found)} studies or their parts ({names}); give more of it"
        )
    return found.pop()


def _called(connection: Connection, name: str) -> set[str]:
    """Studies that are called so; where there is none, those of series, and then of instances, that are."""
    for column, of_study in (
        (study.c.study_uid, study.c.study_uid),
        (instance.c.series_uid, instance.c.study_uid),
        (instance.c.sop_instance_uid, instance.c.study_uid),
    ):
        rows = connection.execute(
            sa.select(column, of_study).where(column.is_not(None), of_study.is_not(None)).distinct()
        )
        found = {row[1] for row in rows if pseudonym(row[0]).startswith(name)}
        if found:
            return found
    return set()
