"""Coded frames that our own encoders do not make: lossless JPEG (ITU-T T.81 annex H), sound and broken."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import file_mutations
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.uid import UID, HTJ2KLossless, JPEGExtended12Bit, JPEGLosslessSV1

from medpipe.config import Reading
from medpipe.dicom import Assembly, GuardedReader
from medpipe.samples import write_study


@pytest.fixture(scope="module")
def reader() -> Iterator[GuardedReader]:
    with GuardedReader(Reading(memory=300_000_000, seconds=30)) as made:
        yield made


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ultrasound picture of 128 x 128 grey values of 8 bits."""
    folder = tmp_path_factory.mktemp("sound")
    return write_study("ultrasound", folder, seed=1, width=128, height=128).files[0]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def frame_header(marker: int, bits: int, rows: int, columns: int) -> bytes:
    return segment(marker, struct.pack(">BHHB", bits, rows, columns, 1) + b"\x01\x11\x00")


def lossless_jpeg(picture: NDArray[np.uint8], *, size: tuple[int, int] | None = None) -> bytes:
    """Each value as its difference to the left one, or in the first column to the one above; codes of five bits.

    `size` is what the frame header says, the picture's own unless given.
    """
    values = picture.astype(int)
    before = np.empty_like(values)
    before[:, 1:], before[1:, 0], before[0, 0] = values[:, :-1], values[:-1, 0], 128
    bits = []
    for difference in (values - before).ravel():
        category = int(abs(difference)).bit_length()
        bits.append(f"{category:05b}")
        if category:
            bits.append(f"{difference if difference > 0 else difference + (1 << category) - 1:0{category}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
    table = segment(0xC4, b"\x00" + bytes((0, 0, 0, 0, 17, *[0] * 11)) + bytes(range(17)))
    header = frame_header(0xC3, 8, *(size or picture.shape))
    return b"\xff\xd8" + header + table + segment(0xDA, b"\x01\x01\x00\x01\x00\x00") + scan + b"\xff\xd9"


def assembled(frame: bytes, syntax: UID, sound: Path, reader: GuardedReader, folder: Path) -> Assembly:
    dataset = pydicom.dcmread(sound)
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    (folder / "coded.dcm").write_bytes(file_mutations.saved(dataset, syntax))
    return reader.assemble([folder / "coded.dcm"], folder / "scratch")


def test_lossless_jpeg_is_read_value_by_value(sound: Path, reader: GuardedReader, tmp_path: Path) -> None:
    truth = pydicom.dcmread(sound).pixel_array
    (image,) = assembled(lossless_jpeg(truth), JPEGLosslessSV1, sound, reader, tmp_path).images
    np.testing.assert_array_equal(image.array[0, 0], truth)


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut at {n}/8": lambda frame, n=n: frame[: len(frame) * n // 8] for n in range(1, 8)},
    "no scan": lambda frame: frame[: frame.index(b"\xff\xda")] + b"\xff\xd9",
    "no table": lambda frame: frame.replace(b"\xff\xc4", b"\xff\xec"),
    "a table without codes": lambda frame: frame.replace(b"\x00\x11\x00", b"\x00\x00\x00", 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_lossless_jpeg_is_refused(
    name: str, sound: Path, reader: GuardedReader, tmp_path: Path
) -> None:
    frame = BROKEN[name](lossless_jpeg(pydicom.dcmread(sound).pixel_array))
    assembly = assembled(frame, JPEGLosslessSV1, sound, reader, tmp_path)
    assert not assembly.images
    assert [refusal.code.value for refusal in assembly.refused] == ["BAD_PIXELS"]


@pytest.mark.parametrize("size", [(0, 128), (128, 127), (60_000, 60_000)])
def test_lossless_jpeg_of_another_size_is_refused(
    size: tuple[int, int], sound: Path, reader: GuardedReader, tmp_path: Path
) -> None:
    frame = lossless_jpeg(pydicom.dcmread(sound).pixel_array, size=size)
    (refusal,) = assembled(frame, JPEGLosslessSV1, sound, reader, tmp_path).refused
    assert refusal.code.value == "BAD_PIXELS" and f"{size[0]} x {size[1]}" in refusal.sentence


def test_jpeg_of_twelve_bits_is_not_called_broken(sound: Path, reader: GuardedReader, tmp_path: Path) -> None:
    """It may be sound: nobody here decodes it."""
    frame = b"\xff\xd8" + frame_header(0xC1, 12, 128, 128) + b"\xff\xd9"
    (refusal,) = assembled(frame, JPEGExtended12Bit, sound, reader, tmp_path).refused
    assert refusal.code.value == "UNSUPPORTED_SYNTAX"


def test_a_high_throughput_codestream_without_its_capabilities_is_refused(
    sound: Path, reader: GuardedReader, tmp_path: Path
) -> None:
    """SIZ of a JPEG 2000 codestream that says high throughput, and ends (ITU-T T.814)."""
    size = struct.pack(">H8IH", 0x4000, 128, 128, 0, 0, 128, 128, 0, 0, 1) + b"\x07\x01\x01"
    (refusal,) = assembled(
        b"\xff\x4f" + segment(0x51, size) + b"\xff\xd9", HTJ2KLossless, sound, reader, tmp_path
    ).refused
    assert refusal.code.value == "BAD_PIXELS"
