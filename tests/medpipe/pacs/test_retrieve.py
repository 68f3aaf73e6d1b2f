"""C-GET and C-MOVE: bytes as they are, archives that hold back, and what is left behind on disk (nothing)."""

from __future__ import annotations

import shutil
import tempfile

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Get
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as Move

from medpipe.errors import NotFound, PeerBusy, PeerRefused, PeerUnreachable, StorageError
from medpipe.pacs import retrieve
from medpipe.pacs.retrieve import _storage_contexts
from medpipe.pacs.syntaxes import IMAGE_CLASSES

STUDY, SERIES = "2.25.77", "2.25.78"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def listing(uids, with_classes=True):
    """A C-FIND handler that lists these instances in one series."""

    def handle(event):
        question = event.identifier
        answer = Dataset()
        answer.StudyInstanceUID, answer.SeriesInstanceUID = STUDY, SERIES
        if question.StudyInstanceUID == STUDY and question.QueryRetrieveLevel == "SERIES":
            answer.Modality = "OT"
            yield 0xFF00, answer
        elif question.StudyInstanceUID == STUDY:
            for uid in uids:
                answer.SOPInstanceUID = uid
                if with_classes:
                    answer.SOPClassUID = SECONDARY_CAPTURE
                yield 0xFF00, answer
        yield 0x0000, None

    return evt.EVT_C_FIND, handle


def giving(files):
    """A C-GET handler that sends these files."""

    def handle(event):
        yield len(files)
        for path in files:
            yield 0xFF00, dcmread(path)

    return evt.EVT_C_GET, handle


CONTEXTS = [Find, Get, Move, (SECONDARY_CAPTURE, ExplicitVRLittleEndian, True, True)]


@pytest.fixture
def kept(tmp_path):
    """Where received files are put: (store function, folder)."""
    folder = tmp_path / "kept"
    folder.mkdir()

    def store(file):
        shutil.move(file.path, folder / file.sop_instance_uid)
        return 0x0000

    return store, folder


def test_what_the_archive_holds_comes_in(start_peer, object_file, kept, tmp_path):
    store, folder = kept
    files = [object_file("2.25.1"), object_file("2.25.2")]
    peer = start_peer(CONTEXTS, [listing(["2.25.1", "2.25.2"]), giving(files)])
    incoming = tmp_path / "incoming"
    done = retrieve(peer, "MEDPIPE", STUDY, store, incoming)
    assert (done.method, done.complete, done.missing) == ("get", True, ())
    assert done.received == {"2.25.1", "2.25.2"}
    assert dcmread(folder / "2.25.1").PatientName == "Doe^Jane"
    assert list(incoming.iterdir()) == []


def test_a_received_file_says_what_it_is_and_lies_in_our_folder(start_peer, object_file, tmp_path):
    seen = []

    def store(file):
        seen.append((file, file.path.is_relative_to(tmp_path / "incoming"), file.path.read_bytes()))
        return 0x0000

    peer = start_peer(CONTEXTS, [listing(["2.25.1"]), giving([object_file("2.25.1")])])
    before = tempfile.gettempdir()
    retrieve(peer, "MEDPIPE", STUDY, store, tmp_path / "incoming")
    ((file, inside, content),) = seen
    assert (file.sop_instance_uid, file.sop_class_uid) == ("2.25.1", SECONDARY_CAPTURE)
    assert (file.transfer_syntax, file.source_ae, file.called_ae) == (
        ExplicitVRLittleEndian,
        "ARCHIVE",
        "MEDPIPE",
    )
    assert inside
    assert content[:132] == bytes(128) + b"DICM"
    assert tempfile.gettempdir() == before


def test_an_archive_that_holds_back_is_found_out(start_peer, object_file, kept, tmp_path):
    store, _ = kept
    peer = start_peer(CONTEXTS, [listing(["2.25.1", "2.25.2"]), giving([object_file("2.25.1")])])
    done = retrieve(peer, "MEDPIPE", STUDY, store, tmp_path / "incoming")
    assert (done.complete, done.missing) == (False, ("2.25.2",))


def test_a_full_disk_of_ours_is_told_to_the_archive(start_peer, object_file, tmp_path):
    peer = start_peer(CONTEXTS, [listing(["2.25.1"]), giving([object_file("2.25.1")])])
    done = retrieve(peer, "MEDPIPE", STUDY, lambda file: 0xA700, tmp_path / "incoming")
    assert (done.received, done.missing) == (frozenset(), ("2.25.1",))
    assert done.failed == 1
    assert list((tmp_path / "incoming").iterdir()) == []


def test_what_goes_wrong_while_storing_is_raised(start_peer, object_file, tmp_path):
    def store(file):
        raise StorageError("no space left")

    peer = start_peer(CONTEXTS, [listing(["2.25.1"]), giving([object_file("2.25.1")])])
    with pytest.raises(StorageError, match="no space left"):
        retrieve(peer, "MEDPIPE", STUDY, store, tmp_path / "incoming")
    assert list((tmp_path / "incoming").iterdir()) == []


def test_an_archive_that_does_not_say_the_classes(start_peer, object_file, kept, tmp_path):
    store, _ = kept
    peer = start_peer(CONTEXTS, [listing(["2.25.1"], with_classes=False), giving([object_file("2.25.1")])])
    assert retrieve(peer, "MEDPIPE", STUDY, store, tmp_path / "incoming").complete


def test_a_study_that_is_not_there(start_peer, kept, tmp_path):
    with pytest.raises(NotFound, match=r"holds no image of study 2\.25\.999"):
        retrieve(start_peer(CONTEXTS, [listing([])]), "MEDPIPE", "2.25.999", kept[0], tmp_path)


def test_an_archive_that_breaks_off_in_the_middle(start_peer, object_file, kept, tmp_path):
    def handle(event):
        yield 2
        yield 0xFF00, dcmread(object_file("2.25.1"))
        event.assoc.abort()

    store, folder = kept
    peer = start_peer(CONTEXTS, [listing(["2.25.1", "2.25.2"]), (evt.EVT_C_GET, handle)])
    with pytest.raises(PeerUnreachable, match="C-GET"):
        retrieve(peer, "MEDPIPE", STUDY, store, tmp_path / "incoming")
    assert [path.name for path in folder.iterdir()] == ["2.25.1"]
    assert list((tmp_path / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("status", "error"), [(0xA701, PeerBusy), (0xA900, PeerRefused), (0xC000, PeerRefused)]
)
def test_a_retrieval_that_the_archive_refuses(start_peer, kept, tmp_path, status, error):
    def handle(event):
        yield 1
        yield status, None

    peer = start_peer(CONTEXTS, [listing(["2.25.1"]), (evt.EVT_C_GET, handle)])
    with pytest.raises(error, match=f"0x{status:04X}"):
        retrieve(peer, "MEDPIPE", STUDY, kept[0], tmp_path)


def test_a_move_names_our_listener(start_peer, object_file, kept, tmp_path):
    """The archive sends to the AE that we name, over an association of its own."""
    moved = []
    ours = start_peer(
        [SECONDARY_CAPTURE], [(evt.EVT_C_STORE, lambda event: moved.append(event.request) or 0x0000)]
    )

    def handle(event):
        assert event.move_destination == "LISTENER"
        yield ours.host, ours.port, {"contexts": [build_context(SECONDARY_CAPTURE, ExplicitVRLittleEndian)]}
        yield 1
        yield 0xFF00, dcmread(object_file("2.25.1"))

    peer = start_peer(CONTEXTS, [listing(["2.25.1"]), (evt.EVT_C_MOVE, handle)])
    peer = peer.model_copy(update={"retrieve": "move"})
    done = retrieve(peer, "MEDPIPE", STUDY, kept[0], tmp_path, move_to="LISTENER")
    assert (done.method, done.complete, done.failed) == ("move", True, 0)
    assert [request.AffectedSOPInstanceUID for request in moved] == ["2.25.1"]


def test_a_move_to_an_unknown_destination_says_what_to_do(start_peer, kept, tmp_path):
    def handle(event):
        yield None, None

    peer = start_peer(CONTEXTS, [listing(["2.25.1"]), (evt.EVT_C_MOVE, handle)])
    peer = peer.model_copy(update={"retrieve": "move"})
    with pytest.raises(PeerRefused, match="must know this AE title with our listener's host and port"):
        retrieve(peer, "MEDPIPE", STUDY, kept[0], tmp_path)


def test_every_kind_of_image_fits_into_one_association():
    contexts, roles = _storage_contexts(IMAGE_CLASSES)
    assert len(contexts) == 127
    assert len(roles) == len(IMAGE_CLASSES)
    assert {context.abstract_syntax for context in contexts} == set(IMAGE_CLASSES)
    lossless = {
        context.abstract_syntax for context in contexts if JPEG2000Lossless in context.transfer_syntax
    }
    assert lossless == set(IMAGE_CLASSES)


def test_one_kind_of_image_is_asked_for_in_every_syntax():
    contexts, _ = _storage_contexts([SECONDARY_CAPTURE])
    assert len(contexts) == 14
    assert {len(context.transfer_syntax) for context in contexts} == {1}
