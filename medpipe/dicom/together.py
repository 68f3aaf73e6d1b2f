"""Whether the slices of a series show one thing: positions alone do not tell two echoes that lie between each other.

Where a position is shared, the stack says so (GEOM_DUPLICATE); here are the series whose slices alternate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydicom import Dataset

from medpipe.dicom.image_type import are_of_one_kind
from medpipe.errors import ReasonCode, Refused

_SAME_TEXT = ("FrameOfReferenceUID", "Modality", "PhotometricInterpretation")
"""Of every slice, where any has it: without a common frame of reference positions cannot be compared."""
_SAME_NUMBER = ("EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "DiffusionBValue")
"""Of those slices that say it. Times of acquisition and triggering differ within a sound volume, too."""
_TOLERANCE = 0.01


def check_together(headers: Sequence[Dataset]) -> None:
    """Raises Refused(MIXED_SERIES), naming the attribute in which the slices differ; its values are not repeated."""
    for keyword in _SAME_TEXT:
        if len({str(header.get(keyword) or "").strip() for header in headers}) > 1:
            raise _mixed(keyword)
    if not are_of_one_kind(headers):
        raise _mixed("ImageType")
    for keyword in _SAME_NUMBER:
        said = [number for header in headers if (number := _number(header.get(keyword))) is not None]
        if said and max(said) - min(said) > _TOLERANCE * max(abs(number) for number in said):
            raise _mixed(keyword)


def _mixed(keyword: str) -> Refused:
    return Refused(ReasonCode.MIXED_SERIES, f"the slices of the series differ in {keyword}")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
