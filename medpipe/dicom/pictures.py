"""What a header says of a picture beside its pixels (size, eye, field of view); camera pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps, MpoImagePlugin, TiffImagePlugin
from pydicom import Dataset

from medpipe.dicom.mapped import save
from medpipe.errors import ReasonCode, Refused

Plain = dict[str, Any]

_CENTIMETRES = 3
_TISSUE = 1
_POSSIBLE_SPACING_MM = (1e-4, 1e3)
_MP_ENTRY = 0xB002
_NEW_SUBFILE_TYPE, _REDUCED = 254, 1
_POSSIBLE_RATIO = (0.1, 10.0)
_DEPTHS = (8, 10, 12, 14, 16)
_POSSIBLE_FIELD_DEGREES = (10.0, 200.0)


def calibration_of(header: Dataset) -> tuple[float, float] | None:
    """Pixel spacing (row, column) in mm of a picture, or None where sizes are unknown.

    PixelSpacing counts where it is possible; ImagerPixelSpacing is measured at the detector and does not. Ultrasound
    counts where one tissue region with centimetres on both axes covers the picture's regions (PS3.3 C.8.5.5).
    """
    spacing = _possible(header.get("PixelSpacing"))
    if spacing is not None:
        return spacing
    regions = list(header.get("SequenceOfUltrasoundRegions") or ())
    if len(regions) != 1:
        return None
    region = regions[0]
    units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
    if units != (_CENTIMETRES, _CENTIMETRES) or region.get("RegionSpatialFormat") != _TISSUE:
        return None
    try:  # a step's sign is a direction
        return _possible([abs(10 * float(region.get(f"PhysicalDelta{axis}"))) for axis in "YX"])
    except (TypeError, ValueError):
        return None


def pixel_shape_of(header: Dataset) -> tuple[float, float]:
    """Height and width of a picture's pixels, in units of the width, by PixelAspectRatio (PS3.3 C.7.6.3.1.7)."""
    known = _possible(header.get("PixelAspectRatio"))
    ratio = 1.0 if known is None else known[0] / known[1]
    low, high = _POSSIBLE_RATIO
    return (ratio, 1.0) if low <= ratio <= high else (1.0, 1.0)


def laterality_of(header: Dataset) -> str | None:
    """ImageLaterality, else Laterality, else that of a single frame's anatomy; None where not said."""
    for keyword in ("ImageLaterality", "Laterality", "FrameLaterality"):
        value = str(header.get(keyword, "") or "").strip().upper()
        if value in ("L", "R", "B", "U"):
            return value
    return None


def field_degrees_of(header: Dataset) -> float | None:
    """Horizontal Field of View of an ophthalmic photograph (PS3.3 C.8.17.4) in degrees; None where not said."""
    try:
        value = float(header.get("HorizontalFieldOfView"))
    except (TypeError, ValueError):
        return None
    low, high = _POSSIBLE_FIELD_DEGREES
    return value if low <= value <= high else None  # NaN is in no range


def _possible(value: Any) -> tuple[float, float] | None:
    """Two distances (mm) that a camera or scanner could have between its pixels; None for anything else."""
    try:
        row, column = (float(item) for item in value)
    except (TypeError, ValueError):
        return None
    low, high = _POSSIBLE_SPACING_MM
    return (row, column) if low <= row <= high and low <= column <= high else None  # NaN is in no range


def read_picture(path: Path, scratch: Path, limits: Plain) -> Plain:
    """A camera picture (JPEG, PNG, TIFF), turned upright as its EXIF says, as the plain description of an image."""
    PillowImage.MAX_IMAGE_PIXELS = None  # our own limit stands below
    try:
        with PillowImage.open(path, formats=("JPEG", "PNG", "TIFF")) as picture:
            if picture.width * picture.height > limits["maximum_pixels"]:
                raise Refused(
                    ReasonCode.TOO_LARGE, f"{picture.width} x {picture.height} pixels are more than the limit"
                )
            if holds_others(picture):
                raise Refused(ReasonCode.MULTIFRAME, "the file holds several pictures")
            grey = picture.mode in ("1", "L", "I", "I;16", "F")
            upright = ImageOps.exif_transpose(picture)
            array = np.asarray(upright) if grey else np.asarray(on_black(upright).convert("RGB"))
    except (Refused, MemoryError):
        raise
    except Exception as error:
        raise Refused(
            ReasonCode.UNREADABLE, f"the picture does not decode ({type(error).__name__})"
        ) from None
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    planes = array[None, None] if grey else np.ascontiguousarray(array.transpose(2, 0, 1))[:, None]
    save(planes, scratch / "image-0.npy")
    return plain_of(np.eye(4), False, "MONOCHROME2" if grey else "RGB", "", (0.0, _white(planes)), False)


def holds_others(picture: PillowImage.Image) -> bool:
    """Whether the opened file holds further pictures, and not just smaller copies of its first one.

    Cameras add those for their displays: in JPEG by the Multi-Picture Format (CIPA DC-007, large thumbnails), in TIFF
    as pages of reduced resolution (TIFF 6.0, NewSubfileType).
    """
    count = getattr(picture, "n_frames", 1)
    if isinstance(picture, MpoImagePlugin.MpoImageFile):
        entries = (picture.mpinfo or {}).get(_MP_ENTRY, [])[1:]
        copies = [str(entry["Attribute"]["MPType"]).startswith("Large Thumbnail") for entry in entries]
        return not all(copies)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        for page in range(1, count):
            picture.seek(page)
            if not int(picture.tag_v2.get(_NEW_SUBFILE_TYPE, 0)) & _REDUCED:
                return True
        picture.seek(0)
        return False
    return bool(count > 1)


def on_black(picture: PillowImage.Image) -> PillowImage.Image:
    """What lies beneath transparent pixels is not shown by any viewer, and often white."""
    if not picture.has_transparency_data:
        return picture
    seen = picture.convert("RGBA")
    return PillowImage.alpha_composite(PillowImage.new("RGBA", seen.size, (0, 0, 0, 255)), seen)


def _white(planes: np.ndarray[Any, Any]) -> float:
    """The value of white: the largest of the fewest bits that cameras have (8 to 16) and all pixels fit in.

    Files of 16 and 32 bits do not say how many of them are used. Floats are taken up to their largest.
    """
    if planes.dtype.kind == "f":
        if not np.isfinite(planes).all():
            raise Refused(ReasonCode.BAD_PIXELS, "the picture holds values that are no numbers")
        return float(planes.max())
    highest = int(planes.max())
    return float(next((2**bits - 1 for bits in _DEPTHS if highest < 2**bits), highest))


def plain_of(
    affine: np.ndarray[Any, Any],
    spatial: bool,
    photometric: str,
    modality: str,
    value_range: tuple[float, float],
    calibrated: bool,
) -> Plain:
    return {
        "number": 0,
        "affine": affine.tolist(),
        "spatial": spatial,
        "sources": [],
        "series_uid": "",
        "name": "",
        "modality": modality,
        "photometric": photometric,
        "calibrated": calibrated,
        "laterality": None,
        "field_degrees": None,
        "bits_stored": 8,
        "value_range": list(value_range),
        "padding": False,
    }
