"""Small drawn studies: colour pictures with bright spots, as instances of Ophthalmic Photography."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset

from medpipe.identity import uid_from

OPHTHALMIC_8_BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
SIZE = 64
DRAWINGS = 6


@dataclass(frozen=True)
class Picture:
    """One instance: its UIDs, and its data set in Explicit VR Little Endian as it goes over the wire."""

    study_uid: str
    series_uid: str
    sop_instance_uid: str
    data: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def study_uid(name: str) -> str:
    return uid_from("2.25", "chaos", name)


def draw_study(name: str, pictures: int = 1) -> list[Picture]:
    """A study of so many pictures, each a series of its own; the same name gives the same bytes."""
    return [_picture(name, number) for number in range(pictures)]


def _picture(name: str, number: int) -> Picture:
    study, series, instance = (uid_from("2.25", "chaos", name, *key) for key in _keys(number))
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = OPHTHALMIC_8_BIT, instance
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.PatientName, dataset.PatientID = f"Chaos^{name}", f"CHAOS-{name}"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20260101"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "120000"
    dataset.AcquisitionDateTime = "20260101120000"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.StudyID = ""
    dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = "OP", "bench", "chaos"
    dataset.SeriesNumber, dataset.InstanceNumber = number + 1, 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PatientOrientation, dataset.ImageLaterality = ["L", "F"], "RL"[number % 2]
    dataset.Rows = dataset.Columns = SIZE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.NumberOfFrames = 7, 0, 1
    dataset.BurnedInAnnotation = "NO"
    dataset.PixelData = _drawing(int(instance.rpartition(".")[2]) % DRAWINGS)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True)
    return Picture(study, series, instance, buffer.getvalue())


def _keys(number: int) -> tuple[tuple[str, ...], ...]:
    return (), (str(number),), (str(number), "picture")


@cache
def _drawing(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    picture = rng.integers(20, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    for n in range(1 + seed % 3):
        picture[8:16, 4 + 20 * n : 12 + 20 * n] = 250
    return picture.tobytes()


def data_set_digest(path: Path) -> str:
    """SHA-256 of a Part 10 file's data set, without preamble and file meta information (PS3.10 section 7.1)."""
    content = path.read_bytes()
    if content[128:132] != b"DICM" or content[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise ValueError(f"{path}: not a Part 10 file")
    length = int.from_bytes(content[140:144], "little")
    return hashlib.sha256(memoryview(content)[144 + length :]).hexdigest()
