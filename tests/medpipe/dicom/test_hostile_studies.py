"""What instances say of whom and of what they are: studies and series that contradict themselves."""

from __future__ import annotations

import struct
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    RLELossless,
)

from medpipe.config import Reading
from medpipe.dicom import GuardedReader, read_headers
from medpipe.errors import Refused
from medpipe.samples import write_study

from .hostile_files import assembled, coded_as, file_of, odd_characters


@pytest.mark.parametrize(("series", "code"), [("", "SERIES_IN_TWO_STUDIES"), ("2.25.77", "BAD_HEADER")])
def test_instances_of_two_studies_are_no_study(
    series: str, code: str, sound: Path, reader: GuardedReader, tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(sound)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.78", series or dataset.SeriesInstanceUID
    with pytest.raises(Refused) as refused:
        assembled(file_of(dataset), sound, reader, tmp_path)
    assert refused.value.code == code


@pytest.mark.parametrize("pixels", ["the same", "others"])
def test_of_two_files_with_one_uid_none_is_believed_unless_they_are_the_same(
    pixels: str, reader: GuardedReader, sound: Path, tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(sound)
    if pixels == "others":
        dataset.PixelData = bytes(len(dataset.PixelData))
    (tmp_path / "again.dcm").write_bytes(file_of(dataset))
    assembly = reader.assemble([sound, tmp_path / "again.dcm"], tmp_path / "scratch")
    assert [refusal.code.value for refusal in assembly.refused] == (
        ["SAME_UID_OTHER_CONTENT"] if pixels == "others" else []
    )
    assert len(assembly.images) == (0 if pixels == "others" else 1)


@pytest.mark.parametrize("keyword", ["PatientName", "PatientBirthDate"])
def test_without_any_patient_id_two_names_or_birth_dates_are_two_patients(
    keyword: str, reader: GuardedReader, sound: Path, tmp_path: Path
) -> None:
    paths = []
    for number, value in enumerate(("19500101", "19600101")):
        dataset = pydicom.dcmread(sound)
        dataset.PatientID, dataset.SOPInstanceUID = "", f"2.25.{number}"
        setattr(dataset, keyword, value)
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(file_of(dataset))
    with pytest.raises(Refused) as refused:
        reader.assemble(paths, tmp_path / "scratch")
    assert refused.value.code == "TWO_PATIENTS"


def test_a_modality_that_is_no_code_string_is_not_repeated(
    reader: GuardedReader, sound: Path, tmp_path: Path
) -> None:
    raw = sound.read_bytes().replace(b"CS\x02\x00US", b"CS\x10\x00Secret^Name\nX  \n")
    (tmp_path / "odd.dcm").write_bytes(raw)
    (header,) = reader.scan([tmp_path / "odd.dcm"]).instances
    (image,) = reader.assemble([tmp_path / "odd.dcm"], tmp_path / "scratch").images
    assert header.modality == image.modality == "?"


def test_what_no_result_needs_of_a_header_stays_in_the_child(
    reader: GuardedReader, sound: Path, tmp_path: Path
) -> None:
    """The parent has no limits: private, unknown and huge elements must not reach it."""
    dataset = pydicom.dcmread(sound)
    dataset.add_new(0x00111001, "OB", bytes(5_000_000))
    dataset.add_new(0x00089999, "LO", "unknown")
    dataset.add_new(0x00204000, "UT", "x" * 3_000_000)
    kept = dataset.PatientName
    _, assembly = assembled(file_of(dataset), sound, reader, tmp_path)
    for image in assembly.images:
        assert image.sources[0].header.stat().st_size < 10_000
        (header,) = read_headers(image)
        assert header.PatientName == kept
        assert not {0x00111001, 0x00089999, 0x00204000} & {int(tag) for tag in header.keys()}  # noqa: SIM118


@pytest.mark.filterwarnings("ignore:Unknown encoding")
def test_a_name_in_no_known_characters_stays_the_bytes_it_is(
    sound: Path, reader: GuardedReader, tmp_path: Path
) -> None:
    _, assembly = assembled(odd_characters(pydicom.dcmread(sound)), sound, reader, tmp_path)
    names = {read_headers(image)[0].get_item("PatientName").value for image in assembly.images}
    assert names == {b"\xff\xfe\x1b$)^\nUltrasound ", b"Sample^Ultrasound "}


def test_a_slice_that_breaks_the_reader_takes_its_series_with_it(tmp_path: Path) -> None:
    """A volume that lacks its last slice would look whole: it is refused, never shortened."""
    files = list(write_study("ct", tmp_path, seed=1, shape=(16, 48, 56)).files[:4])
    bad = pydicom.dcmread(files[-1])
    pixels = encapsulate([struct.pack("<16I", 2, 64, 64 + 4_000_000, *[0] * 13) + b"\x81\x00" * 4_000_000])
    files[-1].write_bytes(coded_as(RLELossless, pixels)(bad))
    with GuardedReader(Reading(memory=200_000_000)) as small:
        assembly = small.assemble(files, tmp_path / "scratch")
    assert not assembly.images and len(assembly.refused[0].instances) == 4
