"""The segments of a JPEG file (ITU-T T.81 annex B): how the picture is coded, and the stream without metadata."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

_SOI, _EOI, _SOS, _APP0, _APP14, _COM, _DNL = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE, 0xFE, 0xDC
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)


class BrokenJpeg(ValueError):
    """The bytes are no complete JPEG file."""


@dataclass(frozen=True)
class JpegStream:
    """A coded picture. `process` is the SOF number (0 baseline, 2 progressive), `sampling` (h, v) per component.

    `colour` is how the components are to be read: "grey", "ycc", "rgb" (said by Adobe's marker), "unsure" or "cmyk".
    `clean` is the stream with nothing but what decoding needs: no EXIF, comments, thumbnails, trailers.
    """

    rows: int
    columns: int
    precision: int
    process: int
    sampling: tuple[tuple[int, int], ...]
    colour: str
    clean: bytes

    @property
    def subsampled(self) -> bool:
        return len(set(self.sampling)) > 1


def read_jpeg(raw: bytes) -> JpegStream:
    """Walks through the segments to the end of the first picture. Raises BrokenJpeg."""
    if raw[:2] != b"\xff\xd8":
        raise BrokenJpeg("the file does not begin as a JPEG")
    kept = bytearray(raw[:2])
    frame: bytes | None = None
    process, adobe, jfif = -1, -1, False
    place = 2
    while True:
        found = _NEXT_MARKER.match(raw, place)
        if found is None:
            raise BrokenJpeg("the JPEG is cut short or damaged")
        marker, place = found.group(1)[0], found.end()
        if marker == _EOI:
            kept += b"\xff\xd9"
            break
        length = int.from_bytes(raw[place : place + 2], "big")
        body, place = raw[place + 2 : place + length], place + length
        if length < 2 or place > len(raw):
            raise BrokenJpeg("the JPEG is cut short or damaged")
        if marker in _FRAMES:
            if frame is not None:
                raise BrokenJpeg("the JPEG holds several frames")
            frame, process = body, marker - 0xC0
        if marker == _APP0 and body[:5] == b"JFIF\0" and len(body) >= 14:
            jfif, body = True, body[:12] + b"\0\0"  # without its thumbnail
        elif marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif _APP0 <= marker <= 0xEF or marker == _COM:
            continue
        kept += bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body
        if marker == _SOS:
            after = _NEXT_MARKER.search(raw, place)
            if after is None:
                raise BrokenJpeg("the JPEG is cut short")
            kept += raw[place : after.start()]
            place = after.start()
    if frame is None or len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise BrokenJpeg("the JPEG has no frame header")
    precision, rows, columns, count = struct.unpack(">BHHB", frame[:6])
    components = [frame[6 + 3 * n : 9 + 3 * n] for n in range(count)]
    return JpegStream(
        rows=rows,
        columns=columns,
        precision=precision,
        process=process,
        sampling=tuple((item[1] >> 4, item[1] & 15) for item in components),
        colour=_colour(bytes(item[0] for item in components), jfif, adobe),
        clean=bytes(kept),
    )


def _colour(ids: bytes, jfif: bool, adobe: int) -> str:
    """As libjpeg decides (jdapimin.c, default_decompress_parms): JFIF first, then Adobe, then the component ids."""
    if len(ids) == 1:
        return "grey"
    if len(ids) != 3:
        return "cmyk"
    if jfif or adobe == 1:
        return "ycc"
    if adobe == 0:
        return "rgb"
    return "ycc" if ids == b"\1\2\3" else "unsure"
