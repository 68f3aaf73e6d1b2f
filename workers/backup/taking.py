"""`backup`: one moment of the database and every file that it names, in one tar file, while the line is running.

The database comes first, then the files, and again as long as a file has gone meanwhile. A file is on the disk before
a row names it, and is removed after the commit of what takes the name away: so what a moment of the database names was
there at that moment, and what is not there a little later is no longer named by the next moment. Files first would be
wrong: the database would name what came since. Files never change under their name, so no round copies one twice.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from medpipe import __version__
from medpipe.bundle import find_bundle
from medpipe.config import Config
from medpipe.errors import MedpipeError, UsageError
from workers import faults
from workers.backup.archive import DATABASES, ArchiveWriter, Manifest
from workers.backup.contents import Contents, contents
from workers.backup.snapshot import check_programs, snapshot
from workers.database import check_known_revision, is_sqlite
from workers.durable import sync_folder

_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Taken:
    """A finished backup."""

    path: Path
    manifest: Manifest


def take(config: Config, destination: Path, settings: str, *, everything: bool = False) -> Taken:
    """Backs a site up to `destination`, a new .tar file or a folder to put one in.

    `settings` is the text to keep as the settings, without secrets. Until it is whole the file has another name.
    """
    check_programs(config.site.database_url)
    now = datetime.now(UTC)
    target = _target(destination, now)
    with _workplace(target) as folder:
        unfinished = folder / "backup.tar"
        writer = ArchiveWriter(unfinished)
        try:
            manifest = _write(config, writer, folder, settings, everything, now)
        finally:
            writer.close()
        faults.point("before_backup")
        unfinished.rename(target)
        sync_folder(target.parent)
    return Taken(target, manifest)


def _write(
    config: Config, writer: ArchiveWriter, folder: Path, settings: str, everything: bool, now: datetime
) -> Manifest:
    at = int(now.timestamp())
    root, url = config.site.root, config.site.database_url
    writer.add_text("settings/medpipe.toml", settings, at)
    # before the spool: restored, our place in an archive's changes must not be ahead of what we hold
    _add_folder(writer, root, "reconcile")
    # too: a notice that is taken into the trail meanwhile is then there twice, and not in neither
    _add_folder(writer, root, "audit")
    kind = "sqlite" if url.startswith("sqlite") else "postgresql"
    copy, missing = folder / Path(DATABASES[kind]).name, None
    while True:
        with snapshot(url, copy) as connection:
            schema, engine = _versions(connection)
            present = contents(connection, root, everything)
        before, missing = missing, _add_missing(writer, root, present)
        if not missing or missing == before:  # twice missed is no race: it is not on the disk
            break
    _add_folder(writer, root, "commitments")
    writer.add(DATABASES[kind], copy)
    manifest = Manifest(
        medpipe=__version__,
        taken_at=now.isoformat(timespec="seconds"),
        database=kind,
        schema=schema,
        engine=engine,
        everything=everything,
        bundles=_bundles(config),
        arrivals=present.arrivals,
        surplus=_surplus(writer, present),
        missing=missing,
        files=len(writer.sums),
        size=writer.size,
    )
    writer.seal(manifest, at)
    return manifest


def _add_missing(writer: ArchiveWriter, root: Path, present: Contents) -> list[str]:
    """Copies what is not in the archive yet; the names of what has gone."""
    gone = []
    for name in present.names():
        if name not in writer.sums:
            try:
                writer.add(name, root / name)
            except FileNotFoundError:
                gone.append(name)
            faults.point("in_backup")
    return gone


def _add_folder(writer: ArchiveWriter, root: Path, folder: str) -> None:
    for path in sorted((root / folder).glob("*.json")):
        try:
            writer.add(f"{folder}/{path.name}", path)
        except FileNotFoundError:
            continue  # dealt with in this moment


def _surplus(writer: ArchiveWriter, present: Contents) -> list[str]:
    wanted = set(present.names())
    return sorted(n for n in writer.sums if n.startswith(("spool/", "outbox/")) and n not in wanted)


def _versions(connection: Connection) -> tuple[str, int]:
    table = "dbos_migrations" if is_sqlite(connection) else "dbos.dbos_migrations"
    schema = connection.execute(sa.text("SELECT version_num FROM medpipe_revision")).scalar_one()
    if check_known_revision(schema, "the database"):
        raise UsageError(
            "the database is of an older version of medpipe: back it up with that one, then upgrade"
        )
    return str(schema), int(connection.execute(sa.text(f"SELECT version FROM {table}")).scalar_one())


def _bundles(config: Config) -> dict[str, str]:
    """Versions of the bundles that the rules name; a backup is no place to complain of a bundle."""
    found = {}
    for bundle_id in sorted({rule.bundle for rule in config.rules}):
        try:
            found[bundle_id] = find_bundle(bundle_id, config.worker.bundle_folders).version
        except MedpipeError:
            found[bundle_id] = "missing"
    return found


def _target(destination: Path, now: datetime) -> Path:
    if destination.is_dir():
        destination = destination / f"medpipe-{now:%Y%m%dT%H%M%SZ}.tar"
    if destination.suffix != ".tar":
        raise UsageError(f"{destination}: a backup is a .tar file, or name a folder that exists")
    if destination.exists():
        raise UsageError(f"{destination} exists; a backup never takes another one's place")
    if not destination.parent.is_dir():
        raise UsageError(f"{destination.parent} is not a folder")
    return destination


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A folder beside the target for what is unfinished; those of killed backups are removed."""
    for left_over in target.parent.glob(f".*.tar{_UNFINISHED}"):
        _remove_unused(left_over)
    folder = target.with_name(f".{target.name}{_UNFINISHED}")
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise UsageError(f"{target} is being written by another process at this moment") from None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _remove_unused(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return  # its backup is alive
    finally:
        os.close(descriptor)
