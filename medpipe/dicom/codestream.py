"""What a coded frame says of its own size, read from its first markers before any decoder sees it.

A decoder makes room for what the frame claims, not for what Rows and Columns say: 60,000 x 60,000 in front of twenty
bytes must be refused before that. Knows JPEG and JPEG-LS (ITU-T T.81 B.2.2, T.87 C.2.2) and JPEG 2000 (T.800 A.5.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from rle.rle import decode_segment, parse_header

_JPEG_LS = 0xF7
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), _JPEG_LS} - {0xC4, 0xC8, 0xCC})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN = 0xDA


@dataclass(frozen=True)
class CodedSize:
    """Rows, columns and components of a coded frame; `ends` where its last marker is there, as far as it matters.

    `bits` of a sample in a JPEG; None where the others are left to say so to their decoders.
    """

    rows: int
    columns: int
    components: int
    ends: bool = True
    bits: int | None = None


def coded_size(frame: bytes) -> CodedSize | None:
    """The size that the frame's own header gives, or None where it has none that we know (RLE, for one)."""
    try:
        if frame[:4] == b"\xff\x4f\xff\x51":
            return _jpeg2000(frame, 0)
        if frame[4:8] == b"jP  ":  # a whole JP2 file where a codestream should be: seen, and read by decoders
            start = frame.find(b"\xff\x4f\xff\x51")
            return _jpeg2000(frame, start) if start >= 0 else None
        if frame[:2] == b"\xff\xd8":
            return _jpeg(frame)
    except (struct.error, IndexError):
        pass
    return None


def _jpeg2000(frame: bytes, start: int) -> CodedSize:
    width, height, left, top = struct.unpack_from(">4I", frame, start + 8)
    (components,) = struct.unpack_from(">H", frame, start + 40)
    return CodedSize(height - top, width - left, components)


def _jpeg(frame: bytes) -> CodedSize | None:
    at = 2
    while frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:  # a fill byte, or a marker that stands alone
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _START_OF_FRAME:
            bits, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
            # CharLS looks for the rest of a JPEG-LS frame for ever; the other decoders stop at the last byte
            ends = marker != _JPEG_LS or _END_OF_IMAGE in frame
            return CodedSize(rows, columns, components, ends, bits)
        if marker == _START_OF_SCAN:
            return None
        at += 2 + int(struct.unpack_from(">H", frame, at + 2)[0])
    return None


def decoded_lengths(frame: bytes) -> list[int]:
    """Bytes that each segment of an RLE frame decodes to (PS3.5 annex G). Raises ValueError where it is none."""
    starts = [int(offset) for offset in parse_header(frame[:64]) if offset]
    return [
        len(decode_segment(frame[start:end])) for start, end in zip(starts, [*starts[1:], None], strict=True)
    ]
