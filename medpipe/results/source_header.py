"""What a result takes over from its sources: patient and study byte by byte, and the moment it is dated with."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import validate_value

from medpipe.results.foreign_values import unjudged
from medpipe.types import Image

CARRIED = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    # Patient, Clinical Trial Subject (PS3.3 C.7.1)
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "EthnicGroup",
    "PatientComments",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    # General Study, Patient Study (PS3.3 C.7.2)
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "PhysiciansOfRecord",
    "ProcedureCodeSequence",
    "ReferencedStudySequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "AdmissionID",
)
"""Taken over as they are. Of the values no byte changes, whatever character set or mistake they hold."""

REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Type 2: present even where the source lacks them."""

DESCRIPTIVE = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "PatientBirthTime",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)
"""Optional and no part of the identity: left out where they are empty or not valid, as our objects must be."""

_MOMENTS = (
    ("ContentDate", "ContentTime"),
    ("AcquisitionDateTime", None),
    ("AcquisitionDate", "AcquisitionTime"),
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)
_TIME = re.compile(r"([01]\d|2[0-3])(?:([0-5]\d)(?:([0-5]\d)(?:\.(\d{1,6}))?)?)?")
UNDATED = ("19000101", "000000")
"""What a result is dated with when no source says a date (de-identified files); SEG and SR need some date."""


@dataclass(frozen=True)
class SourceHeaders:
    """The headers of an image's sources in order, as own copies, and what the results take over from the first."""

    datasets: tuple[Dataset, ...]
    carried: tuple[RawDataElement | DataElement, ...]
    moment: tuple[str, str]

    @property
    def first(self) -> Dataset:
        return self.datasets[0]


@unjudged()
def read_source_headers(image: Image) -> SourceHeaders:
    """Reads the headers of `image.sources` (files of our own guarded reader, without pixel data)."""
    paths = dict.fromkeys(source.header for source in image.sources)
    return source_headers([_read(path) for path in paths])


@unjudged()
def source_headers(datasets: Sequence[Dataset]) -> SourceHeaders:
    """The same from data sets at hand. Elements not yet looked at keep their bytes; the others are encoded again."""
    if not datasets:
        raise ValueError("a result needs at least one source header")
    carried = tuple(_carried(datasets[0]))
    return SourceHeaders(tuple(datasets), carried, newest_moment(datasets))


def _read(path: Path) -> Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def _carried(header: Dataset) -> Iterable[RawDataElement | DataElement]:
    for keyword in CARRIED:
        tag = tag_for_keyword(keyword)
        if tag is None or tag not in header:
            continue
        element: DataElement | RawDataElement = header.get_item(tag)
        vr = dictionary_VR(tag)
        if keyword in DESCRIPTIVE and not _valid(header, keyword, vr):
            continue
        if vr != "SQ" and isinstance(element, RawDataElement):
            yield as_raw(BaseTag(tag), vr, element.value or b"")
            continue
        # A secondary sequence that cannot be parsed is left out.
        with contextlib.suppress(Exception):
            yield deepcopy(header[tag])


def _valid(header: Dataset, keyword: str, vr: str) -> bool:
    value = header.get(keyword)
    if value is None or value == "":
        return False
    try:
        values = value if isinstance(value, MultiValue) else [value]
        for one in values:
            validate_value(vr, str(one), RAISE)
    except ValueError:
        return False
    return True


def as_raw(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    """An element that pydicom writes as these very bytes (padded to even length) in a little endian data set."""
    if len(value) % 2:
        value += b"\0" if vr == "UI" else b" "
    return RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


def newest_moment(datasets: Iterable[Dataset]) -> tuple[str, str]:
    """(DA, TM) of the newest of the instances; each is dated by the first date it states properly."""
    moments = (_moment(dataset) for dataset in datasets)
    return max((m for m in moments if m is not None), default=UNDATED)


def _moment(dataset: Dataset) -> tuple[str, str] | None:
    for date_keyword, time_keyword in _MOMENTS:
        stated = _text(dataset, date_keyword)
        if time_keyword is None:
            date, time = stated[:8], re.split(r"[-+&]", stated[8:])[0]
        else:
            date, time = stated.replace(".", ""), _text(dataset, time_keyword).replace(":", "")
        if _is_date(date):
            return date, _whole_time(time)
    return None


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except Exception:  # a value that pydicom cannot convert says nothing
        return ""
    return "" if value is None else str(value).strip()


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{8}", text):
        return False
    try:
        datetime.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return True


def _whole_time(text: str) -> str:
    """HHMMSS with the fraction kept, so that times compare as text; midnight where none is stated."""
    match = _TIME.fullmatch(text)
    if match is None:
        return "000000"
    hours, minutes, seconds, fraction = match.groups()
    whole = f"{hours}{minutes or '00'}{seconds or '00'}"
    return f"{whole}.{fraction.ljust(6, '0')}" if fraction else whole
