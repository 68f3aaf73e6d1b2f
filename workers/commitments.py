"""Storage commitment at rest: which peer was asked, and its report. The listener writes reports, `confirm` reads them.

They are files, so that a report is not lost while the database is away: `<root>/commitments/<transaction digest>.json`,
and beside it, before anybody is asked, `<transaction digest>.asked.json` with the AE title whose report will count.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medpipe.errors import IntegrityError
from medpipe.identity import digest
from medpipe.pacs import CommitmentReport, FailedCommitment
from workers.durable import write_json


def _path(root: Path, transaction_uid: str, kind: str = "") -> Path:
    return root / "commitments" / f"{digest(transaction_uid)[:32]}{kind}.json"


def expect_report(root: Path, transaction_uid: str, ae_title: str) -> None:
    """From now on a report on this transaction is taken, from this AE title and from no other."""
    path = _path(root, transaction_uid, ".asked")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"transaction_uid": transaction_uid, "ae_title": ae_title, "over": False})


def keep_report(root: Path, report: CommitmentReport, ae_title: str) -> None:
    """Writes the report that `ae_title` sent, durably. The first one stands: what comes after it changes nothing.

    Raises IntegrityError for a transaction that nobody asked for, or that another peer was asked for.
    """
    asked = _read(_path(root, report.transaction_uid, ".asked"))
    if asked is None:
        raise IntegrityError("nobody has asked for its transaction")
    if asked["ae_title"] != ae_title:
        raise IntegrityError("its transaction was asked of another peer than the one that reports")
    path = _path(root, report.transaction_uid)
    if asked["over"] or path.exists():
        return
    with contextlib.suppress(FileExistsError):  # another process was given one at the same moment
        write_json(path, asdict(report), replace=False)


def find_report(root: Path, transaction_uid: str) -> CommitmentReport | None:
    """The report on a transaction, if it has come."""
    plain = _read(_path(root, transaction_uid))
    if plain is None:
        return None
    return CommitmentReport(
        plain["transaction_uid"],
        tuple((reference[0], reference[1]) for reference in plain["committed"]),
        tuple(FailedCommitment(**failed) for failed in plain["failed"]),
    )


def forget_report(root: Path, transaction_uid: str) -> None:
    """Removes a report that has been dealt with, and remembers that it was: one that comes again says nothing new."""
    asked = _path(root, transaction_uid, ".asked")
    plain = _read(asked)
    if plain is not None:
        write_json(asked, plain | {"over": True})
    _path(root, transaction_uid).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
