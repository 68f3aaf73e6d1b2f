"""Who an instance is: its UIDs, by walking over the elements in front of them and keeping nothing else.

A data set comes from outside: its elements may claim any length, nest without end and be millions. So nothing is
parsed here, values are skipped in the file, and the walk is bounded (PS3.5 chapter 7 for the encoding).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_WANTED = (_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES)
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_LONGEST_UID = 1024
_MOST_ELEMENTS = 100_000
_PREAMBLE = 128


class UnreadableHeader(ValueError):
    """The data set's beginning is no DICOM; the text has nothing of its content."""


@dataclass(frozen=True)
class Identity:
    """The UIDs of an instance as they stand in its data set, "" where absent."""

    sop_class: str = ""
    sop_instance: str = ""
    study: str = ""
    series: str = ""


def peek(path: Path, transfer_syntax: str) -> Identity:
    """The UIDs in a Part 10 file's data set. Raises UnreadableHeader, or OSError."""
    with path.open("rb") as file:
        head = file.read(_PREAMBLE + 16)
        if head[_PREAMBLE : _PREAMBLE + 12] != b"DICM\x02\x00\x00\x00UL\x04\x00":
            raise UnreadableHeader("no file meta information")
        file.seek(int.from_bytes(head[_PREAMBLE + 12 :], "little"), io.SEEK_CUR)
        return _Walk(file, path.stat().st_size, transfer_syntax).identity()


class _Walk:
    """One pass over a data set."""

    def __init__(self, file: BinaryIO, size: int, transfer_syntax: str) -> None:
        self._file, self._size = file, size
        self._order = ">" if transfer_syntax == ExplicitVRBigEndian else "<"
        self._implicit = transfer_syntax == ImplicitVRLittleEndian
        self._left = _MOST_ELEMENTS

    def identity(self) -> Identity:
        found: dict[int, str] = {}
        while (element := self._next(self._implicit)) is not None:
            tag, vr, length = element
            if tag > _SERIES:
                break
            if tag in _WANTED and length <= _LONGEST_UID:
                found[tag] = self._file.read(length).decode("ascii", "backslashreplace").strip(" \0")
            else:
                self._skip(vr, length)
        return Identity(*(found.get(tag, "") for tag in _WANTED))

    def _next(self, implicit: bool) -> tuple[int, bytes, int] | None:
        """Tag, VR and length of the next element; None at the end of the file."""
        self._left -= 1
        if self._left < 0:
            raise UnreadableHeader(f"more than {_MOST_ELEMENTS} elements before the series")
        head = self._file.read(8)
        if not head:
            return None
        if len(head) < 8:
            raise UnreadableHeader("it ends within an element")
        group, number = struct.unpack(self._order + "HH", head[:4])
        tag, vr = group << 16 | number, head[4:6]
        if implicit or group == 0xFFFE:
            return tag, b"", struct.unpack(self._order + "I", head[4:])[0]
        if vr not in _LONG_VRS:
            return tag, vr, struct.unpack(self._order + "H", head[6:])[0]
        length = self._file.read(4)
        if len(length) < 4:
            raise UnreadableHeader("it ends within an element")
        return tag, vr, struct.unpack(self._order + "I", length)[0]

    def _skip(self, vr: bytes, length: int) -> None:
        """Over a value; one of undefined length is walked through, with a counter in place of recursion."""
        if length != _UNDEFINED:
            if self._file.tell() + length > self._size:
                raise UnreadableHeader("a value reaches past the end")
            self._file.seek(length, io.SEEK_CUR)
            return
        open_parts = [self._implicit or vr == b"UN"]  # PS3.5 section 6.2.2: such a UN is implicit VR within
        while open_parts:
            element = self._next(open_parts[-1])
            if element is None:
                raise UnreadableHeader("a sequence has no end")
            tag, vr, length = element
            if tag in (_ITEM_END, _SEQUENCE_END):
                open_parts.pop()
            elif length == _UNDEFINED:
                open_parts.append(open_parts[-1] or vr == b"UN")
            else:
                self._skip(vr, length)
