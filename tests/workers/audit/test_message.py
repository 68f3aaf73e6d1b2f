"""Every record as a DICOM audit message: right by the schema (PS3.15 A.5.1) and by its own event's table (A.5.3)."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from workers.audit.events import EVENTS
from workers.audit.message import Source, as_text, audit_message
from workers.audit.trail import Record

US = Source("MEDPIPE", "General Hospital")
ADDRESS = {"address": "10.0.0.7"}
WAYS = {"source": "ORTHANC", "destination": "MEDPIPE", "classes": {"1.2.840.10008.5.1.4.1.1.2": 40}}
DETAILS: dict[str, dict[str, Any]] = {
    "application started": {"process": "listen", "host": "node1", "pid": 17},
    "instances received": WAYS,
    "instances refused": WAYS,
    "study opened": ADDRESS,
    "worklist searched": {**ADDRESS, "words": 2, "group": "", "found": 3},
    "archive queried": {
        "source": "MEDPIPE",
        "destination": "ORTHANC",
        "level": "SERIES",
        "key": "StudyInstanceUID",
    },
    "sign-in refused": {**ADDRESS, "reason": "name and password do not belong together"},
    "association refused": {**ADDRESS, "source": "STRANGER", "reason": "its AE title may not call"},
    "TLS refused": {**ADDRESS, "reason": "it shows no certificate"},
    "user changed": {"about": "anna"},
    "audit trail exported": {"to": "/tmp/trail.xml"},
}


def message(what: str, study: str | None = "1.2.3", who: str = "anna", **detail: Any) -> ET.Element:
    record = Record(7, 1_700_000_000.25, who, what, study, detail or DETAILS.get(what, {}), "chain")
    return ET.fromstring(as_text(audit_message(record, US)))


def objects(one: ET.Element) -> dict[str, ET.Element]:
    """By what they are: the code of their id's kind."""
    found = one.findall("ParticipantObjectIdentification")
    return {item.find("ParticipantObjectIDTypeCode").get("csd-code"): item for item in found}  # type: ignore[union-attr,misc]


def event(one: ET.Element) -> tuple[str | None, str | None, str | None]:
    """Event, its type, the outcome."""
    kind = one.find("EventIdentification/EventTypeCode")
    found = one.find("EventIdentification")
    assert found is not None
    return (
        found.find("EventID").get("csd-code"),  # type: ignore[union-attr]
        kind.get("csd-code") if kind is not None else None,
        found.get("EventOutcomeIndicator"),
    )


@pytest.mark.parametrize("what", [*EVENTS, "something that nobody has thought of"])
def test_every_message_is_as_the_schema_has_it(what: str, conforms: Callable[[ET.Element], bool]) -> None:
    assert conforms(message(what))
    assert conforms(message(what, study=None))


def test_the_check_sees_what_is_wrong(conforms: Callable[[ET.Element], bool]) -> None:
    """A schema check that lets everything through would be none."""
    for spoil in (
        lambda m: m.remove(m.find("AuditSourceIdentification")),
        lambda m: m.find("EventIdentification").set("EventOutcomeIndicator", "1"),
        lambda m: m.find("EventIdentification").set("EventDateTime", "yesterday"),
        lambda m: m.find("ActiveParticipant").attrib.pop("UserID"),
        lambda m: m.insert(0, m.find("ActiveParticipant")),
        lambda m: m.find(".//ParticipantObjectIDTypeCode").attrib.pop("csd-code"),
        lambda m: m.find("ParticipantObjectIdentification").remove(m.find(".//ParticipantObjectName")),
        lambda m: m.find("EventIdentification/EventID").set("code", "110104"),
        lambda m: ET.SubElement(m, "PatientName"),
    ):
        one = message("instances received")
        spoil(one)
        with pytest.raises(AssertionError):
            conforms(one)


@pytest.mark.parametrize(
    ("what", "codes"),
    [
        ("application started", ("110100", "110120", "0")),
        ("application stopped", ("110100", "110121", "0")),
        ("audit trail exported", ("110101", None, "0")),
        ("study opened", ("110103", None, "0")),
        ("instances received", ("110104", None, "0")),
        ("instances refused", ("110104", None, "8")),
        ("files removed", ("110105", None, "0")),
        ("job queued again", ("110111", None, "0")),
        ("worklist searched", ("110112", None, "0")),
        ("archive queried", ("110112", None, "0")),
        ("association refused", ("110113", "110126", "4")),
        ("user changed", ("110113", "110137", "0")),
        ("signed in", ("110114", "110122", "0")),
        ("signed out", ("110114", "110123", "0")),
        ("sign-in refused", ("110114", "110122", "4")),
    ],
)
def test_events_have_the_standards_codes(what: str, codes: tuple[str, str | None, str]) -> None:
    assert event(message(what)) == codes


def test_a_transfer_names_both_sides_and_what_went(conforms: Callable[[ET.Element], bool]) -> None:
    """A.5.3.7: source and destination by their roles, one study, one patient."""
    one = message("instances received")
    roles = {p.find("RoleIDCode").get("csd-code"): p.get("UserID") for p in one.findall("ActiveParticipant")}  # type: ignore[union-attr]
    assert roles == {"110153": "ORTHANC", "110152": "MEDPIPE"}
    assert {p.get("AlternativeUserID") for p in one.findall("ActiveParticipant")} == {
        "AETITLES=ORTHANC",
        "AETITLES=MEDPIPE",
    }
    study = objects(one)["110180"]
    assert study.get("ParticipantObjectID") == "1.2.3"
    sop_class = study.find("ParticipantObjectDescription/SOPClass")
    assert sop_class is not None and sop_class.get("NumberOfInstances") == "40"


@pytest.mark.parametrize("what", ["study opened", "instances received", "files removed", "job planned"])
def test_where_a_patient_belongs_one_is_named_as_unknown(what: str) -> None:
    """A.5.3.6 to 8 and 15 want one patient: an id that says that we have none, and no name."""
    patient = objects(message(what))["2"]
    assert (patient.get("ParticipantObjectTypeCode"), patient.get("ParticipantObjectTypeCodeRole")) == (
        "1",
        "1",
    )
    assert patient.get("ParticipantObjectID") == "unknown"
    assert not patient.findtext("ParticipantObjectName")


@pytest.mark.parametrize(
    "what", ["signed in", "application started", "association refused", "audit trail exported"]
)
def test_elsewhere_there_is_neither_study_nor_patient(what: str) -> None:
    assert not {"2", "110180"} & set(objects(message(what)))


def test_who_looked_and_from_where() -> None:
    (reader,) = message("study opened").findall("ActiveParticipant")
    assert (reader.get("UserID"), reader.get("UserIsRequestor")) == ("anna", "true")
    assert (reader.get("NetworkAccessPointID"), reader.get("NetworkAccessPointTypeCode")) == ("10.0.0.7", "2")


def test_an_alert_says_about_whom_and_why() -> None:
    one = message("association refused", who="medpipe")
    us, caller = one.findall("ActiveParticipant")
    assert (us.get("UserID"), caller.get("AlternativeUserID")) == ("MEDPIPE", "AETITLES=STRANGER")
    assert one.findtext("EventIdentification/EventOutcomeDescription") == "its AE title may not call"
    about = objects(one)["110182"].find("ParticipantObjectDetail")
    assert about is not None and base64.b64decode(about.get("value", "")) == b"association refused"


def test_a_search_says_how_much_was_asked_and_not_what() -> None:
    query = objects(message("worklist searched"))["10"].findtext("ParticipantObjectQuery")
    assert base64.b64decode(query or "") == b'{"found": 3, "group": "", "words": 2}'


def identifier(one: ET.Element) -> Dataset:
    """The data set that was asked with, as the message holds it."""
    asked = objects(one)["110181"]
    assert asked.get("ParticipantObjectID") == StudyRootQueryRetrieveInformationModelFind
    syntax = asked.find("ParticipantObjectDetail")
    assert syntax is not None and syntax.get("type") == "TransferSyntax"
    assert base64.b64decode(syntax.get("value", "")).decode() == ImplicitVRLittleEndian
    raw = base64.b64decode(asked.findtext("ParticipantObjectQuery") or "")
    return dcmread(BytesIO(raw), force=True)


def test_a_query_of_an_archive_names_both_sides_the_person_and_the_query() -> None:
    """A.5.3.10."""
    one = message("archive queried")
    ours, theirs, person = one.findall("ActiveParticipant")
    for side, title, role in ((ours, "MEDPIPE", "110153"), (theirs, "ORTHANC", "110152")):
        assert side.get("AlternativeUserID") == f"AETITLES={title}"
        assert side.find("RoleIDCode").get("csd-code") == role  # type: ignore[union-attr]
    assert (person.get("UserID"), person.get("UserIsRequestor")) == ("anna", "true")
    asked = identifier(one)
    assert (asked.QueryRetrieveLevel, asked.StudyInstanceUID) == ("SERIES", "1.2.3")


def test_an_accession_number_that_was_asked_for_is_not_told() -> None:
    detail = {"source": "MEDPIPE", "destination": "ORTHANC", "level": "STUDY", "key": "AccessionNumber"}
    asked = identifier(message("archive queried", study=None, **detail))
    assert (asked.QueryRetrieveLevel, asked.AccessionNumber, asked.StudyInstanceUID) == ("STUDY", "", "")


def test_a_search_over_dicomweb_is_its_query_string(conforms: Callable[[ET.Element], bool]) -> None:
    detail = {"source": "MEDPIPE", "destination": "ORTHANC", "question": {"Modality": "CT"}, **ADDRESS}
    one = message("archive queried", study=None, **detail)
    assert conforms(one)
    asked = objects(one)["12"]
    assert asked.get("ParticipantObjectID") == "/studies"
    assert base64.b64decode(asked.findtext("ParticipantObjectQuery") or "") == b"Modality=CT"


def test_time_and_source() -> None:
    one = message("signed in")
    said = one.find("EventIdentification")
    assert said is not None and said.get("EventDateTime") == "2023-11-14T22:13:20.250Z"
    source = one.find("AuditSourceIdentification")
    assert source is not None and source.attrib == {
        "AuditSourceID": "MEDPIPE",
        "AuditEnterpriseSiteID": "General Hospital",
    }


@pytest.mark.parametrize(
    "hostile", ["<x a='b'>&amp;\"", "bell\x07 null\x00", "line\nbreak", "Ünïcødé 日本", "\ud800\uffff"]
)
def test_what_others_call_themselves_cannot_break_a_message(
    hostile: str, conforms: Callable[[ET.Element], bool]
) -> None:
    one = message("instances received", source=hostile, destination=hostile, classes={})
    assert conforms(one)
    assert Counter(child.tag for child in one)["ActiveParticipant"] == 2
