"""NIfTI files: whole or refused, where the header says that they lie (NIfTI-1 and -2, plain or gzip).

SimpleITK reads the values. It takes a file that was cut off for whole (the rest becomes 0), and invents a place where
none is said or where the one that is said is sheared, so both are looked at here first.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medpipe.dicom.mapped import save
from medpipe.dicom.pictures import Plain, plain_of
from medpipe.errors import ReasonCode, Refused

_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20
_SMALLEST_VOXEL_MM3 = 1e-9
_LAYOUTS = {
    348: ((40, "8h"), (72, "h"), (108, "f"), (252, "2h"), (280, "12f")),
    540: ((16, "8q"), (14, "h"), (168, "q"), (344, "2i"), (400, "12d")),
}
"""By the header's length (NIfTI-1, NIfTI-2) where dim, bitpix, vox_offset, qform_code with sform_code, and srow lie."""
_SHEAR = 1e-3
"""Largest cosine between two axes of an affine, as from float32 and rounding."""


@dataclass(frozen=True)
class _Header:
    """Bytes that the file must have; whether qform or sform say where it lies; the sform's 3 x 3 where there is one."""

    size: int
    placed: bool
    sform: tuple[float, ...] | None


def check_nifti(path: Path) -> None:
    """Raises Refused where the file is cut off or damaged (UNREADABLE), or says no place (GEOM_...)."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            if packed:
                with gzip.open(raw) as unpacked:
                    header = _check_size(unpacked)
            else:
                header = _check_size(raw)
    except (OSError, EOFError, zlib.error, struct.error):
        raise Refused(
            ReasonCode.UNREADABLE, "the NIfTI file is cut off, damaged or none; copy it again"
        ) from None
    if not header.placed:
        raise Refused(
            ReasonCode.GEOM_MISSING, "the NIfTI file says no place in space (qform_code and sform_code are 0)"
        )
    if header.sform is not None and _is_sheared(header.sform):
        raise Refused(
            ReasonCode.GEOM_NOT_ORTHONORMAL,
            "the NIfTI file's sform is sheared; resample it to a grid with right angles",
        )


def _check_size(file: BinaryIO | gzip.GzipFile) -> _Header:
    """The header; EOFError where the file ends before its data do. Of gzip the check sum is read as well."""
    header = _header(file.read(544))
    read = 544
    while chunk := file.read(_CHUNK):
        read += len(chunk)
        if read > header.size + _CHUNK:  # more than it needs: nothing is missing
            break
    if read < header.size:
        raise EOFError
    return header


def _header(start: bytes) -> _Header:
    """From the first bytes of a NIfTI-1 or NIfTI-2 header, of either byte order."""
    for order in "<>":
        (length,) = struct.unpack_from(f"{order}i", start)
        if length not in _LAYOUTS:
            continue
        dims, (bits,), (offset,), codes, rows = (
            struct.unpack_from(f"{order}{form}", start, at) for at, form in _LAYOUTS[length]
        )
        voxels = math.prod(max(1, n) for n in dims[1 : 1 + max(0, min(7, dims[0]))])
        sform = tuple(value for n, value in enumerate(rows) if n % 4 < 3) if codes[1] > 0 else None
        return _Header(int(offset) + voxels * bits // 8, max(codes) > 0, sform)
    raise EOFError


def _is_sheared(sform: tuple[float, ...]) -> bool:
    axes = np.array(sform, np.float64).reshape(3, 3)
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(axes).all() or (lengths == 0).any():
        return False  # no place at all: said where the affine is read
    cosines = (axes / lengths).T @ (axes / lengths) - np.eye(3)
    return bool(np.abs(cosines).max() > _SHEAR)


def read_nifti(path: Path, scratch: Path, limits: Plain) -> Plain:
    """A NIfTI volume through SimpleITK (whose physical space is LPS already), as the plain description of an image.

    The file does not say by what kind of device it was made: it is for whoever names a bundle to know.
    """
    import SimpleITK as sitk  # noqa: N813  (the project's own abbreviation)

    check_nifti(path)
    try:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("NiftiImageIO")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size = reader.GetSize()
        if math.prod(size) > limits["maximum_pixels"]:
            raise Refused(ReasonCode.TOO_LARGE, "more voxels than the limit")
        if len([s for s in size if s > 1]) > 3 or reader.GetNumberOfComponents() > 1:
            raise Refused(ReasonCode.MULTIFRAME, "the file holds several volumes")
        volume = reader.Execute()
        if volume.GetDimension() == 4:
            volume = volume[:, :, :, 0]
    except (Refused, MemoryError):
        raise
    except Exception:
        raise Refused(ReasonCode.UNREADABLE, "the NIfTI file cannot be read") from None
    array = sitk.GetArrayFromImage(volume)
    if volume.GetDimension() != 3:
        raise Refused(ReasonCode.GEOM_SINGLE_SLICE, "the file holds no volume")
    affine = np.eye(4)
    affine[:3, :3] = np.array(volume.GetDirection()).reshape(3, 3) @ np.diag(volume.GetSpacing())
    affine[:3, 3] = volume.GetOrigin()
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < _SMALLEST_VOXEL_MM3:
        raise Refused(ReasonCode.GEOM_MISSING, "the NIfTI file's affine is no place in space")
    known = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if low == high:
        raise Refused(ReasonCode.BAD_PIXELS, "every voxel of the NIfTI file has one value, or none")
    save(array[None], scratch / "image-0.npy")
    return plain_of(affine, True, "MONOCHROME2", "", (low, high), True)
