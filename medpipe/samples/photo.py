"""A camera picture as an Ophthalmic Photography object. A JPEG's coded picture is kept byte for byte."""

from __future__ import annotations

import io
import warnings
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from medpipe.config import Reading
from medpipe.dicom.pictures import holds_others, on_black
from medpipe.errors import ReasonCode, Refused, UsageError
from medpipe.identity import digest, is_uid, uid_from
from medpipe.samples import objects
from medpipe.samples.jpeg_stream import BrokenJpeg, JpegStream, read_jpeg

_FORMATS = ("JPEG", "PNG", "TIFF")
_ORIENTATION, _EXIF, _TAKEN = 0x0112, 0x8769, 0x9003
_LONGEST = 65535
_BASELINE = 0
Pixels = NDArray[np.uint8]
PillowImage.MAX_IMAGE_PIXELS = None  # the limit is ours: reading.maximum_pixels, checked before decoding


def wrap_photo(
    picture: Path,
    out: Path,
    *,
    patient_id: str = "",
    patient_name: str = "",
    laterality: str = "",
    accession_number: str = "",
    study_uid: str | None = None,
    field_degrees: float | None = None,
) -> Path:
    """Makes an Ophthalmic Photography file `out` of a JPEG, PNG or TIFF picture and returns its path.

    A baseline JPEG in YCbCr or grey that lies upright keeps its coded stream, without EXIF, comments and
    thumbnails, in which patient data may hide; anything else is stored as native RGB or grey. UIDs follow from the
    picture and the arguments: the same call gives the same bytes. The date is the camera's (EXIF); a picture
    without one gets an empty study date and 1900-01-01 where the standard wants a value. Without `laterality` the
    object says nothing of the eye, which the standard does not foresee: give it wherever it is known. `field_degrees`
    is the camera's horizontal field of view: a network that learned from another sees the picture at the right size.
    Raises UsageError for an impossible argument and Refused for a picture that does not decode, is too large, holds
    several pages or more than 8 bits per sample.
    """
    laterality = laterality.strip().upper()
    _check_arguments(patient_id, patient_name, laterality, accession_number, study_uid)
    if field_degrees is not None and not 10 <= field_degrees <= 200:
        raise UsageError("the field of view is 10 to 200 degrees")
    try:
        raw = picture.read_bytes()
    except OSError as error:
        raise UsageError(f"{picture} cannot be read: {error.strerror}") from error
    stream, upright, taken, array = _decoded(raw)
    content = digest(raw)
    study = study_uid or uid_from("2.25", "photograph study", content, patient_id, accession_number)
    parts = [content, study, patient_id, patient_name, laterality, accession_number]
    if field_degrees is not None:
        parts.append(f"{field_degrees:g}")
    identity = objects.Identity(
        study_uid=study,
        series_uid=uid_from("2.25", "photograph series", *parts),
        patient_id=patient_id,
        patient_name=patient_name,
        accession_number=accession_number,
        date=taken[:8],
        time=taken[8:],
        study_description="Photograph",
        model="wrapped picture",
    )
    sop_uid = uid_from("2.25", "photograph", *parts)
    dataset = objects.start(identity, objects.OPHTHALMIC_PHOTOGRAPHY_8_BIT, sop_uid, "OP")
    objects.add_ophthalmic(dataset, identity, laterality, field_degrees)
    syntax = _add_pixels(dataset, stream if upright else None, array, lossy=stream)
    try:
        return objects.save(dataset, out, syntax)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error


def _check_arguments(
    patient_id: str, patient_name: str, laterality: str, accession_number: str, study_uid: str | None
) -> None:
    for name, value, most in (
        ("patient id", patient_id, 64),
        ("patient name", patient_name, 64),
        ("accession number", accession_number, 16),
    ):
        if len(value) > most or "\\" in value or not value.isprintable():
            raise UsageError(
                f"the {name} has more than {most} characters, a backslash or a control character"
            )
    if laterality not in ("", "L", "R", "B"):
        raise UsageError("the laterality is L, R or B")
    if study_uid is not None and not is_uid(study_uid):
        raise UsageError("the study UID is not a UID (digits and dots, at most 64 characters)")


def _add_pixels(dataset: Dataset, kept: JpegStream | None, array: Pixels, lossy: JpegStream | None) -> str:
    """Adds the coded stream `kept` where it can be, else the pixels; gives the transfer syntax.

    `lossy` is the stream the pixels came from: once lossy, always lossy (PS3.3 C.7.6.1.1.5).
    """
    if kept is not None and _keepable(kept):
        objects.set_size(dataset, kept.rows, kept.columns, _photometric(kept))
        objects.set_jpeg(dataset, kept.clean)
        return str(JPEGBaseline8Bit)
    photometric = "MONOCHROME2" if array.ndim == 2 else "RGB"
    objects.set_size(dataset, array.shape[0], array.shape[1], photometric)
    dataset.PixelData = array.tobytes() + b"\0" * (array.size % 2)
    dataset["PixelData"].VR = "OB"
    dataset.LossyImageCompression = "00"
    if lossy is not None:
        objects.set_loss(dataset, len(lossy.clean))
    return str(ExplicitVRLittleEndian)


def _keepable(stream: JpegStream) -> bool:
    """A JPEG coded as RGB is not kept: ophthalmic photographs in baseline JPEG are YBR_FULL_422 or grey (dciodvfy)."""
    return stream.process == _BASELINE and stream.precision == 8 and stream.colour in ("grey", "ycc")


def _photometric(stream: JpegStream) -> str:
    """YBR_FULL_422 stands for any subsampling of the chroma; the stream itself says which (PS3.5 section 8.2.1)."""
    return "MONOCHROME2" if stream.colour == "grey" else "YBR_FULL_422"


def _decoded(raw: bytes) -> tuple[JpegStream | None, bool, str, Pixels]:
    """The JPEG stream if it is one, whether it lies upright, when it was taken, and the upright pixels."""
    limit = Reading().maximum_pixels
    try:
        stream = read_jpeg(raw) if raw[:2] == b"\xff\xd8" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow finds odd but decodes is no news for the user
            with PillowImage.open(io.BytesIO(raw), formats=_FORMATS) as opened:
                if opened.width * opened.height > limit or max(opened.size) > _LONGEST:
                    size = f"{opened.width} x {opened.height}"
                    raise Refused(ReasonCode.TOO_LARGE, f"{size} pixels are more than the limit")
                if holds_others(opened):
                    raise Refused(ReasonCode.MULTIFRAME, "the file holds several pictures")
                if opened.mode in ("I", "F") or ";16" in opened.mode or ";16" in str(opened.tile):
                    raise Refused(ReasonCode.BAD_PIXELS, "the picture has more than 8 bits per sample")
                tags = opened.getexif()
                upright = tags.get(_ORIENTATION, 1) in (0, 1)
                taken = _taken(str(tags.get_ifd(_EXIF).get(_TAKEN, "")))
                turned = on_black(ImageOps.exif_transpose(opened))
                return (
                    stream,
                    upright,
                    taken,
                    np.asarray(turned.convert("L" if turned.mode in "1L" else "RGB")),
                )
    except (Refused, MemoryError):
        raise
    except BrokenJpeg as error:
        raise Refused(ReasonCode.UNREADABLE, str(error)) from error
    except Exception as error:
        raise Refused(
            ReasonCode.UNREADABLE,
            f"the picture does not decode as JPEG, PNG or TIFF ({type(error).__name__})",
        ) from error


def _taken(text: str) -> str:
    """EXIF's "YYYY:MM:DD HH:MM:SS" as DA and TM in one; empty where it is not said."""
    try:
        return datetime.strptime(text, "%Y:%m:%d %H:%M:%S").strftime("%Y%m%d%H%M%S")
    except ValueError:
        return ""
