"""The UIDs in front of a data set: found in every encoding, and nothing in the file can make the search go wild."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from workers.peek import Identity, UnreadableHeader, peek

WHOLE = Identity("1.2.840.10008.5.1.4.1.1.7", "2.25.1", "2.25.2", "2.25.3")
HEAD = bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, 0)


def nested(depth: int) -> Dataset:
    inner = Dataset()
    inner.SOPInstanceUID, inner.StudyInstanceUID = "9.9", "9.9"
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedStudySequence = [inner, Dataset()]
        outer["ReferencedStudySequence"].is_undefined_length = True
        inner.is_undefined_length_sequence_item = True
        inner = outer
    return inner


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_uids_are_the_data_sets_own_not_those_in_its_sequences(tmp_path: Path, syntax: str) -> None:
    dataset = nested(3)
    dataset.SOPClassUID, dataset.SOPInstanceUID = WHOLE.sop_class, WHOLE.sop_instance
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = WHOLE.study, WHOLE.series
    dataset.PatientName, dataset.AdditionalPatientHistory = "Nobody", "x" * 5000
    dataset.add_new(0x00091001, "UN", b"private" * 1000)
    dataset.InstanceNumber = 1
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    assert peek(tmp_path / "x.dcm", syntax) == WHOLE


def written(folder: Path, data: bytes) -> Path:
    path = folder / "x.dcm"
    path.write_bytes(HEAD + data)
    return path


def test_ten_thousand_nested_sequences_are_walked_without_recursion(tmp_path: Path) -> None:
    deep = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 10_000
    with pytest.raises(UnreadableHeader, match="no end"):
        peek(written(tmp_path, deep), ExplicitVRLittleEndian)


def test_a_million_elements_are_not_all_looked_at(tmp_path: Path) -> None:
    with pytest.raises(UnreadableHeader, match="elements before the series"):
        peek(written(tmp_path, b"\x09\x00\x01\x10UN\0\0\0\0\0\0" * 200_000), ExplicitVRLittleEndian)


def test_a_value_that_claims_more_than_the_file_has_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(UnreadableHeader, match="past the end"):
        peek(written(tmp_path, b"\x09\x00\x01\x10UN\0\0\xf0\xff\xff\xff"), ExplicitVRLittleEndian)


@given(st.binary(max_size=300), st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian]))
def test_any_bytes_give_uids_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, syntax: str
) -> None:
    path = written(tmp_path_factory.getbasetemp(), data)
    with contextlib.suppress(UnreadableHeader):
        assert isinstance(peek(path, syntax), Identity)
