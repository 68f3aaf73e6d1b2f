"""Small studies and predictions made on the spot: headers as our guarded reader would re-write them, masks drawn."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medpipe.bundle import Bundle, load_bundle
from medpipe.identity import set_digest, uid_from
from medpipe.types import Grid, Image, Lesion, Prediction, Provenance, SourceFrame

OP = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
CLASSES = {
    "OP": OP,
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
    "OP16": "1.2.840.10008.5.1.4.1.1.77.1.5.2",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
}

BUNDLE = """
id = "fundus-lesions"
version = "0.3.1"
title = "Lesions of diabetic retinopathy on fundus photographs"
[network]
name = "attention-unet"
[input]
modality = ["OP", "CT"]
channels = 3
spatial_dims = 2
normalise = { kind = "mean-std", mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }
[[classes]]
id = "MA"
name = "Microaneurysm"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["1522000", "SCT", "Microaneurysm"]
colour_cielab = [53.2, 80.1, 67.2]
threshold = 0.42
smallest = 6
[[classes]]
id = "EX"
name = "Hard exudate"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["247146001", "SCT", "Retinal exudate"]
colour_cielab = [90.0, -5.0, 80.0]
threshold = 0.5
smallest = 4
[window]
patch = [512, 512]
[provenance]
data = "drawn"
licence = "none"
"""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "fundus-lesions"
    folder.mkdir()
    (folder / "bundle.toml").write_text(BUNDLE)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return load_bundle(folder)


def write_header(path: Path, kind: str, study: str, series: str, number: int, **values: Any) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = CLASSES[kind]
    dataset.SOPInstanceUID = f"{series}.{number}"
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = series
    dataset.Modality = kind.removesuffix("16")
    dataset.PatientName = "Doe^Jane"
    dataset.PatientID = "P-1"
    dataset.PatientBirthDate = "19700101"
    dataset.PatientSex = "F"
    dataset.AccessionNumber = "A1"
    dataset.StudyID = "S1"
    dataset.StudyDate = "20260102"
    dataset.StudyTime = "101500"
    dataset.ReferringPhysicianName = "Ref^Doc"
    dataset.ContentDate = "20260102"
    dataset.ContentTime = f"1020{number:02d}"
    dataset.Manufacturer = "Camera"
    for keyword, value in values.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return dataset


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Image]:
    """A picture of `size` (rows, columns) without patient space, and its header file."""

    def make(
        kind: str = "OP", size: tuple[int, int] = (61, 83), mm: float | None = None, **values: Any
    ) -> Image:
        study, series = "1.2.826.0.1.99.1", "1.2.826.0.1.99.1.1"
        header = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}.dcm"
        values = {"Rows": size[0], "Columns": size[1], "PatientOrientation": ["L", "F"]} | values
        dataset = write_header(header, kind, study, series, 1, **values)
        colour = kind == "OP"
        array = np.zeros((3 if colour else 1, 1, *size), np.uint8)
        affine = np.diag([mm or 1.0, mm or 1.0, 1.0, 1.0])
        return Image(
            array=array,
            grid=Grid((1, *size), affine, spatial=False),
            sources=(SourceFrame(dataset.SOPInstanceUID, dataset.SOPClassUID, None, header),),
            study_uid=study,
            series_uid=series,
            name=str(dataset.SOPInstanceUID),
            modality=dataset.Modality,
            photometric="RGB" if colour else "MONOCHROME2",
            calibrated=mm is not None,
            laterality="L",
        )

    return make


@pytest.fixture
def volume(tmp_path: Path) -> Callable[..., Image]:
    """A volume of (K, J, I) with any cosines, spacing (k, j, i) and order of its files."""

    def make(
        kind: str = "CT",
        shape: tuple[int, int, int] = (7, 20, 33),
        row: Sequence[float] = (1, 0, 0),
        column: Sequence[float] = (0, 1, 0),
        spacing: tuple[float, float, float] = (2.5, 0.7, 0.9),
        reverse: bool = False,
        **values: Any,
    ) -> Image:
        study, series = "1.2.826.0.1.99.2", "1.2.826.0.1.99.2.1"
        i, j = np.asarray(row, float), np.asarray(column, float)
        normal = np.cross(i, j) * (-1 if reverse else 1)
        origin = np.array([-31.25, 12.5, 101.0])
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1], affine[:3, 2] = i * spacing[2], j * spacing[1], normal * spacing[0]
        affine[:3, 3] = origin
        sources = []
        for k in range(shape[0]):
            header = tmp_path / f"{kind}-{k}.dcm"
            position = origin + k * spacing[0] * normal
            geometry: dict[str, Any] = {
                "Rows": shape[1],
                "Columns": shape[2],
                "ImageOrientationPatient": [f"{x:.10g}" for x in (*i, *j)],
                "ImagePositionPatient": [f"{x:.10g}" for x in position],
                "PixelSpacing": [spacing[1], spacing[2]],
                "SliceThickness": 3,
                "FrameOfReferenceUID": "1.2.826.0.1.99.2.9",
            }
            dataset = write_header(header, kind, study, series, 1 + k, **(geometry | values))
            sources.append(SourceFrame(dataset.SOPInstanceUID, dataset.SOPClassUID, None, header))
        return Image(
            array=np.zeros((1, *shape), np.int16),
            grid=Grid(shape, affine),
            sources=tuple(sources),
            study_uid=study,
            series_uid=series,
            name=series,
            modality=kind,
            photometric="MONOCHROME2",
            calibrated=True,
        )

    return make


def drawn_mask(image: Image, seed: int = 1, empty: bool = False) -> np.ndarray:
    """Random blobs of two classes that overlap; the last class misses some slices, and the outer slices are empty."""
    mask = np.zeros((2, *image.grid.shape), bool)
    if empty:
        return mask
    random = np.random.default_rng(seed)
    K, J, I = image.grid.shape  # noqa: E741
    inner = slice(None) if K == 1 else slice(1, K - 1)
    mask[0, inner] = random.random((K, J, I))[inner] > 0.8
    mask[1, K // 2] = random.random((J, I)) > 0.6
    return mask


@pytest.fixture
def prediction(bundle: Bundle) -> Callable[..., Prediction]:
    """A prediction of the two classes on an image, with a few lesions listed for each class that has any."""

    def make(
        image: Image, mask: np.ndarray | None = None, lesions: int = 2, empty: bool = False
    ) -> Prediction:
        mask = drawn_mask(image, empty=empty) if mask is None else mask
        return Prediction(
            image=image,
            class_ids=bundle.class_ids,
            mask=mask,
            probability=None,
            lesions=tuple(
                listed
                for number, class_id in enumerate(bundle.class_ids)
                if mask[number].any()
                for listed in _lesions(image, mask[number], class_id, lesions)
            ),
            provenance=Provenance(
                bundle_id=bundle.id,
                bundle_version=bundle.version,
                bundle_hash=bundle.hash,
                weights_sha256=bundle.weights_sha256,
                software_version="0.1.0",
                backend="openvino",
                precision="f32",
                tta=False,
                thresholds={"MA": 0.42, "EX": 0.5},
                smallest={"MA": 6, "EX": 4},
                peaks={"MA": 0.7},
                crf={"mode": "guarded", "seconds": 3.0},
                source_digest=set_digest(s.sop_instance_uid for s in image.sources),
            ),
        )

    return make


def _lesions(image: Image, mask: np.ndarray, class_id: str, count: int) -> list[Lesion]:
    found = np.argwhere(mask)
    listed = []
    for number in range(count):
        k, j, i = (int(x) for x in found[number * len(found) // count])
        voxels = 240 - number
        calibrated = image.calibrated
        volume = image.is_volume
        listed.append(
            Lesion(
                class_id=class_id,
                tracking_uid=uid_from("2.25", "lesion", class_id, str(number)),
                box=(k, j, i, k + 1, min(j + 5, mask.shape[1]), min(i + 8, mask.shape[2])),
                voxels=voxels,
                area_mm2=round(voxels / 600, 6) if calibrated and not volume else None,
                volume_ml=round(voxels / 6000, 6) if calibrated and volume else None,
                long_axis=8.0,
                short_axis=5.0,
                mean_probability=0.8123,
                max_probability=0.97,
            )
        )
    return listed


@pytest.fixture(scope="session")
def program() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a validator; its absence skips the test, or fails it where nothing may be missing."""

    def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        found = shutil.which(name)
        if found is None:
            if os.environ.get("CI") == "true":
                pytest.fail(
                    f"{name} is not installed (CI=true: nothing may be skipped for want of a program)"
                )
            pytest.skip(f"{name} is not installed")
        return subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, errors="replace")

    return run


@pytest.fixture(scope="session")
def faults(program: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[Path], list[str]]:
    """The errors that dciodvfy finds in a file."""

    def find(path: Path) -> list[str]:
        done = program("dciodvfy", "-new", path)
        lines = (done.stdout + done.stderr).splitlines()
        assert any("Segmentation" in line or "SR" in line for line in lines), lines
        return [line for line in lines if line.startswith("Error") or "Error -" in line]

    return find
