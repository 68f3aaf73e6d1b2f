"""Which files belong to one moment of the database."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workers.publish import outbox
from workers.retention import is_over, job_is_over
from workers.tables import REMOVED, Retention, instance, job, result, study


@dataclass(frozen=True)
class Contents:
    """Names relative to `site.root`.

    `named`: what rows of the database need. `arrivals`: spool names of instances that lie in the spool and that the
    rows do not know (any more): acknowledged, and not registered yet.
    """

    named: list[str]
    arrivals: list[str]

    def names(self) -> Iterator[str]:
        """All files: those of the arrivals too."""
        yield from self.named
        for name in self.arrivals:
            yield from _instance_files(name)


def contents(connection: Connection, root: Path, everything: bool) -> Contents:
    """What has to be kept with this moment of the database: all of it, or only what is not over yet.

    Over is what retention would remove once its days are over: its results are in the archive, confirmed.
    """
    over: set[str] = set()
    if not everything:
        over = set(connection.execute(sa.select(study.c.study_uid).where(is_over(math.inf))).scalars())
    kept = _kept_instances(connection)
    named = [file for name, of in sorted(kept.items()) if of not in over for file in _instance_files(name)]
    named += [file for folder in _result_folders(connection, over) for file in _folder_files(root, folder)]
    # looked for after the moment of the database: what it does not know was acknowledged shortly before, or since
    arrivals = sorted(name for name in _in_spool(root) if name not in kept)
    return Contents(named, arrivals)


def _kept_instances(connection: Connection) -> dict[str, str | None]:
    """Spool name -> study of the instances whose files are kept."""
    query = sa.select(instance.c.file, instance.c.study_uid).where(
        instance.c.retention == Retention.KEPT.value
    )
    return {row.file: row.study_uid for row in connection.execute(query)}


def _result_folders(connection: Connection, over: set[str]) -> list[str]:
    """Published folders that rows name and that nothing may have removed."""
    gone = sa.select(instance.c.file).where(
        instance.c.study_uid == job.c.study_uid, instance.c.retention != Retention.KEPT.value
    )
    query = (
        sa.select(result.c.file, job.c.study_uid)
        .join(job, job.c.id == result.c.job)
        .where(job.c.step != REMOVED, sa.or_(sa.not_(job_is_over()), sa.not_(gone.exists())))
    )
    return sorted({r.file.split("/", 1)[0] for r in connection.execute(query) if r.study_uid not in over})


def _folder_files(root: Path, folder: str) -> list[str]:
    try:
        return sorted(f"outbox/{folder}/{entry.name}" for entry in os.scandir(outbox(root) / folder))
    except FileNotFoundError:
        return [f"outbox/{folder}/manifest.json"]  # named, and not there: missed like any other file


def _in_spool(root: Path) -> Iterator[str]:
    for folder in sorted((root / "spool" / "instances").glob("??")):
        with os.scandir(folder) as entries:
            yield from (entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json"))


def _instance_files(name: str) -> tuple[str, str]:
    folder = f"spool/instances/{name[:2]}/{name}"
    return f"{folder}.dcm", f"{folder}.json"
