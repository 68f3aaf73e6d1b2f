"""C-FIND: what is asked, and archives that answer too little, too much or nonsense."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find

from medpipe.errors import PeerBusy, PeerRefused, PeerUnreachable, UsageError
from medpipe.pacs import (
    FoundInstance,
    FoundStudy,
    count_instances,
    find_instances,
    find_results,
    find_studies,
    missing_instances,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
STUDY = "2.25.100"


def archive(series, *, with_counts=True, with_classes=True, asked=None):
    """A C-FIND handler of an archive that holds one study: {series UID: (modality, class, [instance UIDs])}."""

    def handle(event):
        question = event.identifier
        if asked is not None:
            asked.append(question)
        if question.StudyInstanceUID != STUDY:
            yield 0x0000, None
            return
        if question.QueryRetrieveLevel == "SERIES":
            for uid, (modality, _, instances) in series.items():
                answer = found(SeriesInstanceUID=uid, Modality=modality)
                if with_counts:
                    answer.NumberOfSeriesRelatedInstances = len(instances)
                yield 0xFF00, answer
        elif question.QueryRetrieveLevel == "IMAGE":
            _, sop_class, instances = series[question.SeriesInstanceUID]
            for uid in instances:
                answer = found(SeriesInstanceUID=question.SeriesInstanceUID, SOPInstanceUID=uid)
                if with_classes:
                    answer.SOPClassUID = sop_class
                yield 0xFF00, answer
        yield 0x0000, None

    return [(evt.EVT_C_FIND, handle)]


def found(**elements):
    answer = Dataset()
    answer.StudyInstanceUID = STUDY
    for keyword, value in elements.items():
        setattr(answer, keyword, value)
    return answer


CONTENT = {
    "2.25.101": ("CT", CT, ["2.25.1", "2.25.2", "2.25.3"]),
    "2.25.102": ("SEG", SEG, ["2.25.4"]),
}


def test_instances_of_a_study_with_their_classes(start_peer):
    peer = start_peer([Find], archive(CONTENT))
    instances = find_instances(peer, "MEDPIPE", STUDY)
    assert instances[0] == FoundInstance(STUDY, "2.25.101", "2.25.1", CT, "CT")
    assert [instance.sop_instance_uid for instance in instances] == ["2.25.1", "2.25.2", "2.25.3", "2.25.4"]


def test_the_instances_of_one_series(start_peer):
    peer = start_peer([Find], archive(CONTENT))
    assert {i.sop_instance_uid for i in find_instances(peer, "MEDPIPE", STUDY, "2.25.102")} == {"2.25.4"}


def test_results_do_not_count_as_images(start_peer):
    assert count_instances(start_peer([Find], archive(CONTENT)), "MEDPIPE", STUDY) == 3


def test_an_archive_without_counts_is_counted_by_listing(start_peer):
    assert count_instances(start_peer([Find], archive(CONTENT, with_counts=False)), "MEDPIPE", STUDY) == 3


def test_an_unknown_study_has_no_count(start_peer):
    peer = start_peer([Find], archive(CONTENT))
    assert count_instances(peer, "MEDPIPE", "2.25.999") is None
    assert find_instances(peer, "MEDPIPE", "2.25.999") == []


def test_results_in_the_archive(start_peer):
    assert find_results(start_peer([Find], archive(CONTENT)), "MEDPIPE", STUDY) == {"2.25.4"}


def test_what_the_archive_lacks(start_peer):
    peer = start_peer([Find], archive(CONTENT))
    assert missing_instances(peer, "MEDPIPE", STUDY, ["2.25.1", "2.25.4", "2.25.5"]) == {"2.25.5"}


def test_an_archive_that_does_not_say_the_class(start_peer):
    peer = start_peer([Find], archive(CONTENT, with_classes=False))
    assert {instance.sop_class_uid for instance in find_instances(peer, "MEDPIPE", STUDY)} == {""}


def test_each_level_names_the_levels_above_it(start_peer):
    """Archives that follow the hierarchy to the letter want the study's and the series' UID with each question."""
    asked = []
    find_instances(start_peer([Find], archive(CONTENT, asked=asked)), "MEDPIPE", STUDY)
    assert [question.QueryRetrieveLevel for question in asked] == ["SERIES", "IMAGE", "IMAGE"]
    assert {question.StudyInstanceUID for question in asked} == {STUDY}
    assert [question.SeriesInstanceUID for question in asked[1:]] == ["2.25.101", "2.25.102"]


def test_no_question_asks_for_a_patient(start_peer):
    asked = []
    find_instances(start_peer([Find], archive(CONTENT, asked=asked)), "MEDPIPE", STUDY)
    assert not [element for question in asked for element in question if element.tag.group == 0x0010]


def test_studies_by_accession_number(start_peer):
    def handle(event):
        if event.identifier.AccessionNumber == "A-1":
            yield 0xFF00, found(ModalitiesInStudy=["CT", "SEG"])
        yield 0x0000, None

    peer = start_peer([Find], [(evt.EVT_C_FIND, handle)])
    assert find_studies(peer, "MEDPIPE", accession="A-1") == [FoundStudy(STUDY, ("CT", "SEG"))]
    assert find_studies(peer, "MEDPIPE", accession="A-2") == []


@pytest.mark.parametrize("question", [{}, {"accession": "*"}, {"accession": "A?"}, {"study_uid": "1.2\\1.3"}])
def test_no_question_for_everybodys_studies(nobody, question):
    with pytest.raises(UsageError, match="without wildcards"):
        find_studies(nobody, "MEDPIPE", **question)


def test_a_wildcard_is_no_study_uid(start_peer):
    with pytest.raises(UsageError, match="not a UID"):
        find_instances(start_peer([Find], archive(CONTENT)), "MEDPIPE", "*")


@pytest.mark.parametrize(
    ("status", "error"), [(0xA700, PeerBusy), (0xA900, PeerRefused), (0xC001, PeerRefused)]
)
def test_a_question_that_the_archive_does_not_answer(start_peer, status, error):
    def handle(event):
        yield status, None

    with pytest.raises(error, match=f"0x{status:04X}"):
        count_instances(start_peer([Find], [(evt.EVT_C_FIND, handle)]), "MEDPIPE", STUDY)


def test_an_archive_that_goes_away_while_it_answers(start_peer):
    def handle(event):
        yield 0xFF00, found(SeriesInstanceUID="2.25.101", Modality="CT")
        event.assoc.abort()

    with pytest.raises(PeerUnreachable):
        count_instances(start_peer([Find], [(evt.EVT_C_FIND, handle)]), "MEDPIPE", STUDY)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom, of the values that are none
def test_nonsense_in_an_answer_is_left_out(start_peer):
    def handle(event):
        for uid in ("../../etc/passwd", "", "2.25.101"):
            yield 0xFF00, found(SeriesInstanceUID=uid, Modality="CT", NumberOfSeriesRelatedInstances="2")
        other = found(SeriesInstanceUID="2.25.102", Modality="CT", NumberOfSeriesRelatedInstances="5")
        other.StudyInstanceUID = "2.25.666"
        yield 0xFF00, other
        yield 0x0000, None

    assert count_instances(start_peer([Find], [(evt.EVT_C_FIND, handle)]), "MEDPIPE", STUDY) == 2


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom, of what cannot be read
def test_an_answer_that_cannot_be_read_is_no_answer_of_nothing(start_peer):
    """Left out, it would make a study smaller than it is."""

    def handle(event):
        yield 0xFF00, found(SeriesInstanceUID="2.25.101", Modality="CT", NumberOfSeriesRelatedInstances="2")
        broken = C_FIND()
        broken.MessageIDBeingRespondedTo = event.request.MessageID
        broken.AffectedSOPClassUID = event.request.AffectedSOPClassUID
        broken.Status = 0xFF00
        broken.Identifier = BytesIO(
            bytes.fromhex("08001511 ffffffff 01020304 05060708")
        )  # a sequence of no items
        event.assoc.dimse.send_msg(broken, event.context.context_id)
        yield 0x0000, None

    with pytest.raises(PeerRefused, match="cannot be read"):
        count_instances(start_peer([Find], [(evt.EVT_C_FIND, handle)]), "MEDPIPE", STUDY)
