"""Every real series and file of the torture set is read, or refused with its reason; never a traceback."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from medpipe.config import Reading
from medpipe.dicom import GuardedReader

REFUSED = {
    "ct-enh-supplemental": {"MULTIFRAME": 1},
    "ct-gap-4slices-ge": {"GEOM_GAP": 1},
    "ct-localizer": {"LOCALIZER": 1},
    "ct-not-a-volume": {"GEOM_DUPLICATE": 1},
    "ct-tilt-4slices-siemens": {"GEOM_TILT": 1},
    "ct-tilt-uneven-ge": {"GEOM_TILT": 1},
    "mr-12bit-garbage-bits": {"MOSAIC": 1},
    "mr-3plane-localizer-ffs": {"GEOM_MIXED_ORIENTATION": 1},
    "mr-4d-fmri-ffs": {"GEOM_DUPLICATE": 1},
    "mr-coronal-dti-ge": {"GEOM_DUPLICATE": 1},
    "mr-enh-hyperfine": {"MULTIFRAME": 1},
    "mr-enh-philips-anat": {"MULTIFRAME": 1},
    "mr-enh-philips-fieldmap": {"MULTIFRAME": 1},
    "mr-enh-siemens-xa10-4d": {"MULTIFRAME": 4},
    "mr-mixed-orientation": {"GEOM_MIXED_ORIENTATION": 1},
    "mr-slice-count": {"GEOM_TOO_FEW_SLICES": 1},
    "nm-multiframe": {"MULTIFRAME": 1},
    "rtstruct-with-ct": {"GEOM_TOO_FEW_SLICES": 1},
    "sc-rgb-series": {"COLOUR": 4},
    "ts-emri-family": {"MULTIFRAME": 1},
    "us-multiframe-jpeg": {"MULTIFRAME": 1},
}
VOLUMES = {
    "ct-3slice-with-liver-seg": (3, 512, 512),
    "ct-axial-5mm-philips": (28, 512, 512),
    "ct-legacy-enh-with-seg": (3, 38, 23),
    "mr-axial-oblique-t1post": (22, 320, 280),
    "mr-double-oblique": (40, 64, 64),
    "mr-hippocrop-1": (32, 51, 35),
    "mr-hippocrop-2": (35, 48, 36),
    "mr-non-isotropic": (4, 28, 64),
    "mr-oblique-hitachi-implicit": (4, 64, 64),
    "mr-sagittal-hfdl": (35, 256, 256),
}


@pytest.fixture(scope="module")
def reader() -> Iterator[GuardedReader]:
    with GuardedReader(Reading()) as made:
        yield made


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("case", REFUSED)
def test_a_trap_is_refused_with_its_reason(
    case: str, reader: GuardedReader, shared_data: Path, tmp_path: Path
) -> None:
    assembly = reader.assemble(files_of(shared_data / "dicom" / case), tmp_path)
    assert not assembly.images
    assert Counter(quarantine.code.value for quarantine in assembly.refused) == REFUSED[case]
    assert all(quarantine.instances for quarantine in assembly.refused)


@pytest.mark.parametrize("case", VOLUMES)
def test_a_regular_series_becomes_the_volume_that_highdicom_sees(
    case: str, reader: GuardedReader, shared_data: Path, tmp_path: Path
) -> None:
    files = files_of(shared_data / "dicom" / case)
    (image,) = reader.assemble(files, tmp_path).images
    assert image.grid.shape == VOLUMES[case]
    slices = {}
    for path in files:
        dataset = pydicom.dcmread(path)
        if dataset.Modality in ("CT", "MR") and int(dataset.get("NumberOfFrames") or 1) == 1:
            slices[dataset.SOPInstanceUID] = dataset
    for k, source in enumerate(image.sources):
        dataset = slices[source.sop_instance_uid]
        corner = image.grid.to_patient(np.array([float(k), 0.0, 0.0]))
        np.testing.assert_allclose(corner, [float(v) for v in dataset.ImagePositionPatient], atol=0.02)
        stored = dataset.pixel_array.astype(np.float64)
        expected = stored * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
        np.testing.assert_allclose(image.array[0, k], expected, rtol=1e-6, atol=1e-3)
    if case not in ("mr-non-isotropic",):  # highdicom asks for tags that this one lacks
        try:
            volume = highdicom.get_volume_from_series([slices[s.sop_instance_uid] for s in image.sources])
        except (ValueError, AttributeError):
            return
        ours, theirs = image.grid.affine, np.asarray(volume.affine)
        np.testing.assert_allclose(
            sorted(np.linalg.norm(ours[:3, :3], axis=0)),
            sorted(np.linalg.norm(theirs[:3, :3], axis=0)),
            rtol=1e-3,
        )


def test_anisotropic_pixels_are_not_swapped(reader: GuardedReader, shared_data: Path, tmp_path: Path) -> None:
    (image,) = reader.assemble(files_of(shared_data / "dicom" / "mr-non-isotropic"), tmp_path).images
    assert image.grid.spacing == pytest.approx((0.5, 4.0, 6.4), rel=1e-4)


def test_no_file_of_the_set_brings_the_reader_down(
    reader: GuardedReader, shared_data: Path, tmp_path: Path
) -> None:
    files = [path for path in files_of(shared_data / "dicom") if path.suffix not in (".md", ".json")]
    scan = reader.scan(files)
    assert len(scan.instances) + len(scan.unreadable) == len(files)
    assert Counter(q.code.value for q in scan.unreadable) == {"BAD_HEADER": 9, "NOT_DICOM": 4}
    studies: dict[str, list[Path]] = {}
    for header in scan.instances:
        studies.setdefault(f"{header.path.parent}|{header.study_uid}", []).append(header.path)
    for number, paths in enumerate(studies.values()):
        assembly = reader.assemble(paths, tmp_path / str(number))
        assert assembly.images or assembly.refused or assembly.ignored
