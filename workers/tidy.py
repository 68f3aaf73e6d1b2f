"""What killed processes leave on the disk: removed when a worker starts, and only where nobody can still want it."""

from __future__ import annotations

import logging
import re
import shutil
import time

import sqlalchemy as sa

from medpipe.config import Config
from medpipe.logs import Event, about
from workers.jobs import attempt_folders
from workers.queue import job_of, status_table
from workers.registry import Registry

log = logging.getLogger(__name__)

_REPORT_SECONDS = 7 * 24 * 3600
_ATTEMPT = re.compile(r"\.?[0-9a-f]{32}-[0-9a-f-]{16}")


def tidy(config: Config, registry: Registry) -> int:
    """Removes folders of attempts that are over, and old storage commitment reports; returns how many."""
    scratch, out = attempt_folders(config, "", "")
    found = [
        folder
        for parent in (scratch.parent, out.parent)
        for folder in (parent.iterdir() if parent.is_dir() else ())
        if _ATTEMPT.fullmatch(folder.name) and folder.name.startswith(".") == (parent == out.parent)
    ]
    # looked up after the folders: whose attempt has ended by now can go, one that began after is not among them
    with registry.read() as connection:
        claims = _present_claims(connection) if found else set()
    removed = 0
    for folder in found:
        if folder.name.removeprefix(".") not in claims:
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    for report in (config.site.root / "commitments").glob("*.json"):
        if time.time() - report.stat().st_mtime > _REPORT_SECONDS:
            report.unlink(missing_ok=True)
            removed += 1
    if removed:
        log.info(
            "removed %d left-overs of ended processes",
            removed,
            extra=about(Event.FILES_REMOVED, number=removed),
        )
    return removed


def _present_claims(connection: sa.Connection) -> set[str]:
    """Names of the folders of attempts that run now, on any machine."""
    rows = connection.execute(
        sa.text(
            f"SELECT workflow_uuid, owner_xid FROM {status_table(connection)} "
            "WHERE status = 'PENDING' AND workflow_uuid LIKE 'job:%'"
        )
    )
    return {f"{job_of(row.workflow_uuid)}-{str(row.owner_xid)[:16]}" for row in rows}
