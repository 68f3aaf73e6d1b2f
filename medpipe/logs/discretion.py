"""What a line may say. Nothing that came out of a DICOM object gets past this, whoever wrote it.

Our own sentences are written without patient data. Of libraries that see DICOM only the place is told, not the text:
pydicom's warnings quote values, pynetdicom's debug lines print whole data sets. Of an exception the class and the
places are told; its text only where it is one of ours. UIDs are replaced by pseudonyms unless the site wants them.
"""

from __future__ import annotations

import logging
import re
import traceback
from pathlib import PurePath
from typing import Any

from medpipe.errors import MedpipeError
from medpipe.identity import digest

OURS = frozenset({"medpipe", "workers", "nets"})
_NEVER_SEE_DICOM = frozenset({"dbos", "alembic", "uvicorn", "opentelemetry"})
_UID = re.compile(
    r"(?<![\w.-])(?:2\.25\.\d+|[0-2](?:\.\d+){4,}|(?:(?<=study )|(?<=series )|(?<=reprocess ))\d+)(?:\.\d+)*"
    r"(?![\w-])"
)
"""A UID in a sentence: what follows the word study, series or reprocess, five components at least (four may be an IP
address), or one under 2.25."""
_STANDARD = "1.2.840.10008."
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MOST_PLACES = 8


def pseudonym(uid: str) -> str:
    """What a UID is called in the log: the same name each time. `medpipe status` takes it too."""
    return f"uid-{digest(uid)[:16]}"


class Discretion:
    """How one process speaks: with pseudonyms or with UIDs."""

    def __init__(self, *, plain_uids: bool = False) -> None:
        self._plain_uids = plain_uids

    def sentence(self, record: logging.LogRecord) -> str:
        """The record's text where it may be told, in one line without control characters."""
        if record.name.partition(".")[0] in OURS | _NEVER_SEE_DICOM:
            return self.text(record.getMessage())
        place = f"{record.name}, {PurePath(record.pathname).name}:{record.lineno}"
        return f"a library said something that is withheld: it might quote a DICOM object ({place})"

    def text(self, text: str) -> str:
        """A text of ours without UIDs (those of the standard stay) and without control characters."""
        if not self._plain_uids:
            text = _UID.sub(_named, text)
        return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)

    def fact(self, value: Any) -> Any:
        """A fact's value as JSON has it; texts as in `text`."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self.fact(one) for one in value]
        return self.text(str(value))

    def uid(self, value: Any) -> Any:
        """A fact that is a UID, however short."""
        return self.fact(value) if value is None or self._plain_uids else pseudonym(str(value))

    def error(self, error: BaseException) -> dict[str, Any]:
        """An exception: its class, where it was raised, innermost place first; the text where it is ours."""
        frames = traceback.extract_tb(error.__traceback__)[-_MOST_PLACES:]
        told: dict[str, Any] = {
            "class": type(error).__name__,
            "at": [f"{PurePath(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames)],
        }
        if isinstance(error, MedpipeError):
            told |= {"code": error.code, "text": self.text(str(error))}
        elif isinstance(error, OSError):
            told["text"] = error.strerror or "input/output error"
        return told


def _named(found: re.Match[str]) -> str:
    uid = found[0]
    return uid if uid.startswith(_STANDARD) else pseudonym(uid)
