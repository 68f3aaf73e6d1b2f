"""Our own words in somebody else's object: always fit for its character set and its value representations."""

from __future__ import annotations

import unicodedata

from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset

from medpipe.results.foreign_values import unjudged
from medpipe.results.options import ResultOptions

_WARNING = " (not for diagnostic use)"
_LONG_STRING = 64


def ascii_only(text: str) -> str:
    """Text that is the same bytes in every DICOM character set: accents folded, the rest replaced by '?'.

    A backslash separates values in DICOM and means something else in ISO_IR 13, so it becomes a slash.
    """
    folded = unicodedata.normalize("NFKD", text)
    kept = "".join(c for c in folded if not unicodedata.combining(c))
    return kept.encode("ascii", "replace").decode("ascii").replace("\\", "/")


def shortened(text: str, room: int = _LONG_STRING) -> str:
    """`text` in at most `room` characters, cut between words and marked with '...'."""
    if len(text) <= room:
        return text
    cut = text[: room - 3]
    if " " in cut and len(cut) - cut.rindex(" ") < room // 2:
        cut = cut[: cut.rindex(" ")]
    return cut.rstrip(" ,;:-") + "..."


def long_string(text: str) -> str:
    """A value for VR LO (PS3.5 section 6.2): ASCII, one value, at most 64 characters."""
    return shortened(" ".join(ascii_only(text).split()))


def series_description(title: str, options: ResultOptions) -> str:
    """'AI <title> (not for diagnostic use)' in the 64 characters of VR LO; only the title is shortened."""
    warning = _WARNING if options.not_for_diagnostic_use else ""
    words = " ".join(ascii_only(title).split())
    return "AI " + shortened(words, _LONG_STRING - 3 - len(warning)) + warning


def in_character_set(text: str, dataset: Dataset) -> str:
    """`text` as it is where the data set's own character set can hold it, else folded to ASCII."""
    if text.isascii():
        return text.replace("\\", "/")
    with unjudged():
        try:
            encodings = convert_encodings(dataset.get("SpecificCharacterSet") or "ISO_IR 6")
        except LookupError:
            return ascii_only(text)
    for encoding in encodings if dataset.get("SpecificCharacterSet") else []:
        try:
            text.encode(encoding)
        except (UnicodeError, LookupError):
            continue
        return text.replace("\\", "/")
    return ascii_only(text)
