"""A record as a DICOM audit message (PS3.15 A.5.1, the successor of RFC 3881).

A patient is named only where the standard asks for one (A.5.3.6 to A.5.3.8, A.5.3.15), and then by an id that says
that we know none: the database has no patient data, and the study's UID finds the patient in the PACS.
"""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from xml.etree import ElementTree as ET

from workers.audit.events import Code, Form, event_of
from workers.audit.query import query_of
from workers.audit.trail import Record

UNKNOWN = "unknown"

_APPLICATION = Code("110150", "Application")
_DESTINATION, _SOURCE = Code("110152", "Destination Role ID"), Code("110153", "Source Role ID")
_STUDY_UID, _NODE_ID = Code("110180", "Study Instance UID"), Code("110182", "Node ID")
_PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
_SEARCH_CRITERIA = Code("10", "Search Criteria", "RFC-3881")
_URI = Code("12", "URI", "RFC-3881")
_PERSON, _SYSTEM = "1", "2"
"""Participant Object Type Codes; those of their roles (A.5.1.2.2):"""
_PATIENT, _REPORT, _SECURITY_RESOURCE, _QUERY = "1", "3", "13", "24"
_MACHINE_NAME, _IP_ADDRESS = "1", "2"
_APPLICATION_SERVER = "4"
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Source:
    """Who reports: `id` is this installation, `site` the enterprise that it belongs to (may be empty)."""

    id: str
    site: str = ""


def audit_message(record: Record, source: Source) -> ET.Element:
    """The message of one record."""
    event = event_of(record.what)
    message = ET.Element("AuditMessage")
    said = _child(
        message,
        "EventIdentification",
        EventActionCode=event.action,
        EventDateTime=date_time(record.at),
        EventOutcomeIndicator=str(event.outcome),
    )
    _code(said, "EventID", event.id)
    if event.type is not None:
        _code(said, "EventTypeCode", event.type)
    if reason := record.detail.get("reason"):
        _child(said, "EventOutcomeDescription").text = _clean(str(reason))
    _PARTICIPANTS[event.form](message, record, source)
    site = {"AuditEnterpriseSiteID": source.site} if source.site else {}
    reporter = _child(message, "AuditSourceIdentification", AuditSourceID=source.id, **site)
    _child(reporter, "AuditSourceTypeCode", **{"csd-code": _APPLICATION_SERVER})
    _OBJECTS[event.form](message, record)
    return message


def as_text(message: ET.Element) -> str:
    """The message on one line."""
    return ET.tostring(message, encoding="unicode")


def date_time(at: float) -> str:
    """Seconds since 1970 as an xsd:dateTime in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- who ---------------------------------------------------------------------------------------------------------


def _application(message: ET.Element, record: Record, source: Source) -> None:
    detail = record.detail
    process = f"{detail.get('process', 'medpipe')}:{detail.get('pid', '')}"
    _participant(message, process, address=detail.get("host", ""), role=_APPLICATION)


def _transfer(message: ET.Element, record: Record, source: Source) -> None:
    """The sender asked for it: a C-STORE in either direction."""
    for key, role in (("source", _SOURCE), ("destination", _DESTINATION)):
        title = str(record.detail.get(key) or UNKNOWN)
        _participant(message, title, requestor=role is _SOURCE, role=role, titles=title)


def _doer(message: ET.Element, record: Record, source: Source) -> None:
    _participant(message, record.who, requestor=True, address=record.detail.get("address", ""))


def _asker(message: ET.Element, record: Record, source: Source) -> None:
    _participant(message, record.who, requestor=True, role=_SOURCE, address=record.detail.get("address", ""))
    _participant(message, source.id, role=_DESTINATION, address=socket.gethostname())


def _go_between(message: ET.Element, record: Record, source: Source) -> None:
    """We ask the archive, for a person (A.5.3.10: who issues the query, who answers it, and the third party)."""
    ours, theirs = (str(record.detail.get(key) or UNKNOWN) for key in ("source", "destination"))
    _participant(message, ours, role=_SOURCE, address=socket.gethostname(), titles=ours)
    _participant(message, theirs, role=_DESTINATION, titles=theirs)
    _doer(message, record, source)


def _visitor(message: ET.Element, record: Record, source: Source) -> None:
    _doer(message, record, source)
    _participant(message, source.id, address=socket.gethostname())


def _reporter(message: ET.Element, record: Record, source: Source) -> None:
    """We, or the person at the command line; and the node that gave rise to the alert."""
    reporter = source.id if record.who == "medpipe" else record.who
    _participant(message, reporter, requestor=True, address=socket.gethostname())
    if address := record.detail.get("address"):
        title = str(record.detail.get("source") or "")
        _participant(message, title or str(address), address=address, titles=title)


def _participant(
    message: ET.Element,
    user: str,
    *,
    requestor: bool = False,
    role: Code | None = None,
    address: str = "",
    titles: str = "",
) -> None:
    values = {"UserID": user, "UserIsRequestor": "true" if requestor else "false"}
    if titles:
        values["AlternativeUserID"] = f"AETITLES={titles}"
    if address:
        values |= {"NetworkAccessPointID": address, "NetworkAccessPointTypeCode": _kind_of(address)}
    one = _child(message, "ActiveParticipant", **values)
    if role is not None:
        _code(one, "RoleIDCode", role)


def _kind_of(address: str) -> str:
    try:
        ip_address(address)
    except ValueError:
        return _MACHINE_NAME
    return _IP_ADDRESS


# --- what ---------------------------------------------------------------------------------------------------------


def _nothing(message: ET.Element, record: Record) -> None:
    pass


def _study(message: ET.Element, record: Record) -> None:
    study = _object(message, record.study_uid or UNKNOWN, _SYSTEM, _REPORT, _STUDY_UID)
    classes = record.detail.get("classes")
    if isinstance(classes, Mapping):
        said = _child(study, "ParticipantObjectDescription")
        for uid, count in classes.items():
            _child(said, "SOPClass", UID=str(uid), NumberOfInstances=str(count))
    _object(message, UNKNOWN, _PERSON, _PATIENT, _PATIENT_NUMBER)


def _search(message: ET.Element, record: Record) -> None:
    """How much was asked for and found. What was asked for is a name or a birth date, and stays out of the trail."""
    asked = {key: value for key, value in record.detail.items() if key != "address"}
    query = json.dumps(asked, sort_keys=True).encode()
    _object(message, "worklist", _SYSTEM, _QUERY, _SEARCH_CRITERIA, query=query)


def _archive_query(message: ET.Element, record: Record) -> None:
    asked = query_of(record.study_uid, record.detail)
    syntax = {"TransferSyntax": asked.syntax} if asked.syntax else {}
    _object(message, asked.id, _SYSTEM, _REPORT, asked.scheme, query=asked.query, detail=syntax)


def _subject(message: ET.Element, record: Record) -> None:
    about = str(record.detail.get("about") or record.detail.get("address") or UNKNOWN)
    node = _NODE_ID if "about" not in record.detail else Code("11", "User Identifier", "RFC-3881")
    _object(message, about, _SYSTEM, _SECURITY_RESOURCE, node, detail={"Alert Description": record.what})


def _log(message: ET.Element, record: Record) -> None:
    place = f"file:{record.detail.get('to', '')}"
    _object(message, place, _SYSTEM, _SECURITY_RESOURCE, _URI, name="Security Audit Log")


def _object(
    message: ET.Element,
    number: str,
    kind: str,
    role: str,
    scheme: Code,
    *,
    name: str = "",
    query: bytes | None = None,
    detail: Mapping[str, str] | None = None,
) -> ET.Element:
    """Each has a name or a query; that of a study or a patient is empty."""
    made = _child(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=number,
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _code(made, "ParticipantObjectIDTypeCode", scheme)
    if query is not None:
        _child(made, "ParticipantObjectQuery").text = _base64(query)
    else:
        _child(made, "ParticipantObjectName").text = name
    for key, value in (detail or {}).items():
        _child(made, "ParticipantObjectDetail", type=key, value=_base64(value.encode()))
    return made


_PARTICIPANTS = {
    Form.APPLICATION: _application,
    Form.TRANSFER: _transfer,
    Form.STUDY: _doer,
    Form.QUERY: _asker,
    Form.ARCHIVE: _go_between,
    Form.PERSON: _visitor,
    Form.ALERT: _reporter,
    Form.LOG: _doer,
}
_OBJECTS = {
    Form.APPLICATION: _nothing,
    Form.TRANSFER: _study,
    Form.STUDY: _study,
    Form.QUERY: _search,
    Form.ARCHIVE: _archive_query,
    Form.PERSON: _nothing,
    Form.ALERT: _subject,
    Form.LOG: _log,
}


def _code(parent: ET.Element, tag: str, code: Code) -> None:
    values = {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning}
    _child(parent, tag, **values)


def _child(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, tag, {name: _clean(value) for name, value in attributes.items()})


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _clean(text: str) -> str:
    """With a mark for each character that XML 1.0 has no way to write (section 2.2)."""
    return _NO_XML.sub("\ufffd", text)
