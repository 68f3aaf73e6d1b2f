"""Storage commitment reports at rest: the listener writes them, the `confirm` workflow reads them.

They are files, so that a report is not lost while the database is away: `<root>/commitments/<transaction digest>.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from medpipe.identity import digest
from medpipe.pacs import CommitmentReport, FailedCommitment
from workers.durable import write_json


def _path(root: Path, transaction_uid: str) -> Path:
    return root / "commitments" / f"{digest(transaction_uid)[:32]}.json"


def keep_report(root: Path, report: CommitmentReport) -> None:
    """Writes a report durably; the same report again changes nothing."""
    path = _path(root, report.transaction_uid)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(report))


def find_report(root: Path, transaction_uid: str) -> CommitmentReport | None:
    """The report on a transaction, if it has come."""
    path = _path(root, transaction_uid)
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return CommitmentReport(
        plain["transaction_uid"],
        tuple((reference[0], reference[1]) for reference in plain["committed"]),
        tuple(FailedCommitment(**failed) for failed in plain["failed"]),
    )


def forget_report(root: Path, transaction_uid: str) -> None:
    """Removes a report that has been dealt with."""
    _path(root, transaction_uid).unlink(missing_ok=True)
