"""The trail as a file: audit messages (XML), or records with their chain and messages (JSON lines); and the way back.

A file of records proves later that nothing was taken off the end of the trail, or written anew from some point on:
who can write to the database can make a chain that fits, but not the one that was exported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from sqlalchemy import Connection

from medpipe.errors import IntegrityError, UsageError
from workers.audit.message import Source, as_text, audit_message
from workers.audit.trail import Record, link, records

FORMATS = ("xml", "jsonl")


def write_export(file: TextIO, found: Iterable[Record], source: Source, form: str) -> int:
    """Writes the records; how many. XML: one AuditMessage (PS3.15 A.5.1) a line, in one element AuditMessages."""
    count = 0
    if form == "xml":
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n<AuditMessages>\n')
    for record in found:
        message = as_text(audit_message(record, source))
        line = message if form == "xml" else json.dumps({**vars(record), "message": message}, sort_keys=True)
        file.write(f"{line}\n")
        count += 1
    if form == "xml":
        file.write("</AuditMessages>\n")
    return count


def compare(connection: Connection, path: Path) -> int:
    """Checks that the trail still holds every record of an exported file (JSON lines); how many those are.

    Raises IntegrityError for the first one that it does not, UsageError where the file is no such export.
    """
    exported = {record.number: record for record in _read(path)}
    count = len(exported)
    if not exported:
        return 0
    for record in records(connection, after=min(exported) - 1):
        was = exported.pop(record.number, None)
        if was is not None and was != record:
            raise IntegrityError(
                f"record {record.number} is not what {path} holds: the trail was written anew"
            )
        if not exported:
            break
    if exported:
        raise IntegrityError(f"record {min(exported)} of {path} is no longer in the trail")
    return count


def _read(path: Path) -> Iterable[Record]:
    before: Record | None = None
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                values = json.loads(line)
                record = Record(**{key: values[key] for key in Record.__dataclass_fields__})
                if before is not None and record.number == before.number + 1:
                    _check(path, before, record)
                before = record
                yield record
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no export with --format jsonl") from error


def _check(path: Path, before: Record, record: Record) -> None:
    if record.chain != link(before.chain, record.plain()):
        raise IntegrityError(f"{path}: record {record.number} was changed in this file")
