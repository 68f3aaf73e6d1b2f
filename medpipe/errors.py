"""The one tree of errors, the reason codes, and the one table that decides what becomes of a job.

An error says what happened, to which study, instance or file (by UID or path, never by patient), and what to do.
"""

from __future__ import annotations

import errno
from enum import Enum, StrEnum


class ReasonCode(StrEnum):
    """Why an input was refused. Stable: scripts and the documentation hold on to these names."""

    # reading
    UNREADABLE = "UNREADABLE"
    NOT_DICOM = "NOT_DICOM"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    UNSUPPORTED_CLASS = "UNSUPPORTED_CLASS"
    UNSUPPORTED_SYNTAX = "UNSUPPORTED_SYNTAX"
    BAD_PIXELS = "BAD_PIXELS"
    BAD_HEADER = "BAD_HEADER"
    TOO_LARGE = "TOO_LARGE"
    OWN_OUTPUT = "OWN_OUTPUT"
    TIME_LIMIT = "TIME_LIMIT"
    MEMORY_LIMIT = "MEMORY_LIMIT"
    # identity
    TWO_PATIENTS = "TWO_PATIENTS"
    SAME_UID_OTHER_CONTENT = "SAME_UID_OTHER_CONTENT"
    SERIES_IN_TWO_STUDIES = "SERIES_IN_TWO_STUDIES"
    STUDY_REMOVED = "STUDY_REMOVED"
    # geometry
    GEOM_MISSING = "GEOM_MISSING"
    GEOM_SINGLE_SLICE = "GEOM_SINGLE_SLICE"
    GEOM_TOO_FEW_SLICES = "GEOM_TOO_FEW_SLICES"
    GEOM_GAP = "GEOM_GAP"
    GEOM_UNEVEN = "GEOM_UNEVEN"
    GEOM_TILT = "GEOM_TILT"
    GEOM_DUPLICATE = "GEOM_DUPLICATE"
    GEOM_MIXED_ORIENTATION = "GEOM_MIXED_ORIENTATION"
    GEOM_MIXED_SIZE = "GEOM_MIXED_SIZE"
    GEOM_NOT_ORTHONORMAL = "GEOM_NOT_ORTHONORMAL"
    MIXED_SERIES = "MIXED_SERIES"
    LOCALIZER = "LOCALIZER"
    MOSAIC = "MOSAIC"
    MULTIFRAME = "MULTIFRAME"
    COLOUR = "COLOUR"
    # use
    NOT_FOR_BUNDLE = "NOT_FOR_BUNDLE"
    FOV_NOT_FOR_BUNDLE = "FOV_NOT_FOR_BUNDLE"
    NO_RULE = "NO_RULE"


class Disposition(Enum):
    """What becomes of a job when a class of error ends its step."""

    WAIT = "wait"
    """Something that the study has no part in is away: tried again until it is back, and no attempt counts."""
    RETRY = "retry"
    QUARANTINE = "quarantine"
    FAIL = "fail"


class MedpipeError(Exception):
    """Root of all expected errors: one clear line, no traceback for the user. `exit_code` is the command's."""

    code = "FAILED"
    exit_code = 1


class UsageError(MedpipeError):
    """The command line asks for something that cannot be."""

    code = "USAGE"
    exit_code = 2


class ConfigError(MedpipeError):
    """The configuration has an unknown key or an impossible value."""

    code = "CONFIG"
    exit_code = 2


class BundleError(MedpipeError):
    """A bundle is missing, incomplete, changed or not meant for this version."""

    code = "BUNDLE"


class Refused(MedpipeError):
    """An input is refused with a reason code; it is kept, and nothing is guessed."""

    exit_code = 3

    def __init__(self, reason: ReasonCode, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.code = reason.value


class NewerDatabase(MedpipeError):
    """The database, or a backup, is of a newer version of medpipe; this one must not touch it."""

    code = "DATABASE_NEWER"


class StorageError(MedpipeError):
    """A file could not be written, read or made durable."""

    code = "STORAGE"


class DiskFull(StorageError):
    """The disk, or our share of it, has no room."""

    code = "DISK_FULL"


class PeerUnreachable(MedpipeError):
    """A peer (PACS, database) is not there, or takes no association; worth another try."""

    code = "PEER_UNREACHABLE"
    exit_code = 4


class ConnectionLost(PeerUnreachable):
    """A peer took the association and was gone, or silent, in the midst of it: perhaps because of what it got."""


class PeerBusy(PeerUnreachable):
    """A peer answered with a transient failure (0xA7xx and the like)."""

    code = "PEER_BUSY"


class PeerCrowded(PeerBusy):
    """A peer rejected the association for now, whatever would have been sent."""


class PeerRefused(MedpipeError):
    """A peer refused for good (0xA9xx, 0xCxxx, no accepted context); a person must look."""

    code = "PEER_REFUSED"


class PeerInsecure(PeerRefused):
    """No TLS with a peer: a certificate is not trusted, or one of the two does not speak it; a person must look.

    `distrusts_us`: it is our certificate, or that we have none, that the peer does not accept.
    """

    code = "PEER_INSECURE"

    def __init__(self, sentence: str, *, distrusts_us: bool = False) -> None:
        super().__init__(sentence)
        self.distrusts_us = distrusts_us


class InferenceCrashed(MedpipeError):
    """The inference child died (out of memory, killed); worth another try on a fresh child."""

    code = "INFERENCE_CRASHED"


class StepTimeout(MedpipeError):
    """A step took longer than the site allows and was stopped."""

    code = "STEP_TIMEOUT"


class NotFound(MedpipeError):
    """No such study, job, peer or bundle."""

    code = "NOT_FOUND"


class IntegrityError(MedpipeError):
    """Stored bytes no longer match their digest, or an invariant of the registry is broken."""

    code = "INTEGRITY"


DISPOSITIONS: tuple[tuple[type[BaseException], Disposition], ...] = (
    (Refused, Disposition.QUARANTINE),
    (ConnectionLost, Disposition.RETRY),
    (PeerCrowded, Disposition.WAIT),
    (PeerBusy, Disposition.RETRY),
    (PeerUnreachable, Disposition.WAIT),
    (InferenceCrashed, Disposition.RETRY),
    (StepTimeout, Disposition.RETRY),
    (DiskFull, Disposition.WAIT),
    (StorageError, Disposition.RETRY),
    (MemoryError, Disposition.RETRY),
    (MedpipeError, Disposition.FAIL),
    (Exception, Disposition.FAIL),
)
"""First matching row decides; nowhere else in the code is an error turned into retry, quarantine or fail."""


def storage_error(error: OSError) -> StorageError:
    """What the system says of a file, as one of ours: without the path."""
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
    return kind(error.strerror or "input/output error")


def disposition(error: BaseException) -> Disposition:
    """What becomes of a job that ended with `error`."""
    if isinstance(error, OSError):
        error = storage_error(error)
    for kind, outcome in DISPOSITIONS:
        if isinstance(error, kind):
            return outcome
    return Disposition.FAIL


def _kinds(kind: type[MedpipeError]) -> list[type[MedpipeError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _kinds(child))]


CODES = frozenset({*ReasonCode, *(kind.code for kind in _kinds(MedpipeError))})
"""Every code with which a reason may begin."""
