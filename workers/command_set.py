"""DIMSE command sets as bytes: read as far as C-STORE needs them, and its response written.

PS3.7 sections 6.3.1 and 9.3.1; always implicit VR little endian. Hand-written because both happen once per instance,
where pydicom's general way costs more than receiving the pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

AFFECTED_SOP_CLASS_UID = 0x00000002
COMMAND_FIELD = 0x00000100
MESSAGE_ID = 0x00000110
MESSAGE_ID_BEING_RESPONDED_TO = 0x00000120
COMMAND_DATA_SET_TYPE = 0x00000800
STATUS = 0x00000900
AFFECTED_SOP_INSTANCE_UID = 0x00001000

C_STORE_RQ = 0x0001
C_STORE_RSP = 0x8001
NO_DATA_SET = 0x0101

_LONGEST_UID = 64


def parse(encoded: bytes | bytearray) -> dict[int, bytes]:
    """Tag -> value. Raises ValueError where an element reaches past the end."""
    elements: dict[int, bytes] = {}
    start = 0
    while start < len(encoded):
        if start + 8 > len(encoded):
            raise ValueError("a command set ends within an element")
        group, number, length = struct.unpack_from("<HHI", encoded, start)
        end = start + 8 + length
        if end > len(encoded):
            raise ValueError("a command set's value reaches past its end")
        elements[group << 16 | number] = bytes(encoded[start + 8 : end])
        start = end
    return elements


def number(elements: Mapping[int, bytes], tag: int) -> int | None:
    """A US value; None where it is absent or no US."""
    value = elements.get(tag, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def text(elements: Mapping[int, bytes], tag: int) -> str:
    """A UI value without its padding, "" where it is absent."""
    return elements.get(tag, b"").decode("ascii", "backslashreplace").rstrip(" \0")


def store_response(elements: Mapping[int, bytes], status: int) -> bytes:
    """The C-STORE-RSP to a request, its UIDs as they came; it fits into any peer's PDU."""
    answer = b"".join(
        (
            _echoed(elements, AFFECTED_SOP_CLASS_UID),
            _element(COMMAND_FIELD, struct.pack("<H", C_STORE_RSP)),
            _element(MESSAGE_ID_BEING_RESPONDED_TO, elements.get(MESSAGE_ID, b"")),
            _element(COMMAND_DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)),
            _element(STATUS, struct.pack("<H", status)),
            _echoed(elements, AFFECTED_SOP_INSTANCE_UID),
        )
    )
    return _element(0x00000000, struct.pack("<I", len(answer))) + answer


def _echoed(elements: Mapping[int, bytes], tag: int) -> bytes:
    """A UID of the request; nothing where it is too long for one: an answer need not have it (PS3.7 table 9.1-2)."""
    value = elements.get(tag, b"")
    return _element(tag, value) if len(value) <= _LONGEST_UID else b""


def _element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
