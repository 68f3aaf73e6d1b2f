"""Slices that lie evenly, and yet are no volume: every second one is of another echo, time, kind or place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from medpipe.config import Reading
from medpipe.dicom import Assembly, GuardedReader
from medpipe.samples import write_study


@pytest.fixture(scope="module")
def reader() -> Iterator[GuardedReader]:
    with GuardedReader(Reading()) as made:
        yield made


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return write_study("mr", tmp_path_factory.mktemp("mr"), seed=1, shape=(8, 32, 32)).files


def assembled(
    series: tuple[Path, ...], reader: GuardedReader, folder: Path, keyword: str, two: tuple[Any, Any]
) -> Assembly:
    """The series, of which every second slice has another value of one attribute."""
    paths = []
    for number, path in enumerate(series):
        dataset = pydicom.dcmread(path)
        if two[number % 2] is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, two[number % 2])
        paths.append(folder / path.name)
        dataset.save_as(paths[-1])
    return reader.assemble(paths, folder / "scratch")


MIXED: list[tuple[str, tuple[Any, Any]]] = [
    ("FrameOfReferenceUID", ("2.25.1", "2.25.2")),
    ("FrameOfReferenceUID", ("2.25.1", None)),
    ("PhotometricInterpretation", ("MONOCHROME1", "MONOCHROME2")),
    ("Modality", ("MR", "CT")),
    ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])),
    ("ImageType", (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "PRIMARY", "AXIAL"])),
    ("ImageType", (["ORIGINAL", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "MPR"])),
    (
        "ImageType",
        (["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], ["ORIGINAL", "PRIMARY", "M_FFE", "P", "FFE"]),
    ),
    ("ImageType", (["DERIVED", "PRIMARY", "DIXON", "WATER"], ["DERIVED", "PRIMARY", "DIXON", "FAT"])),
    (
        "ImageType",
        (["DERIVED", "PRIMARY", "M", "NORM", "DIS2D"], ["DERIVED", "PRIMARY", "M", "ADC", "DIS2D"]),
    ),
    ("ImageType", (["DERIVED", "PRIMARY", "AXIAL", "VMI"], ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"])),
    ("EchoTime", ("4.6", "30")),
    ("EchoNumbers", (1, 2)),
    ("TemporalPositionIdentifier", (1, 2)),
    ("DiffusionBValue", (0.0, 1000.0)),
]


@pytest.mark.parametrize(("keyword", "two"), MIXED)
def test_slices_that_alternate_are_no_volume(
    series: tuple[Path, ...], reader: GuardedReader, tmp_path: Path, keyword: str, two: tuple[Any, Any]
) -> None:
    assembly = assembled(series, reader, tmp_path, keyword, two)
    assert not assembly.images
    (refusal,) = assembly.refused
    assert refusal.code.value == "MIXED_SERIES" and keyword in refusal.sentence
    assert len(refusal.instances) == len(series)


SOUND: list[tuple[str, tuple[Any, Any]]] = [
    ("FrameOfReferenceUID", (None, None)),  # de-identified
    ("EchoTime", ("4.6", "4.601")),
    ("EchoTime", ("4.6", None)),
    ("ImageType", (["ORIGINAL", "PRIMARY"], None)),
    ("ImageType", (["ORIGINAL", "PRIMARY", "M", "ND"], ["ORIGINAL", "PRIMARY"])),
    ("ImageType", (["ORIGINAL", "PRIMARY", "", "M"], ["ORIGINAL", "PRIMARY", "OTHER"])),
    (
        "ImageType",
        (["ORIGINAL", "PRIMARY", "M", "ND", "NORM"], ["ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"]),
    ),
    ("ImageType", (["ORIGINAL", "PRIMARY", "M", "MFSPLIT"], ["ORIGINAL", "PRIMARY", "M"])),
    ("ImageType", (["ORIGINAL", "PRIMARY", "AXIAL", "0001"], ["ORIGINAL", "PRIMARY", "AXIAL", "0002"])),
    (
        "ImageType",
        (["ORIGINAL", "PRIMARY", "AXIAL", "ADD"], ["ORIGINAL", "PRIMARY", "AXIAL"]),
    ),  # GE, of a head
    ("ImageType", (["ORIGINAL", "PRIMARY", "0001"], ["ORIGINAL", "PRIMARY", "0002"])),
    ("AcquisitionNumber", (1, 2)),  # step and shoot
    ("TriggerTime", ("10", "700")),
    ("RescaleSlope", ("1", "2")),
]


@pytest.mark.parametrize(("keyword", "two"), SOUND)
def test_slices_may_differ_in_what_says_nothing_of_their_kind(
    series: tuple[Path, ...], reader: GuardedReader, tmp_path: Path, keyword: str, two: tuple[Any, Any]
) -> None:
    assembly = assembled(series, reader, tmp_path, keyword, two)
    assert not assembly.refused
    (image,) = assembly.images
    assert image.grid.shape == (8, 32, 32)
