"""Broken and odd files, made from a sound one: what tests and what is refused are told by."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import file_mutations
import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from medpipe.dicom import Assembly, GuardedReader

UNDEFINED = 0xFFFFFFFF


def file_of(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    return file_mutations.saved(dataset, UID(syntax))


def with_attributes(**attributes: object) -> Callable[[Dataset], bytes]:
    """The sound picture with other attributes; a value is put in as text or number, whatever its VR allows."""

    def make(dataset: Dataset) -> bytes:
        for keyword, value in attributes.items():
            if value is None:
                del dataset[keyword]
            elif isinstance(value, str):
                dataset.add_new(keyword, "LO", value)
            else:
                setattr(dataset, keyword, value)
        return file_of(dataset)

    return make


def with_bits(allocated: int, dtype: str = "<u1") -> Callable[[Dataset], bytes]:
    def make(dataset: Dataset) -> bytes:
        dataset.PixelData = dataset.pixel_array.astype(dtype).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.BitsAllocated = dataset.BitsStored = allocated
        dataset.HighBit = allocated - 1
        return file_of(dataset)

    return make


def coded_as(syntax: str, pixel_data: bytes) -> Callable[[Dataset], bytes]:
    """The sound picture with other coded pixel data."""

    def make(dataset: Dataset) -> bytes:
        dataset.PixelData = pixel_data
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        return file_of(dataset, syntax)

    return make


def compressed(syntax: str, size: tuple[int, int]) -> Callable[[Dataset], bytes]:
    """Soundly compressed, with a header frame of another size than the coded one."""

    def make(dataset: Dataset) -> bytes:
        dataset.compress(UID(syntax), generate_instance_uid=False)
        frame = bytearray(next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)))
        rows, columns = size
        if syntax == JPEG2000Lossless:
            struct.pack_into(">2I", frame, 8, columns, rows)
        else:
            at = frame.index(b"\xff\xf7")
            struct.pack_into(">2H", frame, at + 5, rows, columns)
        dataset.PixelData = encapsulate([bytes(frame)])
        return file_of(dataset, syntax)

    return make


def cut_jpeg_ls(dataset: Dataset) -> bytes:
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    return file_of(dataset, JPEGLSLossless)


def bad_offsets(dataset: Dataset) -> bytes:
    """A basic offset table of three frames, two of them far behind the only fragment: one frame needs no table."""
    dataset.compress(RLELossless, generate_instance_uid=False)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    table = struct.pack("<HHI3I", 0xFFFE, 0xE000, 12, 0, 0x7FFFFFF0, 5)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    dataset.PixelData = table + item
    return file_of(dataset, RLELossless)


def claiming(length: int) -> Callable[[Dataset], bytes]:
    """Pixel data that claim `length` bytes, of which 64 are there."""

    def make(dataset: Dataset) -> bytes:
        dataset.PixelData = bytes(64)
        raw = file_of(dataset)
        return raw[:-68] + struct.pack("<I", length) + raw[-64:]

    return make


def before_pixels(extra: bytes) -> Callable[[Dataset], bytes]:
    """Bytes put in where the pixel data element begins."""

    def make(dataset: Dataset) -> bytes:
        raw = file_of(dataset)
        at = raw.rindex(b"\xe0\x7f\x10\x00OB")
        return raw[:at] + extra + raw[at:]

    return make


def preamble(start: bytes) -> Callable[[Dataset], bytes]:
    return lambda dataset: start.ljust(128, b"\0") + file_of(dataset)[128:]


def private_elements(count: int) -> bytes:
    return b"".join(
        struct.pack("<HH2sH2s", 0x2001 + 2 * (n // 60000), 0x1000 + n % 60000, b"LO", 2, b"x ")
        for n in range(count)
    )


def nested(depth: int) -> bytes:
    start = struct.pack("<HH2sHI", 0x2001, 0x1040, b"SQ", 0, UNDEFINED)
    start += struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
    return (
        start * depth
        + (struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)) * depth
    )


def bomb(dataset: Dataset) -> bytes:
    """A few hundred kilobytes that inflate to an element of 300 MB."""
    body = file_of(dataset)
    start = 144 + struct.unpack_from("<I", body, 140)[0]
    squeeze = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = squeeze.compress(body[start:]) + squeeze.compress(
        struct.pack("<HH2sHI", 0x7FE1, 0x1001, b"UN", 0, 300 << 20)
    )
    packed += b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(300)) + squeeze.flush()
    dataset.PixelData = bytes(2)
    meta = file_of(dataset, DeflatedExplicitVRLittleEndian)
    return meta[: 144 + struct.unpack_from("<I", meta, 140)[0]] + packed


def palette(dataset: Dataset) -> bytes:
    """A palette of four colours, and pixels up to 255."""
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [4, 0, 8])
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", bytes([1, 2, 3, 4]))
    return file_of(dataset)


def palette_without_table(dataset: Dataset) -> bytes:
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    return file_of(dataset)


def odd_characters(dataset: Dataset) -> bytes:
    """A character set that nobody knows, and a name that fits no known one."""
    element = struct.pack("<HH2sH8s", 0x0008, 0x0005, b"CS", 8, b"KLINGON ")
    raw = file_of(dataset)
    return raw.replace(b"\x08\x00\x08\x00CS", element + b"\x08\x00\x08\x00CS", 1).replace(
        b"Sample^", b"\xff\xfe\x1b$)^\n", 1
    )


def coloured(**changes: object) -> Callable[[Dataset], bytes]:
    """A colour picture of the same size, uncompressed."""

    def make(dataset: Dataset) -> bytes:
        grey = dataset.pixel_array
        dataset.PixelData = np.stack([grey, grey // 2, 255 - grey], axis=-1).astype(np.uint8).tobytes()
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        dataset.PhotometricInterpretation = "RGB"
        return with_attributes(**changes)(dataset)

    return make


def deeper_than_it_says(syntax: str) -> Callable[[Dataset], bytes]:
    """Coded with 16 bits and a value of 60,000, in a header that says 12: int16 would have room for the header's."""

    def make(dataset: Dataset) -> bytes:
        values = dataset.pixel_array.astype("<u2")
        values[0, 0] = 60_000
        dataset.PixelData = values.tobytes()
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.compress(UID(syntax), generate_instance_uid=False)
        dataset.BitsStored, dataset.HighBit = 12, 11
        return file_of(dataset, syntax)

    return make


def run_lengths_of_more(**smaller: int) -> Callable[[Dataset], bytes]:
    """RLE of 128 x 128 in a header that says less."""

    def make(dataset: Dataset) -> bytes:
        dataset.compress(RLELossless, generate_instance_uid=False)
        for keyword, value in smaller.items():
            setattr(dataset, keyword, value)
        return file_of(dataset, RLELossless)

    return make


def twice(tag: int, value: bytes) -> Callable[[Dataset], bytes]:
    """An identifying element once more, right before the pixel data."""
    element = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"UI", len(value)) + value
    return before_pixels(element)


JPEG_OF_60000 = b"\xff\xd8\xff\xc0\x00\x0b\x08\xea\x60\xea\x60\x01\x01\x11\x00\xff\xd9"


def cut_in_the_header(dataset: Dataset) -> bytes:
    raw = file_of(dataset)
    return raw[: raw.rindex(b"\x28\x00\x10\x00US") + 9]


REFUSED: dict[str, tuple[Callable[[Dataset], bytes], str]] = {
    "wrong VR": (before_pixels(struct.pack("<HH2sHI", 0x2001, 0x1001, b"ZZ", 9, 0x7FFF0000)), "UNREADABLE"),
    "undefined length without end": (
        before_pixels(struct.pack("<HH2sHI", 0x2001, 0x1001, b"SQ", 0, UNDEFINED)),
        "UNREADABLE",
    ),
    "element longer than the file": (
        before_pixels(struct.pack("<HH2sHI", 0x2001, 0x1001, b"UN", 0, 0xFFFFFFF0)),
        "UNREADABLE",
    ),
    "a second Study Instance UID": (twice(0x0020000D, b"2.25.77\0"), "UNREADABLE"),
    "a second Series Instance UID": (twice(0x0020000E, b"2.25.77\0"), "UNREADABLE"),
    "a second Patient ID": (twice(0x00100020, b"SOMEBODY"), "UNREADABLE"),
    "cut within its header": (cut_in_the_header, "BAD_HEADER"),
    "nested 300": (before_pixels(nested(300)), "UNREADABLE"),
    "nested 10,000": (before_pixels(nested(10_000)), "UNREADABLE"),
    "a million private elements": (before_pixels(private_elements(1_000_000)), "MEMORY_LIMIT"),
    "deflate bomb": (bomb, "MEMORY_LIMIT"),
    "pixel data of 4 GiB": (claiming(0xFFFFFFF0), "BAD_PIXELS"),
    "pixel data shorter than they claim": (claiming(128 * 128), "BAD_PIXELS"),
    "no pixel data": (with_attributes(PixelData=None), "NOT_AN_IMAGE"),
    "no fragments": (
        coded_as(JPEGBaseline8Bit, encapsulate([b"xx"])[:8] + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)),
        "BAD_PIXELS",
    ),
    "a fragment of two bytes": (coded_as(JPEG2000Lossless, encapsulate([b"xx"])), "BAD_PIXELS"),
    "JPEG of 60,000 x 60,000": (coded_as(JPEGBaseline8Bit, encapsulate([JPEG_OF_60000])), "BAD_PIXELS"),
    "JPEG 2000 of another size": (compressed(JPEG2000Lossless, (60_000, 60_000)), "BAD_PIXELS"),
    "JPEG-LS of another size": (compressed(JPEGLSLossless, (60_000, 60_000)), "BAD_PIXELS"),
    "JPEG-LS cut off": (cut_jpeg_ls, "BAD_PIXELS"),
    "Rows x Columns past 2^31": (with_attributes(Rows=65535, Columns=65535), "TOO_LARGE"),
    "Rows x Columns x Frames past 2^32": (
        with_attributes(Rows=65535, Columns=65535, NumberOfFrames="70000"),
        "MULTIFRAME",
    ),
    "Rows 0": (with_attributes(Rows=0), "BAD_HEADER"),
    "no Columns": (with_attributes(Columns=None), "BAD_HEADER"),
    "Rows as text": (with_attributes(Rows="many"), "BAD_HEADER"),
    "BitsStored above BitsAllocated": (with_attributes(BitsStored=12), "BAD_HEADER"),
    "no BitsStored": (with_attributes(BitsStored=None), "BAD_HEADER"),
    "1 bit": (with_attributes(BitsAllocated=1, BitsStored=1), "BAD_HEADER"),
    "12 bits": (with_attributes(BitsAllocated=12, BitsStored=12), "BAD_HEADER"),
    "PixelRepresentation 7": (with_attributes(PixelRepresentation=7), "BAD_HEADER"),
    "HighBit above BitsStored - 1": (
        with_attributes(BitsAllocated=16, BitsStored=12, HighBit=15),
        "BAD_HEADER",
    ),
    "signed colours": (coloured(PixelRepresentation=1), "BAD_HEADER"),
    "colours of 7 bits": (coloured(BitsStored=7, HighBit=6), "BAD_HEADER"),
    "YBR_RCT without JPEG 2000": (coloured(PhotometricInterpretation="YBR_RCT"), "BAD_HEADER"),
    "YBR_PARTIAL_420": (coloured(PhotometricInterpretation="YBR_PARTIAL_420"), "BAD_HEADER"),
    "a private transfer syntax": (lambda dataset: file_of(dataset, "1.2.3.4.5"), "UNSUPPORTED_SYNTAX"),
    "JPEG 2000 deeper than BitsStored": (deeper_than_it_says(JPEG2000Lossless), "BAD_PIXELS"),
    "JPEG-LS deeper than BitsStored": (deeper_than_it_says(JPEGLSLossless), "BAD_PIXELS"),
    "RLE of more columns": (run_lengths_of_more(Columns=64), "BAD_PIXELS"),
    "RLE of more rows": (run_lengths_of_more(Rows=127), "BAD_PIXELS"),
    "colour with one sample": (with_attributes(PhotometricInterpretation="RGB"), "BAD_HEADER"),
    "unknown PhotometricInterpretation": (with_attributes(PhotometricInterpretation="CMYK"), "BAD_HEADER"),
    "a palette without table": (palette_without_table, "BAD_HEADER"),
    "RescaleSlope 0": (with_attributes(RescaleSlope="0"), "BAD_HEADER"),
    "RescaleSlope NaN": (with_attributes(RescaleSlope="NaN"), "BAD_HEADER"),
    "RescaleSlope 1e300": (with_attributes(RescaleSlope="1e300"), "BAD_HEADER"),
    "RescaleSlope 1e-300": (with_attributes(RescaleSlope="1e-300"), "BAD_HEADER"),
    "RescaleIntercept 1e300": (with_attributes(RescaleIntercept="1e300"), "BAD_HEADER"),
    "NumberOfFrames -1": (with_attributes(NumberOfFrames="-1"), "BAD_HEADER"),
    "NumberOfFrames 1e9": (with_attributes(NumberOfFrames="1e9"), "BAD_HEADER"),
    "NumberOfFrames 1000000000": (with_attributes(NumberOfFrames="1000000000"), "MULTIFRAME"),
    "text for a sequence": (
        with_attributes(SequenceOfUltrasoundRegions="x"),
        "BAD_HEADER",
    ),
}

READ: dict[str, Callable[[Dataset], bytes]] = {
    "a program's head as preamble (PE)": preamble(b"MZ\x90\0"),
    "a program's head as preamble (ELF)": preamble(b"\x7fELF\2\1\1"),
    "no preamble": lambda dataset: file_of(dataset)[132:],
    "wrong group length": lambda dataset: (
        file_of(dataset)[:140] + struct.pack("<I", 3) + file_of(dataset)[144:]
    ),
    "bad offset table": bad_offsets,
    "32 bits": with_bits(32, "<u4"),
    "a palette index out of range": palette,
    "MONOCHROME1": with_attributes(PhotometricInterpretation="MONOCHROME1"),
    "NumberOfFrames 0": with_attributes(NumberOfFrames="0"),
    "unknown character set": odd_characters,
}


def assembled(raw: bytes, sound: Path, reader: GuardedReader, folder: Path) -> tuple[str, Assembly]:
    """The file beside a sound instance of the same study; the sound one's UID, and what was assembled."""
    beside = pydicom.dcmread(sound)
    beside.SOPInstanceUID = beside.file_meta.MediaStorageSOPInstanceUID = "2.25.99"
    (folder / "0.dcm").write_bytes(raw)
    (folder / "1.dcm").write_bytes(file_of(beside))
    return "2.25.99", reader.assemble([folder / "0.dcm", folder / "1.dcm"], folder / "scratch")
