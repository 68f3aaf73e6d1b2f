"""What an archive was asked for, as an audit message tells it (PS3.15 A.5.3.10): the query itself, without patients.

A C-FIND is its identifier (PS3.4 C.4.1.1), a search over DICOMweb its query string. Only UIDs and words about objects
are in them: an accession number is an order of a patient, and stays out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ImplicitVRLittleEndian

from workers.audit.events import Code

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_SOP_CLASS_UID, _URI = Code("110181", "SOP Class UID"), Code("12", "URI", "RFC-3881")


@dataclass(frozen=True)
class Query:
    """What was asked: an object (`id` of the kind `scheme`) and the query; `syntax` where it is a data set."""

    id: str
    scheme: Code
    query: bytes
    syntax: str = ""


def query_of(study_uid: str | None, detail: dict[str, Any]) -> Query:
    """The query of a record of the kind "archive queried"."""
    if "question" in detail:
        return Query("/studies", _URI, urlencode(detail["question"]).encode())
    identifier = Dataset()
    identifier.QueryRetrieveLevel = str(detail.get("level", "STUDY"))
    identifier.StudyInstanceUID = study_uid or ""
    if detail.get("key") == "AccessionNumber":
        identifier.AccessionNumber = ""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_dataset(buffer, identifier)
    return Query(STUDY_ROOT_FIND, _SOP_CLASS_UID, buffer.getvalue(), ImplicitVRLittleEndian)
