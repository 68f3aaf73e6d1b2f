"""NIfTI files: whole or refused, where the header says that they lie (NIfTI-1 and -2, plain or gzip).

SimpleITK reads the values. It takes a file that was cut off for whole (the rest becomes 0), invents a place where none
is said or where the one that is said is sheared, and of a header that says two things it chooses one; so all of it is
looked at here first.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from medpipe.dicom.mapped import save
from medpipe.dicom.pictures import Plain, plain_of
from medpipe.errors import ReasonCode, Refused

_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20
_SMALLEST_VOXEL_MM3 = 1e-9
_LAYOUTS = {
    348: ((40, "8h"), (72, "h"), (76, "4f"), (108, "f"), (252, "2h"), (256, "3f"), (280, "12f")),
    540: ((16, "8q"), (14, "h"), (104, "4d"), (168, "q"), (344, "2i"), (352, "3d"), (400, "12d")),
}
"""By the header's length (NIfTI-1, NIfTI-2) where these lie: dim, bitpix, pixdim, vox_offset, qform_code with
sform_code, the quaternion, srow."""
_SHEAR = 1e-3
"""Largest cosine between two axes of an affine, as from float32 and rounding."""
_ROUNDED = 0.01
"""What a voxel's size in the sform may differ from pixdim, as a part of it: headers are written with few digits."""
_HALF_RIGHT = math.cos(math.radians(45))

_Axes = NDArray[np.float64]
"""3 x 3: a column for each of i, j, k, the step to the next voxel in mm."""


@dataclass(frozen=True)
class _Header:
    """Bytes that the file must have; the voxel's size by pixdim; the axes that qform and sform say."""

    size: int
    spacing: NDArray[np.float64]
    qform: _Axes | None
    sform: _Axes | None


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
    if header.qform is None and header.sform is None:
        raise Refused(
            ReasonCode.GEOM_MISSING, "the NIfTI file says no place in space (qform_code and sform_code are 0)"
        )
    if header.sform is not None:
        _check_sform(header.sform, header)


def _check_sform(sform: _Axes, header: _Header) -> None:
    """Raises Refused where the sform is sheared, or says another size or another orientation than the rest."""
    sizes = np.linalg.norm(sform, axis=0)
    if not np.isfinite(sform).all() or (sizes == 0).any():
        return  # no place at all: said where the affine is read
    axes = sform / sizes
    if np.abs(axes.T @ axes - np.eye(3)).max() > _SHEAR:
        raise Refused(
            ReasonCode.GEOM_NOT_ORTHONORMAL,
            "the NIfTI file's sform is sheared; resample it to a grid with right angles",
        )
    if not np.allclose(sizes, header.spacing, rtol=_ROUNDED, atol=0):
        raise Refused(
            ReasonCode.GEOM_MIXED_SIZE,
            f"the NIfTI file says two sizes of a voxel, {_by(sizes)} mm by its sform and {_by(header.spacing)} mm by "
            "its pixdim; correct its header",
        )
    if header.qform is not None and (axes * header.qform).sum(axis=0).min() < _HALF_RIGHT:
        raise Refused(
            ReasonCode.GEOM_MIXED_ORIENTATION,
            "the NIfTI file's qform and sform turn it differently, by more than 45 degrees or with another side left; "
            "correct its header",
        )


def _by(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes)


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
        dims, (bits,), pixdim, (offset,), codes, turn, rows = (
            struct.unpack_from(f"{order}{form}", start, at) for at, form in _LAYOUTS[length]
        )
        voxels = math.prod(max(1, n) for n in dims[1 : 1 + max(0, min(7, dims[0]))])
        return _Header(
            size=int(offset) + voxels * bits // 8,
            spacing=np.abs(np.array(pixdim[1:], np.float64)),
            qform=_turned(turn, mirrored=pixdim[0] < 0) if codes[0] > 0 else None,
            sform=np.array(rows, np.float64).reshape(3, 4)[:, :3] if codes[1] > 0 else None,
        )
    raise EOFError


def _turned(quaternion: Sequence[float], *, mirrored: bool) -> _Axes:
    """The qform's unit axes, from (b, c, d) of a quaternion whose a is not negative; `mirrored`: k runs backwards.

    EOFError where they are no numbers.
    """
    from scipy.spatial.transform import Rotation

    b, c, d = quaternion
    if not all(map(math.isfinite, quaternion)):
        raise EOFError
    axes = Rotation.from_quat([b, c, d, math.sqrt(max(0.0, 1 - b * b - c * c - d * d))]).as_matrix()
    return np.asarray(axes * [1, 1, -1 if mirrored else 1], np.float64)


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
