"""Palettes: tables are read as wide as they are, and refused where they contradict their descriptors."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from medpipe.dicom.palette import palette_colours
from medpipe.errors import Refused

RISING = bytes(range(256))
WIDE = struct.pack("<256H", *(257 * n for n in range(256)))
UNSCALED = struct.pack("<256H", *range(256))
START = struct.pack("<HHH", 0, 1, 0)  # one entry, 0
PIXELS = np.array([[0, 1, 77, 255]], np.uint16)


def palette(
    descriptor: tuple[int, ...] = (256, 0, 8),
    table: bytes = RISING,
    *,
    segmented: bool = False,
    syntax: UID = ExplicitVRLittleEndian,
    green: dict[str, Any] | None = None,
) -> Dataset:
    """A header with the same table for red, green and blue; `green` has what differs there."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    for colour in ("Red", "Green", "Blue"):
        its = (green or {}) if colour == "Green" else {}
        made.add_new(
            f"{colour}PaletteColorLookupTableDescriptor", "US", list(its.get("descriptor", descriptor))
        )
        keyword = f"{'Segmented' if segmented else ''}{colour}PaletteColorLookupTableData"
        made.add_new(keyword, "OW", its.get("table", table))
    return made


def segments(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}H", *words)


IDENTITY: dict[str, Dataset] = {
    "8 bits": palette(),
    "16 bits": palette((256, 0, 16), WIDE),
    "8 bits in 16": palette((256, 0, 8), UNSCALED),
    "16 bits that were not scaled": palette((256, 0, 16), UNSCALED),
    "16 bits said, 8 there": palette((256, 0, 16), RISING),
    "65536 entries of 8 bits": palette((0, 0, 8), RISING * 256),
    "1024 entries of 8 bits": palette((1024, 0, 8), RISING * 4),
    "big endian, 16 bits": palette(
        (256, 0, 16), np.frombuffer(WIDE, "<u2").astype(">u2").tobytes(), syntax=ExplicitVRBigEndian
    ),
    "big endian, 8 bits": palette(
        (256, 0, 8), np.frombuffer(RISING, "<u2").astype(">u2").tobytes(), syntax=ExplicitVRBigEndian
    ),
    "discrete segment": palette((256, 0, 16), segments(0, 256) + WIDE, segmented=True),
    "linear segment": palette((256, 0, 16), START + segments(1, 255, 65535), segmented=True),
}


@pytest.mark.parametrize("name", IDENTITY)
def test_a_table_is_read_as_wide_as_it_is(name: str) -> None:
    colours = palette_colours(PIXELS, IDENTITY[name])
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours, np.repeat(PIXELS[..., None], 3, axis=-1))


def test_an_odd_number_of_entries_is_padded() -> None:
    colours = palette_colours(np.array([[0, 2]]), palette((3, 0, 8), b"\x07\x08\x09\x00"))
    assert colours[..., 0].tolist() == [[7, 9]]


def test_pixels_outside_the_table_have_its_first_or_last_colour() -> None:
    """Also pixels of 16 bits in a table of 8: 300 is not 44."""
    colours = palette_colours(np.array([[-5, 10, 12, 300, 60_000]]), palette((4, 10, 8), b"\1\2\3\4"))
    assert colours[..., 2].tolist() == [[1, 1, 3, 4, 4]]


def test_an_indirect_segment_copies_segments() -> None:
    table = segments(0, 2, 10, 20) + segments(1, 2, 40) + segments(2, 2, 0, 0)
    colours = palette_colours(np.arange(8)[None], palette((8, 0, 16), table, segmented=True))
    assert colours[0, :, 0].tolist() == [10, 20, 30, 40, 10, 20, 30, 40]


REFUSED: dict[str, tuple[Dataset, str]] = {
    "a short table": (palette(table=RISING[:100]), "256 entries has 100 bytes"),
    "a long table": (palette(table=RISING * 2 + b"xx"), "256 entries has 514 bytes"),
    "a short table of one colour": (
        palette(green={"table": RISING[:128]}),
        "256 entries has 128 bytes",
    ),
    "entries of 12 bits": (palette((256, 0, 12), WIDE), "neither 8 nor 16 bits"),
    "two numbers": (palette((256, 0)), "not three numbers"),
    "descriptors that differ": (
        palette(green={"descriptor": (256, 100, 8)}),
        "descriptors of its colours differ",
    ),
    "a segment too long": (
        palette((256, 0, 16), START + segments(1, 65535, 65535) * 4, segmented=True),
        "one that is too long",
    ),
    "segments that go on": (palette((1, 0, 16), START * 2, segmented=True), "longer than its descriptor"),
    "segments that end": (palette((256, 0, 16), START, segmented=True), "ends too early"),
    "a linear segment first": (palette((256, 0, 16), segments(1, 256, 9), segmented=True), "ends too early"),
    "a segment of unknown kind": (
        palette((256, 0, 16), segments(9, 2, 1, 1), segmented=True),
        "unknown kind",
    ),
    "segments that copy themselves": (
        palette((256, 0, 16), START + segments(2, 2, 0, 0), segmented=True),
        "unknown kind",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_contradicts_its_descriptor_is_refused(name: str) -> None:
    header, sentence = REFUSED[name]
    with pytest.raises(Refused, match=sentence) as refused:
        palette_colours(PIXELS, header)
    assert refused.value.code == "BAD_HEADER"
