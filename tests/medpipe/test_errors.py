"""Errors are a small closed tree; one table decides what becomes of a job."""

import errno

import pytest

from medpipe import errors
from medpipe.errors import Disposition, MedpipeError, ReasonCode, Refused, disposition


def test_reason_codes_are_their_own_names() -> None:
    assert all(code.value == code.name for code in ReasonCode)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Refused(ReasonCode.GEOM_GAP, "a slice is missing"), Disposition.QUARANTINE),
        (errors.PeerUnreachable("PACS"), Disposition.WAIT),
        (errors.PeerCrowded("PACS"), Disposition.WAIT),
        (errors.PeerBusy("PACS"), Disposition.RETRY),
        (errors.ConnectionLost("PACS"), Disposition.RETRY),
        (errors.PeerRefused("PACS"), Disposition.FAIL),
        (OSError(errno.ENOSPC, "disk full"), Disposition.WAIT),
        (OSError(errno.EDQUOT, "quota exceeded"), Disposition.WAIT),
        (OSError(errno.EIO, "input/output error"), Disposition.RETRY),
        (ValueError("a defect"), Disposition.FAIL),
        (KeyboardInterrupt(), Disposition.FAIL),
    ],
)
def test_the_class_decides(error: BaseException, outcome: Disposition) -> None:
    assert disposition(error) is outcome


def test_every_error_has_a_code_and_a_documented_exit_code() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MedpipeError)
    ]
    assert all(kind.exit_code in (1, 2, 3, 4) and kind.code.isupper() for kind in kinds)
