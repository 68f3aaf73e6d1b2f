"""Storage commitment, push model (PS3.4 annex J): the archive takes responsibility for our results, object by object.

The report (N-EVENT-REPORT) may come on the association of the request, or on a new one that the archive opens to our
listener, and that may happen before the request's own call has returned: the transaction is registered first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance  # type: ignore[attr-defined]

from medpipe.config import Peer
from medpipe.errors import IntegrityError, PeerBusy, PeerRefused
from medpipe.identity import is_uid
from medpipe.pacs.network import association, peer_text, status_of
from medpipe.pacs.syntaxes import MESSAGES

REQUEST = 1
"""Action type id of "request storage commitment" (PS3.4 section J.3.2)."""

Reference = tuple[str, str]
"""(SOP Class UID, SOP Instance UID)."""


class FailureAction(Enum):
    """What to do with an object that was not committed."""

    SEND_AGAIN = "send again"
    ASK_AGAIN = "ask again"
    ERROR = "error"


FAILURES = {
    0x0110: (FailureAction.ASK_AGAIN, "processing failure"),
    0x0112: (FailureAction.SEND_AGAIN, "no such object instance"),
    0x0119: (FailureAction.ERROR, "class or instance conflict"),
    0x0122: (FailureAction.ERROR, "SOP class not supported"),
    0x0131: (FailureAction.ASK_AGAIN, "duplicate transaction UID"),
    0x0213: (FailureAction.ASK_AGAIN, "resource limitation"),
}
"""Failure reasons (0008,1197) of PS3.3 section C.14.1.1."""


@dataclass(frozen=True)
class FailedCommitment:
    sop_class_uid: str
    sop_instance_uid: str
    reason: int

    @property
    def action(self) -> FailureAction:
        return FAILURES.get(self.reason, (FailureAction.ERROR, ""))[0]

    @property
    def sentence(self) -> str:
        return f"0x{self.reason:04X} {FAILURES.get(self.reason, (None, 'unknown reason'))[1]}"


@dataclass(frozen=True)
class CommitmentReport:
    """What an archive answered to one transaction."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[FailedCommitment, ...]


def parse_commitment_report(event_information: Dataset) -> CommitmentReport:
    """The Event Information of an N-EVENT-REPORT (PS3.4 table J.3-4).

    Raises IntegrityError where the transaction UID is missing or an item has no references: nothing of such a report is
    believed. A failed item without a reason counts as a processing failure.
    """
    try:
        transaction = str(event_information.TransactionUID)
        committed = tuple(_reference(item) for item in event_information.get("ReferencedSOPSequence") or ())
        failed = tuple(
            FailedCommitment(*_reference(item), int(item.get("FailureReason") or 0x0110))
            for item in event_information.get("FailedSOPSequence") or ()
        )
    except (AttributeError, ValueError, TypeError) as error:
        raise IntegrityError("a storage commitment report lacks its transaction UID or references") from error
    if not is_uid(transaction):
        raise IntegrityError("a storage commitment report has no valid transaction UID")
    return CommitmentReport(transaction, committed, failed)


def _reference(item: Dataset) -> Reference:
    return str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)


def add_commitment_context(ae: AE) -> None:
    """Lets a listener take reports on associations that the archive opens (the archive proposes the SCP role).

    The handler of `evt.EVT_N_EVENT_REPORT` gives `event.event_information` to `parse_commitment_report` and returns
    `0x0000, None`.
    """
    ae.add_supported_context(StorageCommitmentPushModel, list(MESSAGES), scu_role=True, scp_role=True)


def request_commitment(
    peer: Peer,
    calling_ae: str,
    references: Sequence[Reference],
    transaction_uid: str,
    *,
    register: Callable[[str], None] | None = None,
    wait: float = 0,
) -> CommitmentReport | None:
    """Asks the peer to commit itself to objects; its report when that comes on this association within `wait` seconds.

    `register(transaction_uid)` is called before anything is sent. None: the report will come to our listener (the peer
    must know `calling_ae` with the listener's host and port). Raises PeerRefused where the peer offers no storage
    commitment or refuses the request (then C-FIND confirms), PeerBusy or PeerUnreachable when it is worth another try.
    """
    if not is_uid(transaction_uid) or not references:
        raise ValueError("a storage commitment request needs a transaction UID and at least one object")
    if register is not None:
        register(transaction_uid)
    arrived = threading.Event()
    reports: list[CommitmentReport] = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        report = parse_commitment_report(event.event_information)
        if report.transaction_uid != transaction_uid:  # our listener would know it, this association does not
            return 0x0115, None
        reports.append(report)  # the first one counts
        arrived.set()
        return 0x0000, None

    with association(
        peer,
        calling_ae,
        [build_context(StorageCommitmentPushModel, list(MESSAGES))],
        handlers=[(evt.EVT_N_EVENT_REPORT, on_report)],
        patience=max(wait, peer.timeout),
    ) as assoc:
        answer, _ = assoc.send_n_action(
            _request(references, transaction_uid),
            REQUEST,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        status = status_of(peer, answer, "requesting storage commitment")
        if status in (0x0110, 0x0213):
            raise PeerBusy(
                f"{peer_text(peer)} cannot take a storage commitment request now (status 0x{status:04X})"
            )
        if status != 0x0000:
            raise PeerRefused(
                f"{peer_text(peer)} refused the storage commitment request (status 0x{status:04X})"
            )
        if wait > 0:
            arrived.wait(wait)
    return reports[0] if reports else None


def _request(references: Sequence[Reference], transaction_uid: str) -> Dataset:
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = []
    for sop_class, instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = instance
        request.ReferencedSOPSequence.append(item)
    return request
