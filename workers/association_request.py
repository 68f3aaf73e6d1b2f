"""An A-ASSOCIATE-RQ as we read it: items that we do not know are skipped, as PS3.8 section 9.3.1 has it.

pynetdicom gives up on them, and with them on every peer that is newer than it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Set

_HEADER = 6
_FIXED = _HEADER + 68
"""Up to the variable items: protocol version, the two titles, and what is reserved (PS3.8 table 9-11)."""
_USER_INFORMATION = 0x50
_ITEMS = frozenset((0x10, 0x20, _USER_INFORMATION))
_USER_ITEMS = frozenset(range(0x51, 0x59))


def without_unknown_items(pdu: bytes | bytearray) -> bytes:
    """The request with the items that we know. One whose lengths do not fit stays as it is: it is broken off later."""
    try:
        items = [
            (
                kind,
                b"".join(_encoded(*user) for user in _known(value, _USER_ITEMS))
                if kind == _USER_INFORMATION
                else value,
            )
            for kind, value in _known(bytes(pdu[_FIXED:]), _ITEMS)
        ]
    except ValueError:
        return bytes(pdu)
    body = bytes(pdu[_HEADER:_FIXED]) + b"".join(_encoded(*item) for item in items)
    return bytes(pdu[:2]) + struct.pack(">I", len(body)) + body


def _known(encoded: bytes, kinds: Set[int]) -> Iterator[tuple[int, bytes]]:
    """Type and value of each item of these types. Raises ValueError where one reaches past the end."""
    start = 0
    while start < len(encoded):
        if start + 4 > len(encoded):
            raise ValueError("an item has no header")
        kind, _, length = struct.unpack_from(">BBH", encoded, start)
        end = start + 4 + length
        if end > len(encoded):
            raise ValueError("an item reaches past the end")
        if kind in kinds:
            yield kind, encoded[start + 4 : end]
        start = end


def _encoded(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value
