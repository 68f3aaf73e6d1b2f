"""C-STORE: what each status means, and peers that are full, picky, silent or gone."""

from __future__ import annotations

import logging
import time

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AllStoragePresentationContexts, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from medpipe.errors import (
    ConnectionLost,
    Disposition,
    IntegrityError,
    PeerBusy,
    PeerCrowded,
    PeerRefused,
    PeerUnreachable,
    disposition,
)
from medpipe.pacs import send
from medpipe.pacs.network import association
from medpipe.pacs.store import MEANINGS, judge

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0x0000, "stored"),
        (0x0111, "stored"),
        (0xB000, "warning"),
        (0xB006, "warning"),
        (0xB007, "warning"),
        (0xB123, "warning"),
        (0x0107, "warning"),
        (0xA700, "transient"),
        (0xA7FF, "transient"),
        (0x0110, "transient"),
        (0x0213, "transient"),
        (0xFE00, "transient"),
        (0xA900, "failed"),
        (0xA9AB, "failed"),
        (0xC000, "failed"),
        (0xCFFF, "failed"),
        (0x0117, "failed"),
        (0x0122, "failed"),
        (0x0124, "failed"),
        (0x1234, "failed"),
    ],
)
def test_every_status_has_one_meaning(status, outcome):
    assert judge(status)[0] == outcome


def test_every_known_status_has_words():
    for status in (*MEANINGS, 0xA7FF, 0xA9AB, 0xCFFF, 0xB123, 0xFE00, 0x1234):
        assert judge(status)[1]


def storing(answers, seen=None):
    """A C-STORE handler that gives these statuses one after the other."""
    answers = iter(answers)

    def handle(event):
        if seen is not None:
            seen.append((event.request.AffectedSOPInstanceUID, event.context.transfer_syntax))
        return next(answers)

    return [(evt.EVT_C_STORE, handle)]


def test_objects_arrive_in_order_and_in_their_own_syntax(start_peer, object_file):
    seen = []
    peer = start_peer([SECONDARY_CAPTURE, SEGMENTATION], storing([0, 0], seen))
    files = [object_file("2.25.1"), object_file("2.25.2", sop_class=SEGMENTATION)]
    statuses = send(peer, files, calling_ae="MEDPIPE")
    assert [(status.sop_instance_uid, status.outcome, status.status) for status in statuses] == [
        ("2.25.1", "stored", 0),
        ("2.25.2", "stored", 0),
    ]
    assert seen == [("2.25.1", ExplicitVRLittleEndian), ("2.25.2", ExplicitVRLittleEndian)]


def test_a_peer_that_takes_only_implicit_gets_implicit(start_peer, object_file):
    seen = []
    peer = start_peer([(SECONDARY_CAPTURE, ImplicitVRLittleEndian)], storing([0], seen))
    (status,) = send(peer, [object_file("2.25.1")], calling_ae="MEDPIPE")
    assert status.is_stored
    assert seen == [("2.25.1", ImplicitVRLittleEndian)]


def test_a_warning_is_stored_and_logged(start_peer, object_file, caplog):
    peer = start_peer([SECONDARY_CAPTURE], storing([0xB000]))
    with caplog.at_level(logging.WARNING, logger="medpipe"):
        (status,) = send(peer, [object_file("2.25.1")], calling_ae="MEDPIPE")
    assert (status.outcome, status.is_stored) == ("warning", True)
    (record,) = [record for record in caplog.records if record.name.startswith("medpipe")]
    assert "2.25.1" in record.getMessage()
    assert "0xB000" in record.getMessage()


def test_a_final_refusal_keeps_its_reason_and_not_the_others_back(start_peer, object_file):
    peer = start_peer([SECONDARY_CAPTURE], storing([0xA900, 0, 0xC123]))
    statuses = send(peer, [object_file(f"2.25.{n}") for n in (1, 2, 3)], calling_ae="MEDPIPE")
    assert [status.outcome for status in statuses] == ["failed", "stored", "failed"]
    assert [status.status for status in statuses] == [0xA900, 0, 0xC123]
    assert statuses[0].reason == "data set does not match its SOP class"


def test_a_full_peer_is_busy_and_worth_another_try(start_peer, object_file):
    peer = start_peer([SECONDARY_CAPTURE], storing([0, 0xA700, 0]))
    with pytest.raises(PeerBusy, match=r"1 of 3 objects: 0xA700 out of resources") as raised:
        send(peer, [object_file(f"2.25.{n}") for n in (1, 2, 3)], calling_ae="MEDPIPE")
    assert disposition(raised.value) is Disposition.RETRY


def test_an_object_that_the_peer_does_not_take_is_named(start_peer, object_file):
    peer = start_peer([SECONDARY_CAPTURE], storing([0]))
    files = [object_file("2.25.1", sop_class=SEGMENTATION), object_file("2.25.2")]
    refused, stored = send(peer, files, calling_ae="MEDPIPE")
    assert (refused.outcome, refused.status) == ("failed", None)
    assert refused.reason == "takes no Segmentation Storage in Explicit VR Little Endian"
    assert stored.is_stored


def test_a_peer_that_takes_nothing_is_refusal(start_peer, object_file):
    peer = start_peer([SEGMENTATION], storing([]))
    with pytest.raises(PeerRefused, match="accepts none of") as raised:
        send(peer, [object_file("2.25.1")], calling_ae="MEDPIPE")
    assert disposition(raised.value) is Disposition.FAIL


def test_a_compressed_object_is_never_decoded_for_a_peer(start_peer, object_file):
    peer = start_peer([SECONDARY_CAPTURE, (SEGMENTATION, ExplicitVRLittleEndian)], storing([0]))
    files = [object_file("2.25.1", sop_class=SEGMENTATION, syntax=JPEG2000Lossless), object_file("2.25.2")]
    statuses = send(peer, files, calling_ae="MEDPIPE")
    assert [status.outcome for status in statuses] == ["failed", "stored"]
    assert "JPEG 2000" in statuses[0].reason


def test_a_peer_that_knows_only_others(start_peer, object_file):
    peer = start_peer([SECONDARY_CAPTURE], require_calling_aet=["OTHER"])
    with pytest.raises(PeerRefused, match="must know MEDPIPE as a calling AE title"):
        send(peer, [object_file("2.25.1")], calling_ae="MEDPIPE")


def test_a_peer_with_too_many_associations_is_busy(start_peer, object_file):
    peer = start_peer([SECONDARY_CAPTURE, Verification], maximum_associations=1)
    with (
        association(peer, "OTHER", [build_context(Verification)]),
        pytest.raises(PeerCrowded, match="for now"),
    ):
        send(peer, [object_file("2.25.1")], calling_ae="MEDPIPE")


def test_nobody_there(nobody, object_file):
    with pytest.raises(PeerUnreachable, match="does not answer"):
        send(nobody, [object_file("2.25.1")], calling_ae="MEDPIPE")


def test_an_unknown_host(nobody, object_file):
    peer = nobody.model_copy(update={"host": "no-such-host.invalid"})
    with pytest.raises(PeerUnreachable, match=r"no-such-host\.invalid"):
        send(peer, [object_file("2.25.1")], calling_ae="MEDPIPE")


def test_a_peer_that_never_says_a_word(silent_peer, object_file):
    with pytest.raises(PeerUnreachable):
        send(silent_peer, [object_file("2.25.1")], calling_ae="MEDPIPE")


def test_a_peer_that_hangs_while_it_stores(start_peer, object_file):
    def hang(event):
        time.sleep(1.5)
        return 0

    peer = start_peer([SECONDARY_CAPTURE], [(evt.EVT_C_STORE, hang)], timeout=0.5)
    with pytest.raises(
        ConnectionLost, match="connection lost or no answer in time while sending object 1 of 1"
    ):
        send(peer, [object_file("2.25.1")], calling_ae="MEDPIPE")


def test_a_peer_that_drops_the_connection_in_the_middle(start_peer, object_file):
    def drop(event):
        event.assoc.abort()
        return 0

    peer = start_peer([SECONDARY_CAPTURE], [(evt.EVT_C_STORE, drop)])
    with pytest.raises(ConnectionLost, match="sending object 1 of 2"):
        send(peer, [object_file("2.25.1"), object_file("2.25.2")], calling_ae="MEDPIPE")


def test_a_file_that_is_not_dicom_is_an_error_of_ours(start_peer, tmp_path):
    path = tmp_path / "result.dcm"
    path.write_text("not DICOM")
    with pytest.raises(IntegrityError, match="not a DICOM file"):
        send(start_peer([SECONDARY_CAPTURE]), [path], calling_ae="MEDPIPE")


def test_nothing_to_send_is_no_association(nobody):
    assert send(nobody, [], calling_ae="MEDPIPE") == ()


def test_more_kinds_of_objects_than_one_association_can_hold(start_peer, object_file):
    """Each kind takes two presentation contexts, of which an association has 128."""
    classes = [context.abstract_syntax for context in AllStoragePresentationContexts[:70]]
    seen = []
    peer = start_peer(classes, storing([0] * 70, seen))
    files = [object_file(f"2.25.{n}", sop_class=uid) for n, uid in enumerate(classes, start=1)]
    statuses = send(peer, files, calling_ae="MEDPIPE")
    assert [status.outcome for status in statuses] == ["stored"] * 70
    assert len(seen) == 70


def test_no_error_or_status_names_the_patient(start_peer, object_file, caplog):
    peer = start_peer([SECONDARY_CAPTURE], storing([0xC000, 0xA700]))
    with caplog.at_level(logging.DEBUG), pytest.raises(PeerBusy) as raised:
        send(peer, [object_file("2.25.1"), object_file("2.25.2")], calling_ae="MEDPIPE")
    assert "Doe" not in caplog.text + str(raised.value)
