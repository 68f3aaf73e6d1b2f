"""One instance file -> what routing and grouping need of its header. Runs in the guarded child only."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmwrite
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medpipe.dicom.classes import is_own_output
from medpipe.errors import ReasonCode, Refused
from medpipe.identity import digest

TagValue = str | int | float | list[str | int | float]

_PATIENT_GROUP = 0x0010
_ALLOWED_PATIENT = {"PatientSex", "PatientAge"}
_LONGEST = 1024
_SOP_INSTANCE_UID = 0x00080018
_SERIES_INSTANCE_UID = 0x0020000E
_IDENTITY = frozenset((0x00080016, _SOP_INSTANCE_UID, 0x00100020, 0x0020000D, _SERIES_INSTANCE_UID))
"""SOP class and instance, patient id, study and series: where one comes twice, readers differ in which they believe."""
_PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_LARGE_VALUE = 1 << 16
_LARGEST_CARRIED = 1 << 20
_GROUP_LENGTH_END = 144
_UNDEFINED_LENGTH = 0xFFFFFFFF
_CODE_STRING = re.compile(r"[A-Z0-9 _]{1,16}")
_TEXT = {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
_NUMBERS = {"DS", "FD", "FL", "IS", "SL", "SS", "UL", "US", "SV", "UV"}


@dataclass(frozen=True)
class InstanceHeader:
    """What is known of one instance without its pixels. `patient_key` is a digest, never the id itself.

    `tags` holds the header's scalar attributes by keyword, for rules; patient attributes other than sex and age are
    left out.
    """

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    study_uid: str
    series_uid: str
    transfer_syntax: str
    modality: str
    rows: int
    columns: int
    frames: int
    patient_key: str
    own_output: bool
    tags: Mapping[str, TagValue] = field(repr=False, default_factory=dict)


def read_dataset(path: Path, *, pixels: bool) -> Dataset:
    """Opens one DICOM file, with or without preamble. Raises Refused(NOT_DICOM | UNREADABLE | BAD_PIXELS)."""
    try:
        try:
            dataset = _parsed(path, pixels, force=False)
        except InvalidDicomError:
            dataset = _parsed(path, pixels, force=True)
            if not dataset.get("SOPInstanceUID"):
                raise Refused(ReasonCode.NOT_DICOM, "the file has no DICOM structure") from None
    except (Refused, MemoryError):
        raise
    except RecursionError:
        raise Refused(ReasonCode.UNREADABLE, "sequences are nested too deeply") from None
    except Exception as error:
        raise Refused(ReasonCode.UNREADABLE, f"the file cannot be parsed ({type(error).__name__})") from None
    return dataset


class _Bounded(io.BufferedReader):
    """A file of which no more is asked than it has: Python makes room for what is asked, however deep it is claimed."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LARGE_VALUE:
            size = max(0, min(size, self.size - self.tell()))
        return super().read(size)


def _parsed(path: Path, pixels: bool, force: bool) -> Dataset:
    """The data set, up to the pixel data or with them. A value longer than its file is refused.

    Without a preamble (`force`) anything may be a file: such a value then ends it, unless it is known as DICOM by then.
    """
    known = not force
    seen: set[int] = set()
    with _Bounded(io.FileIO(str(path))) as file:  # pydicom takes its name for a string
        size = file.size

        def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
            nonlocal known
            known = known or tag == _SOP_INSTANCE_UID
            if tag in seen:
                raise Refused(
                    ReasonCode.UNREADABLE, f"element {tag} comes twice: whose the instance is, is not clear"
                )
            if tag in _IDENTITY:
                seen.add(int(tag))
            if tag in _PIXEL_DATA and not pixels:
                return True
            if size < length != _UNDEFINED_LENGTH and not deflated():
                if not known:
                    return True
                code = ReasonCode.BAD_PIXELS if tag in _PIXEL_DATA else ReasonCode.UNREADABLE
                raise Refused(code, f"element {tag} claims {length} bytes, the file has {size}")
            return False

        def deflated() -> bool:  # only now does the file's place say how much of it was taken at once
            return file.tell() == size

        return read_partial(file, stop_when=stop, force=force)


def series_seen(path: Path) -> str | None:
    """The Series Instance UID of a file that is refused, if it can be read as far as that: what it leaves a gap in."""
    try:
        with _Bounded(io.FileIO(str(path))) as file:
            dataset = read_partial(file, stop_when=lambda tag, vr, length: tag > _SERIES_INSTANCE_UID)
        return str(dataset.get("SeriesInstanceUID") or "") or None
    except Exception:
        return None


def read_header(path: Path, uid_root: str) -> InstanceHeader:
    """The header of one file. Raises Refused where it is no DICOM instance or cannot be parsed."""
    return header_of(read_dataset(path, pixels=False), path, uid_root)


def header_of(dataset: Dataset, path: Path, uid_root: str) -> InstanceHeader:
    """The header of an opened file. Raises Refused(BAD_HEADER) where an identifying UID is missing."""
    try:
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"):
            if not str(dataset.get(keyword, "") or ""):
                raise Refused(ReasonCode.BAD_HEADER, f"{keyword} is missing or empty")
        return InstanceHeader(
            path=path,
            sop_instance_uid=str(dataset.SOPInstanceUID),
            sop_class_uid=str(dataset.SOPClassUID),
            study_uid=str(dataset.StudyInstanceUID),
            series_uid=str(dataset.SeriesInstanceUID),
            transfer_syntax=transfer_syntax_of(dataset),
            modality=modality_of(dataset),
            rows=whole_number(dataset, "Rows"),
            columns=whole_number(dataset, "Columns"),
            frames=max(1, whole_number(dataset, "NumberOfFrames")),
            patient_key=_patient_key(dataset),
            own_output=is_own_output(dataset, uid_root),
            tags=_tags(dataset),
        )
    except Refused:
        raise
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(
            ReasonCode.BAD_HEADER, f"an attribute cannot be decoded ({type(error).__name__})"
        ) from None


def transfer_syntax_of(dataset: Dataset) -> str:
    """The Transfer Syntax UID, or for a file without meta header the one its encoding shows."""
    meta = getattr(dataset, "file_meta", None)
    named = str(meta.get("TransferSyntaxUID", "") or "") if meta is not None else ""
    if named:
        return named
    implicit, little = dataset.original_encoding
    if implicit:
        return "1.2.840.10008.1.2"
    return "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"


def modality_of(dataset: Dataset) -> str:
    """Modality, "" where it is not said, "?" where it is no code string: it stands in reasons that others read."""
    text = str(dataset.get("Modality", "") or "").strip()
    return text if not text or _CODE_STRING.fullmatch(text) else "?"


def whole_number(dataset: Dataset, keyword: str) -> int:
    """An integer attribute; 0 where it is missing or empty. Raises Refused(BAD_HEADER) where it is no number."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return 0
    try:
        return int(value)
    except (TypeError, ValueError):
        raise Refused(ReasonCode.BAD_HEADER, f"{keyword} is not a whole number") from None


def write_header(header: Dataset, path: Path) -> Path:
    """The header in its own encoding, so that every value is written with the bytes with which it came.

    Who reads it has no limits: what the standard does not know, and values beyond a megabyte, are left out.
    """
    copy = Dataset()
    for tag in header.keys():  # noqa: SIM118  (iterating a Dataset would decode its elements)
        element = header.get_item(tag)
        value = getattr(element, "value", None)
        too_long = isinstance(value, bytes | str) and len(value) > _LARGEST_CARRIED
        if tag.group != 0x7FE0 and dictionary_has_tag(tag) and not too_long:
            copy._dict[tag] = element  # undecoded: a name keeps its bytes
    implicit, little = header.original_encoding
    copy.set_original_encoding(implicit, little, header.original_character_set)
    meta = FileMetaDataset()
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = UID(str(header.SOPClassUID))
    meta.MediaStorageSOPInstanceUID = UID(str(header.SOPInstanceUID))
    copy.file_meta = meta
    dcmwrite(path, copy, enforce_file_format=True)
    return path


def content_digest(path: Path) -> str:
    """SHA-256 of a file's data set; preamble and meta header are its wrapping."""
    with path.open("rb") as file:
        head = file.read(_GROUP_LENGTH_END)
        whole = head[128:140] == b"DICM\x02\x00\x00\x00UL\x04\x00"
        file.seek(_GROUP_LENGTH_END + int.from_bytes(head[140:], "little") if whole else 0)
        return hashlib.file_digest(file, "sha256").hexdigest()


NOBODY = digest("", "", "", "")
"""The `patient_key` of an instance that says nothing of whom it is of."""


def _patient_key(dataset: Dataset) -> str:
    """Digest of who the patient is: id and its issuer; where no id is stated, name and birth date."""
    identity = [_raw(dataset, tag) for tag in (0x00100020, 0x00100021)]
    if not identity[0]:
        identity += [_raw(dataset, tag) for tag in (0x00100010, 0x00100030)]
    return digest(*identity)


def _raw(dataset: Dataset, tag: int) -> bytes:
    """The bytes of an element as received, undecoded."""
    element = dataset.get_item(tag) if tag in dataset else None
    value = getattr(element, "value", None)
    if value is None:
        return b""
    return value.strip(b" \0") if isinstance(value, bytes) else str(value).strip().encode()


def _tags(dataset: Dataset) -> dict[str, TagValue]:
    tags: dict[str, TagValue] = {}
    # Decoded apart: the caller writes the header out again, with the bytes it came with.
    (implicit, little), characters = dataset.original_encoding, dataset.original_character_set
    dataset = Dataset({tag: dataset.get_item(tag) for tag in dataset.keys()})  # noqa: SIM118
    dataset.set_original_encoding(implicit, little, characters)
    for tag in list(dataset.keys()):
        if (
            tag.is_private
            or tag.group > 0x0062
            or (tag.group == _PATIENT_GROUP and tag.element > 0x0040 + 0x1000)
        ):
            continue
        try:
            element = dataset[tag]
        except (MemoryError, RecursionError):
            raise
        except Exception:  # one unreadable attribute must not hide the others
            continue
        keyword = element.keyword
        if not keyword or (tag.group == _PATIENT_GROUP and keyword not in _ALLOWED_PATIENT):
            continue
        if element.VR in _TEXT or element.VR in _NUMBERS:
            value = _plain(element.value, element.VR in _NUMBERS)
            if value is not None:
                tags[keyword] = value
    return tags


def _plain(value: Any, numeric: bool) -> TagValue | None:
    if isinstance(value, MultiValue | list | tuple):
        items = [_plain_one(item, numeric) for item in list(value)[:64]]
        return [item for item in items if item is not None]
    return _plain_one(value, numeric)


def _plain_one(value: Any, numeric: bool) -> str | int | float | None:
    if value is None or value == "":
        return None
    if numeric:
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        if not math.isfinite(number):
            return None
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return str(value)[:_LONGEST]
