"""Palette colours: pixels that are places in three tables, one a colour (PS3.3 section C.7.6.3.1.5).

The tables are checked against their descriptors before a pixel is looked up: a table that is read with the wrong width
gives a picture that is black, or of other colours, and looks like one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian

from medpipe.dicom.headers import transfer_syntax_of
from medpipe.errors import ReasonCode, Refused

_COLOURS = ("Red", "Green", "Blue")
_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2


def palette_colours(indices: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    """RGB uint8 (J, I, 3); what lies outside the tables has their first or last colour.

    Raises Refused(BAD_HEADER) where tables and descriptors contradict each other.
    """
    entries, first, bits = _descriptor(dataset)
    tables = np.stack([_table(dataset, colour, entries, bits) for colour in _COLOURS], axis=-1)
    # entries of 8 bits are often stored in 16 without being scaled, whatever the descriptor calls them
    if tables.dtype != np.uint8:
        tables = np.round(tables / 257.0) if tables.max() > 255 else tables
    places = np.clip(indices.astype(np.int64) - first, 0, entries - 1)
    return np.asarray(tables.astype(np.uint8)[places])


def _descriptor(dataset: Dataset) -> tuple[int, int, int]:
    """Number of entries, the pixel value of the first one, bits of an entry: the same for all three colours."""
    found = set()
    for colour in _COLOURS:
        value = dataset.get(f"{colour}PaletteColorLookupTableDescriptor")
        try:
            number, first, bits = (int(one) for one in value)
        except (TypeError, ValueError):
            raise _bad("a descriptor is missing, or has not three numbers") from None
        found.add((number & 0xFFFF or 1 << 16, first, bits))
    if len(found) > 1:
        raise _bad("the descriptors of its colours differ")
    entries, first, bits = found.pop()
    if bits not in (8, 16):
        raise _bad("an entry has neither 8 nor 16 bits")
    return entries, first, bits


def _table(dataset: Dataset, colour: str, entries: int, bits: int) -> NDArray[Any]:
    """The entries of one colour, as uint8 or uint16."""
    big = transfer_syntax_of(dataset) == ExplicitVRBigEndian
    data = dataset.get(f"{colour}PaletteColorLookupTableData")
    if data is not None:
        raw = _bytes(data)
        narrow = len(raw) in (entries, entries + entries % 2)
        if len(raw) == 2 * entries and not (narrow and bits == 8):
            return _words(raw, 16, big)
        if narrow:
            return _words(raw, 8, big)[:entries]
        raise _bad(f"a table of {entries} entries has {len(raw)} bytes")
    segmented = dataset.get(f"Segmented{colour}PaletteColorLookupTableData")
    if segmented is None:
        raise _bad("a table is missing")
    table = _expanded([int(one) for one in _words(_bytes(segmented), bits, big)], entries, bits)
    return np.asarray(table, np.uint8 if bits == 8 else np.uint16)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise _bad("a table is no string of words")
    return value


def _words(raw: bytes, bits: int, big: bool) -> NDArray[Any]:
    """Entries of a string of 16 bit words; two of 8 bits share one, the first in its lower half."""
    words = np.frombuffer(raw[: len(raw) // 2 * 2], ">u2" if big else "<u2").astype("<u2")
    return words if bits == 16 else words.view(np.uint8)


def _expanded(words: list[int], entries: int, bits: int) -> list[int]:
    """The table that segments make (section C.7.9.2): exactly as long as its descriptor says."""
    table: list[int] = []
    at = 0
    try:
        while len(table) < entries:
            at = _segment(words, at, table, entries, bits)
    except (IndexError, ZeroDivisionError):
        raise _bad("a segmented table ends too early") from None
    if len(table) != entries or at + 1 < len(words):
        raise _bad("a segmented table is longer than its descriptor says")
    return table


def _segment(
    words: list[int], at: int, table: list[int], entries: int, bits: int, *, copied: bool = False
) -> int:
    """Adds what the segment at `at` stands for; where the next one begins. Raises IndexError past the end."""
    kind, length = words[at], words[at + 1]
    at += 2
    if kind == _INDIRECT and not copied:
        width = 4 if bits == 8 else 2
        offset = sum(word << (bits * n) for n, word in enumerate(words[at : at + width]))
        source = offset // (bits // 8)
        for _ in range(length):
            source = _segment(words, source, table, entries, bits, copied=True)
        return at + width
    if kind not in (_DISCRETE, _LINEAR) or len(table) + length > entries:
        raise _bad("a segmented table has a segment of unknown kind, or one that is too long")
    if kind == _DISCRETE:
        if at + length > len(words):
            raise IndexError
        table += words[at : at + length]
        return at + length
    begin, end = table[-1], words[at]
    table += [round(begin + (end - begin) * n / length) for n in range(1, length + 1)]
    return at + 1


def _bad(sentence: str) -> Refused:
    return Refused(ReasonCode.BAD_HEADER, f"its palette makes no sense: {sentence}")
