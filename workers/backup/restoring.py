"""`restore`: a backup into an empty place, from where the line goes on.

Everything is verified first, then written below `site.root/.restoring`, then renamed into place. While that folder is
there no process of the line starts; a restore that was broken off goes on when it is run again with the same backup.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from medpipe.config import Config
from medpipe.errors import IntegrityError, UsageError
from workers import audit, faults
from workers.backup.archive import DATABASES, FOLDERS, Backup, read_archive, verify
from workers.backup.snapshot import check_programs, has_tables, load_postgres
from workers.database import check_known_revision, migrate, open_engine, writing
from workers.durable import sync_file, sync_folder
from workers.spool import RESTORING
from workers.tables import Retention, instance, study
from workers.tables import audit as audit_table

_PLACED = (*FOLDERS, "medpipe.sqlite")
_READY = "ready.json"
_BLOCK = 1 << 20
_BATCH = 500


def restore(config: Config, path: Path, who: str) -> Backup:
    """Restores a site from a backup.

    Raises IntegrityError where the backup is damaged, UsageError where its place is not empty; nothing is changed then.
    """
    url = config.site.database_url
    check_programs(url)
    backup = verify(path)
    check_known_revision(
        backup.manifest.schema, f"the backup {path} (made by medpipe {backup.manifest.medpipe})"
    )
    kind = "sqlite" if url.startswith("sqlite") else "postgresql"
    if backup.manifest.database != kind:
        raise UsageError(f"{path}: of a site on {backup.manifest.database}, and site.database is {kind}")
    root = config.site.root
    staging = root / RESTORING
    if not (staging / _READY).exists():
        _check_empty(config)
        _write_aside(backup, staging)
    elif (staging / _READY).read_text(encoding="ascii") != backup.seal:
        raise UsageError(f"{root}: the restore of another backup has not ended; run it again with that one")
    faults.point("in_restore")
    _restore_database(config, backup, staging, who)
    for folder in FOLDERS:
        if (staging / folder).is_dir():
            _remove_empty(root / folder)
            (staging / folder).rename(root / folder)
    if kind == "sqlite" and (staging / DATABASES[kind]).exists():
        (staging / DATABASES[kind]).rename(root / "medpipe.sqlite")
    sync_folder(root)
    shutil.rmtree(staging)  # last: from now on the line may start
    sync_folder(root)
    return backup


def _check_empty(config: Config) -> None:
    root = config.site.root
    for name in _PLACED:
        found = next(_files_of(root / name), None)
        if found is not None:
            raise UsageError(
                f"{root} is not empty ({found.relative_to(root)}): a backup is restored into an empty place"
            )
    if not config.site.database_url.startswith("sqlite") and has_tables(config.site.database_url):
        raise UsageError("site.database has tables already: restore into an empty database")


def _files_of(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from (path for path in sorted(place.rglob("*")) if not path.is_dir() and path.name != ".lock")
    elif place.exists():
        yield place


def _remove_empty(place: Path) -> None:
    """Folders that any command makes on its way; what has come into them since is no longer empty."""
    if place.is_dir():
        found = next(_files_of(place), None)
        if found is not None:
            raise UsageError(
                f"{found} came while the backup was restored: stop the line, move it away, restore again"
            )
        shutil.rmtree(place)


def _write_aside(backup: Backup, staging: Path) -> None:
    """All members below `staging`, compared with their digests once more, and on the disk before they are ready."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True, mode=0o700)
    surplus = set(backup.manifest.surplus)
    wanted = (*(f"{folder}/" for folder in FOLDERS), "database/")

    def write(name: str, content: IO[bytes]) -> None:
        if name in surplus or not name.startswith(wanted):
            return
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            while block := content.read(_BLOCK):
                file.write(block)

    if read_archive(backup.path, write) != backup.sums:
        raise IntegrityError(f"{backup.path}: changed while it was read")
    arrivals = staging / "spool" / "arrivals"
    arrivals.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in backup.manifest.arrivals:
        sidecar = staging / "spool" / "instances" / name[:2] / f"{name}.json"
        if sidecar.exists():
            os.link(sidecar, arrivals / sidecar.name)
    os.sync()  # thousands of files: one wait for all of them
    ready = staging / f".{_READY}"
    ready.write_text(backup.seal, encoding="ascii")
    sync_file(ready)
    ready.rename(staging / _READY)
    sync_folder(staging)


def _restore_database(config: Config, backup: Backup, staging: Path, who: str) -> None:
    """The tables of the backup, migrated, and saying which files came with them. Twice is once."""
    url = config.site.database_url
    copy = staging / DATABASES[backup.manifest.database]
    if url.startswith("sqlite"):
        if not copy.exists():
            return  # in place already
        url = f"sqlite:///{copy}"
    elif not has_tables(url):
        load_postgres(url, copy)
    migrate(url)
    engine = open_engine(url)
    try:
        with writing(engine) as connection:
            if not _was_noted(connection, backup):
                absent = _mark_absent(connection, backup)
                detail = {
                    "backup": backup.seal,
                    "taken_at": backup.manifest.taken_at,
                    "without_files": absent,
                }
                audit.note(connection, who, "restored", None, detail)
    finally:
        engine.dispose()
    if backup.manifest.database == "sqlite":
        sync_file(copy)


def _was_noted(connection: Connection, backup: Backup) -> bool:
    rows = connection.execute(
        sa.select(audit_table.c.detail).where(audit_table.c.what == "restored")
    ).scalars()
    return any(detail.get("backup") == backup.seal for detail in rows)


def _mark_absent(connection: Connection, backup: Backup) -> int:
    """Instances that are kept by their rows, and not by the backup, are as if `site.keep_days` were over for them."""
    kept = sa.select(instance.c.study_uid, instance.c.file).where(
        instance.c.retention == Retention.KEPT.value
    )
    absent = [row for row in connection.execute(kept) if f"{_place(row.file)}.dcm" not in backup.sums]
    for start in range(0, len(absent), _BATCH):
        files = [row.file for row in absent[start : start + _BATCH]]
        connection.execute(
            sa.update(instance).where(instance.c.file.in_(files)).values(retention=Retention.REMOVED.value)
        )
    for study_uid in sorted({row.study_uid for row in absent if row.study_uid is not None}):
        _recount(connection, study_uid)
    return len(absent)


def _recount(connection: Connection, study_uid: str) -> None:
    left = connection.execute(
        sa.select(sa.func.count(), sa.func.count().filter(instance.c.aside.is_(False))).where(
            instance.c.study_uid == study_uid, instance.c.retention == Retention.KEPT.value
        )
    ).one()
    after = Retention.KEPT if left[0] else Retention.REMOVED
    connection.execute(
        sa.update(study)
        .where(study.c.study_uid == study_uid)
        .values(instances=left[1], retention=after.value)
    )


def _place(name: str) -> str:
    return f"spool/instances/{name[:2]}/{name}"
