"""A volume as a series of CT or MR slices, one file each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medpipe.identity import safe_name, uid_from
from medpipe.samples import objects

_CT = "1.2.840.10008.5.1.4.1.1.2"
_MR = "1.2.840.10008.5.1.4.1.1.4"
_OFFSET = 1024
"""Stored CT value = HU + 1024: unsigned, as scanners write it."""


def write_slices(
    kind: str, identity: objects.Identity, array: NDArray[np.int16], affine: NDArray[np.float64], folder: Path
) -> tuple[Path, ...]:
    """Writes `array` (K, J, I) with `affine` (index i, j, k to patient LPS mm) as `<folder>/<SOP UID>.dcm`, k by k."""
    head = _series_header(kind, identity, affine, array.shape)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    normal = np.cross(affine[:3, 0] / steps[0], affine[:3, 1] / steps[1])
    offset = _OFFSET if kind == "ct" else 0
    paths = []
    for k in range(array.shape[0]):
        position = affine[:3, :3] @ np.array([0.0, 0.0, k]) + affine[:3, 3]
        head.SOPInstanceUID = uid_from("2.25", identity.series_uid, "slice", str(k))
        head.InstanceNumber = k + 1
        head.ImagePositionPatient = [_decimal(value) for value in position]
        head.SliceLocation = _decimal(float(normal @ position))
        head.PixelData = (array[k] + offset).astype("<u2").tobytes()
        head["PixelData"].VR = "OW"
        paths.append(objects.save(head, folder / f"{safe_name(head.SOPInstanceUID)}.dcm"))
    return tuple(paths)


def _series_header(
    kind: str, identity: objects.Identity, affine: NDArray[np.float64], shape: tuple[int, ...]
) -> Dataset:
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    head = objects.start(identity, _CT if kind == "ct" else _MR, "", kind.upper())
    head.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if kind == "ct" else ["ORIGINAL", "PRIMARY", "OTHER"]
    head.ContentDate = head.AcquisitionDate = identity.date
    head.ContentTime = head.AcquisitionTime = identity.time
    head.FrameOfReferenceUID = uid_from("2.25", identity.series_uid, "frame of reference")
    head.PositionReferenceIndicator = ""
    head.PatientPosition = "HFS"
    head.BodyPartExamined = "ABDOMEN"
    head.AcquisitionNumber = 1
    head.PixelSpacing = [_decimal(steps[1]), _decimal(steps[0])]
    head.SliceThickness = _decimal(steps[2])
    head.SpacingBetweenSlices = _decimal(steps[2])
    head.ImageOrientationPatient = [
        _decimal(value) for value in (*(affine[:3, 0] / steps[0]), *(affine[:3, 1] / steps[1]))
    ]
    objects.set_size(head, shape[1], shape[2], "MONOCHROME2", bits=16)
    head.BitsStored, head.HighBit = 12, 11
    _add_modality(head, kind)
    return head


def _add_modality(head: Dataset, kind: str) -> None:
    if kind == "ct":
        head.RescaleSlope, head.RescaleIntercept, head.RescaleType = 1, -_OFFSET, "HU"
        head.KVP = 120
        head.WindowCenter, head.WindowWidth = 200, 1600
        return
    head.ScanningSequence, head.SequenceVariant, head.ScanOptions = "GR", "SP", ""
    head.MRAcquisitionType = "3D"
    head.RepetitionTime, head.EchoTime, head.EchoTrainLength, head.FlipAngle = 8, 3, 1, 12
    head.MagneticFieldStrength = 1.5
    head.WindowCenter, head.WindowWidth = 500, 1000


def _decimal(value: Any) -> str:
    """A number as DS (at most 16 characters), exact to a millionth; no negative zero."""
    return f"{round(float(value), 9) + 0.0:.10g}"
