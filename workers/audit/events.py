"""What a record's `what` is to DICOM: event, action and outcome (PS3.15 A.5.3, codes of PS3.16 CID 400 and 401)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal


@dataclass(frozen=True)
class Code:
    """A coded value (PS3.15 A.5.1: csd-code, codeSystemName, originalText)."""

    value: str
    meaning: str
    system: str = "DCM"


class Form(Enum):
    """Who and what a message names besides the event."""

    APPLICATION = "the process that began or ended"
    TRANSFER = "source and destination, the study, its patient"
    STUDY = "who did it, the study, its patient"
    QUERY = "who asked us, and what for"
    ARCHIVE = "who had us ask which archive, and what for"
    PERSON = "who signed in or out, and at what"
    ALERT = "who reports, who gave rise to it, what it was about"
    LOG = "who used the trail"


@dataclass(frozen=True)
class Event:
    """`outcome`: 0 success, 4 minor failure, 8 serious failure (RFC 3881 section 5.1.4)."""

    id: Code
    action: Literal["C", "R", "U", "D", "E"]
    form: Form
    type: Code | None = None
    outcome: Literal[0, 4, 8] = 0


_ACTIVITY = Code("110100", "Application Activity")
_LOG_USED = Code("110101", "Audit Log Used")
_ACCESSED = Code("110103", "DICOM Instances Accessed")
_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
_DELETED = Code("110105", "DICOM Study Deleted")
_PROCEDURE = Code("110111", "Procedure Record")
_QUERY = Code("110112", "Query")
_ALERT = Code("110113", "Security Alert")
_AUTHENTICATION = Code("110114", "User Authentication")

_START, _STOP = Code("110120", "Application Start"), Code("110121", "Application Stop")
_LOGIN, _LOGOUT = Code("110122", "Login"), Code("110123", "Logout")
_NODE = Code("110126", "Node Authentication")
_USER_CHANGED = Code("110137", "User security Attributes Changed")

EVENTS: dict[str, Event] = {
    "application started": Event(_ACTIVITY, "E", Form.APPLICATION, _START),
    "application stopped": Event(_ACTIVITY, "E", Form.APPLICATION, _STOP),
    "instances received": Event(_TRANSFERRED, "C", Form.TRANSFER),
    "instances sent": Event(_TRANSFERRED, "C", Form.TRANSFER),
    "instances refused": Event(_TRANSFERRED, "C", Form.TRANSFER, outcome=8),
    "study opened": Event(_ACCESSED, "R", Form.STUDY),
    "results published": Event(_ACCESSED, "C", Form.STUDY),
    "files removed": Event(_DELETED, "D", Form.STUDY),
    "study forgotten": Event(_DELETED, "D", Form.STUDY),
    "job planned": Event(_PROCEDURE, "C", Form.STUDY),
    "study reprocessed": Event(_PROCEDURE, "U", Form.STUDY),
    "job queued again": Event(_PROCEDURE, "U", Form.STUDY),
    "study settled again": Event(_PROCEDURE, "U", Form.STUDY),
    "job cancelled": Event(_PROCEDURE, "U", Form.STUDY),
    "worklist searched": Event(_QUERY, "E", Form.QUERY),
    "archive queried": Event(_QUERY, "E", Form.ARCHIVE),
    "signed in": Event(_AUTHENTICATION, "E", Form.PERSON, _LOGIN),
    "signed out": Event(_AUTHENTICATION, "E", Form.PERSON, _LOGOUT),
    "sign-in refused": Event(_AUTHENTICATION, "E", Form.PERSON, _LOGIN, outcome=4),
    "association refused": Event(_ALERT, "E", Form.ALERT, _NODE, outcome=4),
    "TLS refused": Event(_ALERT, "E", Form.ALERT, _NODE, outcome=4),
    "user changed": Event(_ALERT, "E", Form.ALERT, _USER_CHANGED),
    "user removed": Event(_ALERT, "E", Form.ALERT, _USER_CHANGED),
    "audit trail exported": Event(_LOG_USED, "R", Form.LOG),
}

_OTHER = Event(_PROCEDURE, "U", Form.STUDY)
"""What is done to a study by whatever has no row above."""


def event_of(what: str) -> Event:
    """The event that a record tells of."""
    return EVENTS.get(what, _OTHER)
