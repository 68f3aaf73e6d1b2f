"""Data set -> bytes, element by element: what does not change is encoded once, what was received is not encoded at all.

Explicit VR Little Endian only (PS3.5 section 7.1.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydicom.charset import default_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_data_element, write_file_meta_info
from pydicom.sequence import Sequence as DicomSequence


def settle_encoding(dataset: Dataset) -> None:
    """Decides what VR each element has, at every depth, so that encoding need not look again."""
    correct_ambiguous_vr(dataset, True)
    _mark(dataset)


def _mark(dataset: Dataset) -> None:
    dataset.set_original_encoding(False, True, default_encoding)
    for element in dataset:
        if isinstance(element.value, DicomSequence):
            for item in element.value:
                _mark(item)


def encoded_elements(dataset: Dataset, only: Sequence[str] = ()) -> dict[int, bytes]:
    """Tag -> the element's bytes, for all elements of the root or those named. Raw elements keep theirs."""
    chosen = [tag_for_keyword(keyword) for keyword in only] if only else list(dataset.keys())
    encodings = dataset.get("SpecificCharacterSet") or default_encoding
    elements: dict[int, bytes] = {}
    for tag in chosen:
        if tag is None or tag not in dataset:
            continue
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = False, True
        write_data_element(buffer, dataset.get_item(tag), encodings)
        elements[int(tag)] = buffer.getvalue()
    return elements


def encoded_file(meta: FileMetaDataset, elements: Mapping[int, bytes]) -> bytes:
    """A DICOM file (PS3.10 section 7): preamble of zeros, file meta information, the elements in tag order."""
    head = DicomBytesIO()
    write_file_meta_info(head, meta, enforce_standard=True)
    return b"".join((bytes(128), b"DICM", head.getvalue(), *(elements[tag] for tag in sorted(elements))))
