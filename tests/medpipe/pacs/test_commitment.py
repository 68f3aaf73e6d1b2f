"""Storage commitment: the report's meaning, on the same association or on a new one, early or never."""

from __future__ import annotations

import threading

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification

from medpipe.errors import IntegrityError, PeerBusy, PeerRefused, PeerUnreachable
from medpipe.pacs import (
    CommitmentReport,
    FailedCommitment,
    FailureAction,
    add_commitment_context,
    parse_commitment_report,
    request_commitment,
)

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
OBJECTS = [(SEG, "2.25.1"), (SEG, "2.25.2")]
TRANSACTION = "2.25.4711"


def information(transaction=TRANSACTION, committed=(), failed=()):
    """The Event Information of a report."""
    report = Dataset()
    if transaction is not None:
        report.TransactionUID = transaction
    report.ReferencedSOPSequence = [reference(*item) for item in committed]
    report.FailedSOPSequence = []
    for sop_class, uid, reason in failed:
        item = reference(sop_class, uid)
        item.FailureReason = reason
        report.FailedSOPSequence.append(item)
    return report


def reference(sop_class, uid):
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = uid
    return item


def test_a_report_says_what_is_kept_and_what_is_not():
    report = parse_commitment_report(information(committed=OBJECTS[:1], failed=[(SEG, "2.25.2", 0x0112)]))
    assert report == CommitmentReport(
        TRANSACTION, ((SEG, "2.25.1"),), (FailedCommitment(SEG, "2.25.2", 0x0112),)
    )
    assert report.failed[0].action is FailureAction.SEND_AGAIN
    assert report.failed[0].sentence == "0x0112 no such object instance"


@pytest.mark.parametrize(
    ("reason", "action"),
    [
        (0x0112, FailureAction.SEND_AGAIN),
        (0x0119, FailureAction.ERROR),
        (0x0122, FailureAction.ERROR),
        (0x0110, FailureAction.ASK_AGAIN),
        (0x0213, FailureAction.ASK_AGAIN),
        (0x0131, FailureAction.ASK_AGAIN),
        (0x7777, FailureAction.ERROR),
    ],
)
def test_each_reason_has_one_consequence(reason, action):
    assert FailedCommitment(SEG, "2.25.1", reason).action is action


def test_a_report_without_its_transaction_is_not_believed():
    with pytest.raises(IntegrityError, match="transaction UID"):
        parse_commitment_report(information(transaction=None, committed=OBJECTS))


def test_a_report_with_an_empty_reference_is_not_believed():
    report = information(committed=OBJECTS)
    del report.ReferencedSOPSequence[1].ReferencedSOPInstanceUID
    with pytest.raises(IntegrityError, match="references"):
        parse_commitment_report(report)


def test_a_report_whose_transaction_is_a_path_is_not_believed():
    with pytest.warns(UserWarning, match="Invalid value"), pytest.raises(IntegrityError):
        parse_commitment_report(information(transaction="../../etc/passwd", committed=OBJECTS))


def asked(event):
    """What an N-ACTION asks for: transaction UID and objects."""
    question = event.action_information
    return question.TransactionUID, [
        (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in question.ReferencedSOPSequence
    ]


def test_the_report_on_the_same_association(start_peer):
    def commit(event):
        transaction, objects = asked(event)
        send_later(event.assoc, information(transaction, objects))
        return 0x0000, None

    peer = start_peer([StorageCommitmentPushModel], [(evt.EVT_N_ACTION, commit)])
    registered = []
    report = request_commitment(peer, "MEDPIPE", OBJECTS, TRANSACTION, register=registered.append, wait=5)
    assert report == CommitmentReport(TRANSACTION, tuple(OBJECTS), ())
    assert registered == [TRANSACTION]


def send_later(assoc, report):
    """Reports on the association of the request, as soon as the request has been answered."""
    threading.Timer(
        0.2,
        assoc.send_n_event_report,
        (report, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance),
    ).start()


def test_the_report_of_another_transaction_is_not_taken_for_ours(start_peer):
    def commit(event):
        send_later(event.assoc, information("2.25.1", OBJECTS))
        return 0x0000, None

    peer = start_peer([StorageCommitmentPushModel], [(evt.EVT_N_ACTION, commit)])
    assert request_commitment(peer, "MEDPIPE", OBJECTS, TRANSACTION, wait=0.6) is None


def test_the_report_on_a_new_association_before_the_request_is_answered(start_peer):
    """The archive calls our listener first, and only then answers: the transaction is registered by then."""
    registered, reports, unknown = [], [], []

    def on_report(event):
        report = parse_commitment_report(event.event_information)
        (reports if report.transaction_uid in registered else unknown).append(report)
        return 0x0000, None

    ours = AE(ae_title="MEDPIPE")
    add_commitment_context(ours)
    listener = ours.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)]
    )

    def commit(event):
        transaction, objects = asked(event)
        archive = AE(ae_title="ARCHIVE")
        archive.add_requested_context(StorageCommitmentPushModel)
        assoc = archive.associate(
            "127.0.0.1",
            listener.socket.getsockname()[1],
            ae_title="MEDPIPE",
            ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
        )
        assert assoc.is_established
        status, _ = assoc.send_n_event_report(
            information(transaction, objects[:1], [(*objects[1], 0x0112)]),
            2,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        assert status.Status == 0
        assoc.release()
        return 0x0000, None

    try:
        peer = start_peer([StorageCommitmentPushModel], [(evt.EVT_N_ACTION, commit)])
        here = request_commitment(peer, "MEDPIPE", OBJECTS, TRANSACTION, register=registered.append)
    finally:
        listener.shutdown()
    assert here is None
    assert unknown == []
    assert [report.transaction_uid for report in reports] == [TRANSACTION]
    assert reports[0].failed[0].action is FailureAction.SEND_AGAIN


@pytest.mark.parametrize(("status", "error"), [(0x0110, PeerBusy), (0x0213, PeerBusy), (0x0124, PeerRefused)])
def test_a_refused_request(start_peer, status, error):
    peer = start_peer([StorageCommitmentPushModel], [(evt.EVT_N_ACTION, lambda event: (status, None))])
    with pytest.raises(error, match=f"0x{status:04X}"):
        request_commitment(peer, "MEDPIPE", OBJECTS, TRANSACTION)


def test_a_peer_without_storage_commitment(start_peer):
    with pytest.raises(PeerRefused, match="Storage Commitment"):
        request_commitment(start_peer([Verification]), "MEDPIPE", OBJECTS, TRANSACTION)


def test_nobody_to_ask_yet_the_transaction_is_registered(nobody):
    registered = []
    with pytest.raises(PeerUnreachable):
        request_commitment(nobody, "MEDPIPE", OBJECTS, TRANSACTION, register=registered.append)
    assert registered == [TRANSACTION]


def test_no_request_without_objects(nobody):
    with pytest.raises(ValueError, match="at least one object"):
        request_commitment(nobody, "MEDPIPE", [], TRANSACTION)
