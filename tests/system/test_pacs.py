"""The archive client against a real Orthanc, and Orthanc's auto-routing towards a real listener."""

from __future__ import annotations

import io
import shutil
import signal
import threading

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import AE, AllStoragePresentationContexts, evt

from medpipe.config import Peer
from medpipe.errors import NotFound, PeerRefused, PeerUnreachable
from medpipe.pacs import (
    FailureAction,
    add_commitment_context,
    check_destination,
    count_instances,
    echo,
    find_instances,
    find_results,
    find_studies,
    missing_instances,
    parse_commitment_report,
    request_commitment,
    retrieve,
    send,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
STUDY = "2.25.2000"


@pytest.fixture
def known(orthanc, free_port):
    """Orthanc knows MEDPIPE, whose listener would be on this port."""
    port = free_port()
    orthanc.add_modality("medpipe", "MEDPIPE", port)
    return port


@pytest.fixture
def write(tmp_path):
    """A function that writes one small instance: `write("2.25.1", "CT", series="2.25.2100")`."""

    def make(uid, modality, *, series, sop_class=CT, jpeg=False, manufacturer="Scanner & Sons"):
        header = Dataset()
        header.SOPClassUID, header.SOPInstanceUID = sop_class, uid
        header.StudyInstanceUID, header.SeriesInstanceUID = STUDY, series
        header.Modality, header.Manufacturer = modality, manufacturer
        header.PatientID, header.PatientName, header.AccessionNumber = "7", "Doe^Jane", "ACC-7"
        header.StudyDate = header.StudyTime = header.StudyID = ""
        header.SeriesNumber = header.InstanceNumber = 1
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
        pixels = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        header.Rows, header.Columns, header.SamplesPerPixel = 64, 64, 3
        header.BitsAllocated = header.BitsStored = 8
        header.HighBit, header.PixelRepresentation, header.PlanarConfiguration = 7, 0, 0
        header.PhotometricInterpretation = "YBR_FULL_422" if jpeg else "RGB"
        if jpeg:
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "jpeg")
            header.PixelData = encapsulate([stream.getvalue()])
        else:
            header.PixelData = pixels.tobytes()
        path = tmp_path / f"{uid}.dcm"
        header.save_as(path, enforce_file_format=True)
        return path

    return make


@pytest.fixture
def study(write):
    """One study: three CT slices, a compressed photograph, a segmentation."""
    slices = [write(f"2.25.{n}", "CT", series="2.25.2100") for n in (1, 2, 3)]
    photograph = write("2.25.4", "OP", series="2.25.2200", sop_class=PHOTOGRAPH, jpeg=True)
    segmentation = write("2.25.5", "SEG", series="2.25.2300", sop_class=SEG)
    return [*slices, photograph, segmentation]


def put(peer, study):
    """The study is in the archive."""
    statuses = send(peer, study, calling_ae="MEDPIPE")
    assert all(status.is_stored for status in statuses), statuses


def test_a_peer_that_knows_us_answers(peer, known):
    assert 0 < echo(peer, "MEDPIPE") < 10


def test_a_stranger_is_told_what_to_do(peer):
    with pytest.raises(PeerRefused, match="must know MEDPIPE as a calling AE title"):
        echo(peer, "MEDPIPE")


def test_the_wrong_called_title_is_refused(peer, known):
    with pytest.raises(PeerRefused, match="Called AE title not recognised"):
        echo(peer.model_copy(update={"ae_title": "ELSEWHERE"}), "MEDPIPE")


def test_a_web_server_is_no_archive(peer, known, orthanc):
    with pytest.raises(PeerUnreachable):
        echo(peer.model_copy(update={"port": orthanc.http_port}), "MEDPIPE")


def test_what_orthanc_offers(peer, known):
    check = check_destination(peer, "MEDPIPE")
    assert check.usable
    assert {finding.name for finding in check.findings if finding.offered} == {
        "association",
        "C-ECHO",
        "SEG",
        "SR",
        "storage commitment",
        "C-FIND",
        "C-GET",
        "C-MOVE",
    }


def test_a_check_of_a_destination_that_refuses_us_reports_it(peer):
    check = check_destination(peer, "MEDPIPE")
    assert not check.usable
    assert "MEDPIPE" in check.findings[0].sentence


def test_sent_objects_are_in_the_archive_as_they_were(peer, known, orthanc, study):
    statuses = send(peer, study, calling_ae="MEDPIPE")
    assert [status.outcome for status in statuses] == ["stored"] * 5
    for path in study:
        kept, sent = dcmread(io.BytesIO(orthanc.file(path.stem))), dcmread(path)
        assert kept == sent
        assert kept.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID


def test_sending_again_does_no_harm(peer, known, orthanc, study):
    for _ in range(2):
        assert all(status.is_stored for status in send(peer, study, calling_ae="MEDPIPE"))
    assert len(orthanc.get("/instances")) == 5


def test_a_peer_that_may_not_store(peer, orthanc, free_port, study):
    orthanc.add_modality("medpipe", "MEDPIPE", free_port(), AllowStore=False)
    with pytest.raises((PeerRefused, PeerUnreachable)):
        send(peer, study, calling_ae="MEDPIPE")
    assert orthanc.get("/instances") == []


def test_what_the_archive_holds(peer, known, orthanc, study):
    put(peer, study)
    assert count_instances(peer, "MEDPIPE", STUDY) == 4  # the segmentation is no image
    assert count_instances(peer, "MEDPIPE", "2.25.999") is None
    assert find_results(peer, "MEDPIPE", STUDY) == {"2.25.5"}
    assert missing_instances(peer, "MEDPIPE", STUDY, ["2.25.5", "2.25.6"]) == {"2.25.6"}
    assert {i.sop_class_uid for i in find_instances(peer, "MEDPIPE", STUDY)} == {CT, PHOTOGRAPH, SEG}
    (found,) = find_studies(peer, "MEDPIPE", accession="ACC-7")
    assert (found.study_uid, set(found.modalities)) == (STUDY, {"CT", "OP", "SEG"})


def data_set(content):
    """The bytes behind the file meta header."""
    length = int.from_bytes(content[140:144], "little")
    return content[144 + length :]


def test_a_study_comes_back_byte_for_byte_compressed_or_not(peer, known, orthanc, study, tmp_path):
    put(peer, study)
    kept = tmp_path / "kept"
    kept.mkdir()

    def store(file):
        shutil.move(file.path, kept / f"{file.sop_instance_uid}.dcm")
        return 0x0000

    done = retrieve(peer, "MEDPIPE", STUDY, store, tmp_path / "incoming")
    assert done.complete
    assert done.received == {"2.25.1", "2.25.2", "2.25.3", "2.25.4"}  # images only
    for uid in done.received:
        assert data_set((kept / f"{uid}.dcm").read_bytes()) == data_set(
            (tmp_path / f"{uid}.dcm").read_bytes()
        )
    assert dcmread(kept / "2.25.4.dcm").file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert list((tmp_path / "incoming").iterdir()) == []


def test_results_come_too_when_asked_for(peer, known, study, tmp_path):
    put(peer, study)
    received = []
    done = retrieve(
        peer,
        "MEDPIPE",
        STUDY,
        lambda file: received.append(file.sop_instance_uid) or 0x0000,
        tmp_path / "incoming",
        series_uid="2.25.2300",
        without=(),
    )
    assert done.complete
    assert received == ["2.25.5"]


def test_an_unknown_study_cannot_be_retrieved(peer, known, tmp_path):
    with pytest.raises(NotFound, match=r"2\.25\.999"):
        retrieve(peer, "MEDPIPE", "2.25.999", lambda file: 0, tmp_path)


@pytest.fixture
def listener(known):
    """MEDPIPE's listener as Orthanc knows it: stored instances and commitment reports are noted."""
    stored: dict[str, str] = {}
    reports = []
    reported = threading.Event()

    def on_store(event):
        stored[event.request.AffectedSOPInstanceUID] = event.assoc.requestor.ae_title
        return 0x0000

    def on_report(event):
        reports.append(parse_commitment_report(event.event_information))
        reported.set()
        return 0x0000, None

    ae = AE(ae_title="MEDPIPE")
    add_commitment_context(ae)
    for context in AllStoragePresentationContexts[:120]:
        ae.add_supported_context(context.abstract_syntax, [ExplicitVRLittleEndian, JPEGBaseline8Bit])
    handlers = [(evt.EVT_C_STORE, on_store), (evt.EVT_N_EVENT_REPORT, on_report)]
    server = ae.start_server(("127.0.0.1", known), block=False, evt_handlers=handlers)
    server.stored, server.reports, server.reported = stored, reports, reported
    yield server
    server.shutdown()


def test_a_move_goes_to_our_listener(peer, listener, study, tmp_path):
    put(peer, study)
    moving = peer.model_copy(update={"retrieve": "move"})
    done = retrieve(moving, "MEDPIPE", STUDY, lambda file: 0, tmp_path)
    assert (done.method, done.complete, len(done.expected)) == ("move", True, 4)
    assert listener.stored == dict.fromkeys(("2.25.1", "2.25.2", "2.25.3", "2.25.4"), "ORTHANC")


def test_a_move_to_a_title_that_orthanc_does_not_know(peer, known, study, tmp_path):
    put(peer, study)
    moving = peer.model_copy(update={"retrieve": "move"})
    with pytest.raises(PeerRefused, match="C-MOVE to ELSEWHERE refused"):
        retrieve(moving, "MEDPIPE", STUDY, lambda file: 0, tmp_path, move_to="ELSEWHERE")


def test_a_move_while_our_listener_is_down_is_not_complete(peer, known, study, tmp_path):
    put(peer, study)
    moving = peer.model_copy(update={"retrieve": "move"})
    try:
        done = retrieve(moving, "MEDPIPE", STUDY, lambda file: 0, tmp_path)
    except (PeerRefused, PeerUnreachable):
        return
    assert not done.complete


def test_orthanc_commits_itself_to_what_it_keeps(peer, listener, study):
    """The report comes over an association that Orthanc opens to our listener."""
    send(peer, study[4:], calling_ae="MEDPIPE")
    registered = []
    here = request_commitment(
        peer, "MEDPIPE", [(SEG, "2.25.5"), (SR, "2.25.6")], "2.25.31", register=registered.append
    )
    assert here is None
    assert listener.reported.wait(10)
    (report,) = listener.reports
    assert report.transaction_uid == "2.25.31" == registered[0]
    assert report.committed == ((SEG, "2.25.5"),)
    assert [(item.sop_instance_uid, item.action) for item in report.failed] == [
        ("2.25.6", FailureAction.SEND_AGAIN)
    ]


def test_a_class_that_is_not_the_objects_own_is_an_error(peer, listener, study):
    send(peer, study[4:], calling_ae="MEDPIPE")
    request_commitment(peer, "MEDPIPE", [(SR, "2.25.5")], "2.25.32")
    assert listener.reported.wait(10)
    (failed,) = listener.reports[0].failed
    assert (failed.reason, failed.action) == (0x0119, FailureAction.ERROR)


def test_an_archive_that_stalls_and_one_that_dies(start_orthanc, free_port, study):
    orthanc = start_orthanc()
    orthanc.add_modality("medpipe", "MEDPIPE", free_port())
    peer = Peer(ae_title=orthanc.ae_title, host=orthanc.host, port=orthanc.dicom_port, timeout=1)
    orthanc.process.signal(signal.SIGSTOP)
    with pytest.raises(PeerUnreachable):
        send(peer, study, calling_ae="MEDPIPE")
    orthanc.process.signal(signal.SIGCONT)
    assert all(status.is_stored for status in send(peer, study, calling_ae="MEDPIPE"))
    orthanc.kill()
    with pytest.raises(PeerUnreachable, match="does not answer"):
        send(peer, study, calling_ae="MEDPIPE")


# Auto-routing


@pytest.fixture(scope="module")
def routing_port():
    from local_process import free_port

    return free_port()


@pytest.fixture(scope="module")
def routing_orthanc(start_orthanc, routing_port):
    """An Orthanc with deploy/orthanc/autorouting.lua; its modality `medpipe` would listen on `routing_port`."""
    entry = {"AET": "MEDPIPE", "Host": "127.0.0.1", "Port": routing_port}
    return start_orthanc(autorouting=True, stable_age=1, modalities={"medpipe": entry})


@pytest.fixture
def routed(routing_orthanc, routing_port):
    """The SOP Instance UIDs that arrive by auto-routing; `start()` brings the listener up."""
    routing_orthanc.clear()
    uids: list[str] = []
    ae = AE(ae_title="MEDPIPE")
    for context in AllStoragePresentationContexts[:120]:
        ae.add_supported_context(context.abstract_syntax, [ExplicitVRLittleEndian, JPEGBaseline8Bit])
    servers = []

    def start():
        handler = (evt.EVT_C_STORE, lambda event: uids.append(event.request.AffectedSOPInstanceUID) or 0x0000)
        servers.append(ae.start_server(("127.0.0.1", routing_port), block=False, evt_handlers=[handler]))

    uids_and_start = (uids, start)
    yield uids_and_start
    for server in servers:
        server.shutdown()


def settled(orthanc, series):
    """Waits until Orthanc has called this number of series stable, and its jobs have ended."""
    from local_process import wait_until

    def done():
        changes = [change["ChangeType"] for change in orthanc.get("/changes?limit=10000")["Changes"]]
        jobs = [orthanc.get(f"/jobs/{job}")["State"] for job in orthanc.get("/jobs")]
        return changes.count("StableSeries") >= series and not {"Pending", "Running"} & set(jobs)

    assert wait_until(done, 20, 0.2)


def test_images_are_routed_and_results_never(routing_orthanc, routed, write, study):
    uids, start = routed
    start()
    routing_orthanc.delete("/changes")
    ours = write("2.25.6", "OT", series="2.25.2400", sop_class=CT, manufacturer="medpipe")
    report = write("2.25.7", "SR", series="2.25.2500", sop_class=SR)
    for path in [*study, ours, report]:
        routing_orthanc.upload(path)
    settled(routing_orthanc, 5)
    assert sorted(uids) == ["2.25.1", "2.25.2", "2.25.3", "2.25.4"]


def test_a_series_waits_while_medpipe_is_down(routing_orthanc, routed, write, study):
    """It goes with the next stable series (Orthanc 1.10), or by itself (1.11 and later)."""
    uids, start = routed
    routing_orthanc.delete("/changes")
    routing_orthanc.upload(study[0])
    settled(routing_orthanc, 1)
    assert uids == []
    start()
    routing_orthanc.upload(write("2.25.8", "OP", series="2.25.2600", sop_class=PHOTOGRAPH))
    settled(routing_orthanc, 2)
    assert sorted(uids) == ["2.25.1", "2.25.8"]
