"""The last step of every object: identity, dates, the source's own bytes, and a UID from the finished content."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from medpipe.identity import digest, uid_from
from medpipe.results.encoding import encoded_elements, encoded_file, settle_encoding
from medpipe.results.foreign_values import unjudged
from medpipe.results.options import ResultOptions
from medpipe.results.plain_text import in_character_set
from medpipe.results.source_header import CARRIED, REQUIRED, SourceHeaders, as_raw

IMPLEMENTATION_CLASS_UID = "2.25.281474276184211948151374026195302471681"
_BLANK = "2.25.0"
_IDENTIFIED = ("SOPInstanceUID", "DimensionOrganizationSequence", "DimensionIndexSequence")
"""Elements that hold UIDs of our own, derived from the rest."""


@dataclass(frozen=True, eq=False)
class FinishedObject:
    """A DICOM object whose bytes are final. `dataset` is what `content` holds, for objects that refer to it."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    modality: str
    dataset: Dataset
    content: bytes


@unjudged()
def finish(dataset: Dataset, headers: SourceHeaders, options: ResultOptions, version: str) -> FinishedObject:
    """Gives `dataset` the patient and study of the sources, their newest moment, and its SOP Instance UID.

    The UID comes from a digest of the object with its own UID (and those derived from it) blanked. No time of our
    run is in the object, so the same finding on the same sources has the same bytes and the same UID.
    """
    _date(dataset, *headers.moment)
    _replace_patient_and_study(dataset, headers)
    if options.institution_department:
        department = in_character_set(options.institution_department, dataset)
        dataset.InstitutionalDepartmentName = department
    meta = dataset.file_meta
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = f"MEDPIPE_{version}"[:16]

    _identify(dataset, _BLANK, _BLANK)
    elements = encoded_elements(dataset)
    blanked = digest(encoded_file(meta, elements))
    uid = uid_from(options.uid_root, "instance", blanked)
    _identify(dataset, uid, uid_from(options.uid_root, "dimensions", blanked))
    elements |= encoded_elements(dataset, only=_IDENTIFIED)
    return FinishedObject(
        sop_instance_uid=uid,
        sop_class_uid=str(dataset.SOPClassUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        modality=str(dataset.Modality),
        dataset=dataset,
        content=encoded_file(meta, elements),
    )


def write_atomically(content: bytes, path: Path) -> None:
    """The whole file or none of it: a temporary file beside it, synced, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _date(dataset: Dataset, date: str, time: str) -> None:
    for kind in ("InstanceCreation", "Content", "Series"):
        setattr(dataset, f"{kind}Date", date)
        setattr(dataset, f"{kind}Time", time)
    for item in dataset.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in item:  # the moment of our run
            del item.ContributionDateTime


def _replace_patient_and_study(dataset: Dataset, headers: SourceHeaders) -> None:
    for keyword in CARRIED:
        if keyword in dataset:
            delattr(dataset, keyword)
    settle_encoding(
        dataset
    )  # ours, while every element is plain; the sources' own bytes are not touched after
    for keyword in REQUIRED:
        tag = BaseTag(tag_for_keyword(keyword) or 0)
        dataset[tag] = as_raw(tag, dictionary_VR(tag), b"")
    for element in headers.carried:
        dataset[element.tag] = element


def _identify(dataset: Dataset, uid: str, dimensions: str) -> None:
    dataset.SOPInstanceUID = uid
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    for name in _IDENTIFIED[1:]:
        for item in dataset.get(name, []):
            item.DimensionOrganizationUID = dimensions
