"""Pixel data of one single-frame instance -> an array. Runs in the guarded child only.

Colour is converted to RGB once, here; grey is brought to modality values (rescale, PS3.3 C.11.1) in the smallest
type that holds them exactly; bits beyond BitsStored are masked.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGBaseline8Bit, JPEGExtended12Bit, RLELossless

from medpipe.dicom.codestream import coded_size, decoded_lengths
from medpipe.dicom.headers import transfer_syntax_of, whole_number
from medpipe.dicom.palette import palette_colours
from medpipe.errors import ReasonCode, Refused

PillowImage.MAX_IMAGE_PIXELS = None  # the limit is ours: reading.maximum_pixels, checked before decoding

GREY = ("MONOCHROME1", "MONOCHROME2")
_JPEG_2000_ONLY = ("YBR_ICT", "YBR_RCT")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")


@dataclass(frozen=True)
class Rescale:
    """Stored value -> modality value: slope * stored + intercept (PS3.3 C.11.1.1.2)."""

    slope: float = 1.0
    intercept: float = 0.0

    @property
    def integral(self) -> bool:
        return self.slope.is_integer() and self.intercept.is_integer()


def check_layout(dataset: Dataset, maximum_pixels: int) -> None:
    """Refuses what cannot be right before a byte is decoded: no pixels, and all that `check_attributes` refuses."""
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise Refused(ReasonCode.NOT_AN_IMAGE, "the object has no pixel data")
    if "PixelData" not in dataset:
        raise Refused(ReasonCode.BAD_PIXELS, "float pixel data are not read")
    check_attributes(dataset, maximum_pixels)
    _check_frame(dataset)


def check_attributes(dataset: Dataset, maximum_pixels: int) -> None:
    """Refuses a header whose sizes, bits or photometric interpretation cannot be right; needs no pixel data."""
    rows, columns = whole_number(dataset, "Rows"), whole_number(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise Refused(ReasonCode.BAD_HEADER, f"Rows x Columns is {rows} x {columns}")
    frames = max(1, whole_number(dataset, "NumberOfFrames"))
    if whole_number(dataset, "NumberOfFrames") < 0:
        raise Refused(ReasonCode.BAD_HEADER, "NumberOfFrames is negative")
    if rows * columns * frames > maximum_pixels:
        raise Refused(ReasonCode.TOO_LARGE, f"{rows} x {columns} x {frames} pixels are more than the limit")
    allocated, stored = whole_number(dataset, "BitsAllocated"), whole_number(dataset, "BitsStored")
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise Refused(
            ReasonCode.BAD_HEADER, f"BitsStored {stored} of BitsAllocated {allocated} makes no sense here"
        )
    if dataset.get("HighBit") not in (None, "") and whole_number(dataset, "HighBit") != stored - 1:
        raise Refused(ReasonCode.BAD_HEADER, f"HighBit is not BitsStored - 1 ({stored - 1})")
    signed = whole_number(dataset, "PixelRepresentation")
    if signed not in (0, 1):
        raise Refused(ReasonCode.BAD_HEADER, "PixelRepresentation is neither 0 nor 1")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric not in GREY + COLOUR:
        raise Refused(ReasonCode.BAD_HEADER, "PhotometricInterpretation is missing or unknown")
    if photometric in COLOUR and (signed or stored < 8) and photometric != "PALETTE COLOR":
        raise Refused(ReasonCode.BAD_HEADER, "colours are unsigned and have at least 8 bits each")
    if photometric in _JPEG_2000_ONLY and transfer_syntax_of(dataset) not in JPEG2000TransferSyntaxes:
        raise Refused(
            ReasonCode.BAD_HEADER, f"{photometric} is what JPEG 2000 makes; the pixel data are none"
        )
    samples = whole_number(dataset, "SamplesPerPixel")
    if samples != (3 if photometric in COLOUR and photometric != "PALETTE COLOR" else 1):
        raise Refused(ReasonCode.BAD_HEADER, f"{samples} samples per pixel do not go with {photometric}")


def _check_frame(dataset: Dataset) -> None:
    """Refuses a coded frame whose own header contradicts Rows, Columns or SamplesPerPixel, before it is decoded."""
    syntax = transfer_syntax_of(dataset)
    if not is_encapsulated(syntax):
        return
    try:
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        size = coded_size(frame)
        longest = _longest_plane(frame, dataset) if syntax == RLELossless else 0
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(
            ReasonCode.BAD_PIXELS, f"the pixel data hold no coded frame ({type(error).__name__})"
        ) from None
    # the decoder takes what Rows and Columns ask for and leaves the rest: a smaller size would shear the picture
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if longest >= rows * columns + columns:
        raise Refused(ReasonCode.BAD_PIXELS, f"the coded frame holds more than {rows} x {columns} pixels")
    if size is None:
        return
    if syntax == JPEGExtended12Bit and size.bits == 12:
        raise Refused(ReasonCode.UNSUPPORTED_SYNTAX, "no decoder for lossy JPEG of 12 bits")
    if not size.ends:
        raise Refused(ReasonCode.BAD_PIXELS, "the coded frame is cut off")
    _check_shape((size.rows, size.columns), dataset)
    if size.components != int(dataset.SamplesPerPixel):
        raise Refused(
            ReasonCode.BAD_PIXELS,
            f"the coded frame has {size.components} components, SamplesPerPixel is {dataset.SamplesPerPixel}",
        )


def _longest_plane(frame: bytes, dataset: Dataset) -> int:
    """Bytes of the longest segment of an RLE frame. Raises MemoryError here: the decoder would end the process."""
    np.empty(4 * int(dataset.Rows) * int(dataset.Columns), np.uint8)
    return max(decoded_lengths(frame), default=0)


def is_encapsulated(syntax: str) -> bool:
    """Whether a transfer syntax has its frames in fragments. Raises Refused(UNSUPPORTED_SYNTAX)."""
    uid = UID(syntax)
    if not uid.is_transfer_syntax:
        raise Refused(ReasonCode.UNSUPPORTED_SYNTAX, "the transfer syntax is not one of the standard's")
    return bool(uid.is_encapsulated)


def is_colour(dataset: Dataset) -> bool:
    return str(dataset.get("PhotometricInterpretation", "")) in COLOUR


def decode_colour(dataset: Dataset) -> NDArray[np.uint8]:
    """RGB uint8 (3, J, I). Raises Refused(BAD_PIXELS | UNSUPPORTED_SYNTAX)."""
    if transfer_syntax_of(dataset) == JPEGBaseline8Bit:
        rgb = _decode_jpeg(dataset)
    elif str(dataset.PhotometricInterpretation) == "PALETTE COLOR":
        rgb = palette_colours(_decoded(dataset), dataset)
    else:
        rgb = _decoded(dataset)
    if rgb.ndim != 3 or rgb.shape[2] < 3:
        raise Refused(ReasonCode.BAD_PIXELS, "the decoded picture has no three colour channels")
    if rgb.dtype != np.uint8:
        most = (1 << int(dataset.BitsStored)) - 1
        rgb = (rgb.astype(np.float32) * (255.0 / most)).round().clip(0, 255).astype(np.uint8)
    _check_shape(rgb.shape[:2], dataset)
    return np.ascontiguousarray(rgb[..., :3].transpose(2, 0, 1))


def decode_grey(dataset: Dataset) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Stored values (J, I) with the bits beyond BitsStored masked, and where they are padding (or None)."""
    stored = _decoded(dataset)
    if stored.ndim != 2:
        raise Refused(ReasonCode.BAD_PIXELS, "the decoded picture is not a plane of grey values")
    _check_shape(stored.shape, dataset)
    if is_encapsulated(transfer_syntax_of(dataset)):
        _check_values(stored, dataset)
    else:
        stored = _mask_high_bits(stored, int(dataset.BitsStored))
    return stored, _padding(stored, dataset)


def rescale_of(dataset: Dataset) -> Rescale:
    """Rescale slope and intercept; identity where absent.

    Raises Refused(BAD_HEADER) on 0, NaN, infinity and what a float32 would lose or not hold.
    """
    slope, intercept = _number(dataset, "RescaleSlope", 1.0), _number(dataset, "RescaleIntercept", 0.0)
    if not (1e-30 < abs(slope) < 1e12 and abs(intercept) < 1e20):  # NaN is in no range
        raise Refused(ReasonCode.BAD_HEADER, "RescaleSlope or RescaleIntercept makes no sense")
    return Rescale(slope, intercept)


def to_modality(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Modality values of stored ones: an integer type where slope and intercept are whole, else float32."""
    if "ModalityLUTSequence" in dataset:
        return np.asarray(apply_modality_lut(stored, dataset))
    rescale = rescale_of(dataset)
    if rescale == Rescale():
        return stored
    low, high = stored_range(dataset)
    ends = [rescale.slope * low + rescale.intercept, rescale.slope * high + rescale.intercept]
    kind = value_type(rescale.integral, min(ends), max(ends))
    if kind == np.float32:
        return (stored.astype(np.float64) * rescale.slope + rescale.intercept).astype(np.float32)
    return (stored.astype(np.int64) * int(rescale.slope) + int(rescale.intercept)).astype(kind)


def value_type(integral: bool, low: float, high: float) -> type[np.generic]:
    """The smallest of int16, int32, float32 that holds whole (or any) numbers low..high."""
    if not integral or low < -(2**31) or high >= 2**31:
        return np.float32
    return np.int16 if low >= -(2**15) and high < 2**15 else np.int32


def stored_range(dataset: Dataset) -> tuple[int, int]:
    """Smallest and largest stored value that BitsStored and PixelRepresentation allow."""
    bits = int(dataset.BitsStored)
    if whole_number(dataset, "PixelRepresentation"):
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


def modality_range(dataset: Dataset) -> tuple[float, float]:
    """Smallest and largest modality value that the header allows."""
    rescale = rescale_of(dataset)
    ends = [rescale.slope * value + rescale.intercept for value in stored_range(dataset)]
    return min(ends), max(ends)


def _decode_jpeg(dataset: Dataset) -> NDArray[np.uint8]:
    """One baseline JPEG through libjpeg. Its own markers say how colour is coded; without any, the header does."""
    try:
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        picture = PillowImage.open(io.BytesIO(frame), formats=("JPEG",))
        told = "jfif" in picture.info or "adobe" in picture.info
        if not told and str(dataset.PhotometricInterpretation) == "RGB" and picture.mode == "RGB":
            picture.draft("YCbCr", picture.size)  # no transformation: the components are R, G and B already
        _check_shape(picture.size[::-1], dataset)
        if picture.mode not in ("RGB", "YCbCr"):
            raise Refused(ReasonCode.BAD_PIXELS, f"the JPEG has mode {picture.mode}, the header says colour")
        return np.asarray(picture)
    except Refused:
        raise
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(ReasonCode.BAD_PIXELS, f"the JPEG does not decode ({type(error).__name__})") from None


def _decoded(dataset: Dataset) -> NDArray[Any]:
    try:
        if not getattr(dataset, "file_meta", None) or "TransferSyntaxUID" not in dataset.file_meta:
            from pydicom.dataset import FileMetaDataset

            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax_of(dataset))
        return np.asarray(pixel_array(dataset))
    except MemoryError:
        raise
    except NotImplementedError:
        name = UID(transfer_syntax_of(dataset)).name
        raise Refused(ReasonCode.UNSUPPORTED_SYNTAX, f"no decoder for {name}") from None
    except Exception as error:
        name = UID(transfer_syntax_of(dataset)).name
        raise Refused(
            ReasonCode.BAD_PIXELS, f"the pixel data ({name}) do not decode ({type(error).__name__})"
        ) from None


def _check_shape(shape: tuple[int, ...], dataset: Dataset) -> None:
    if tuple(shape) != (int(dataset.Rows), int(dataset.Columns)):
        raise Refused(
            ReasonCode.BAD_PIXELS,
            f"the picture decodes to {shape[0]} x {shape[1]}, the header says {dataset.Rows} x {dataset.Columns}",
        )


def _mask_high_bits(stored: NDArray[Any], bits: int) -> NDArray[Any]:
    """Shifts out what lies above BitsStored; the sign comes back with an arithmetic shift."""
    surplus = stored.dtype.itemsize * 8 - bits
    if surplus <= 0:
        return stored
    masked: NDArray[Any] = np.right_shift(np.left_shift(stored, surplus), surplus)
    return masked


def _check_values(stored: NDArray[Any], dataset: Dataset) -> None:
    """A codestream has a depth of its own; values that the header does not allow for would wrap around later."""
    low, high = stored_range(dataset)
    if int(stored.min()) < low or int(stored.max()) > high:
        raise Refused(ReasonCode.BAD_PIXELS, f"decoded values lie beyond BitsStored ({low} to {high})")


def _padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    """PixelPaddingValue, with PixelPaddingRangeLimit a range (PS3.3 C.7.5.1.1.2)."""
    if dataset.get("PixelPaddingValue") in (None, ""):
        return None
    try:
        value = int(dataset.PixelPaddingValue)
        limit = int(dataset.get("PixelPaddingRangeLimit", value))
    except (TypeError, ValueError):
        return None
    low, high = min(value, limit), max(value, limit)
    mask = np.asarray((stored >= low) & (stored <= high))
    return mask if mask.any() else None


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    value = dataset.get(keyword)
    if value is None or value == "":
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Refused(ReasonCode.BAD_HEADER, f"{keyword} is not a number") from None
