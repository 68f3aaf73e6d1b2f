"""An instance on its way from the wire to the disk: a Part 10 file that grows with each PDU, and its digest with it.

Memory does not follow the instance's size, and nothing is read again to know what it is (PS3.10 section 7.1).
"""

from __future__ import annotations

import hashlib
import os
import struct
import uuid
from pathlib import Path

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from workers import faults


class InstanceFile:
    """A file in the spool's `incoming`. `size` and `digest` are the data set's, without what we put before it."""

    def __init__(self, folder: Path, sop_class: str, sop_instance: str, transfer_syntax: str) -> None:
        self.path = folder / f"{uuid.uuid4().hex}.dcm"
        self.size = 0
        self._sha = hashlib.sha256()
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._write(_head(sop_class, sop_instance, transfer_syntax))
        except OSError:
            self.drop()
            raise

    @property
    def digest(self) -> str:
        return self._sha.hexdigest()

    def write(self, part: bytes | memoryview) -> None:
        """Adds a part of the data set. Raises OSError where the disk does not take it."""
        faults.point("in_receive")
        self._write(part)
        self._sha.update(part)
        self.size += len(part)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def drop(self) -> None:
        """Closes it and removes what the spool has not taken over."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _write(self, part: bytes | memoryview) -> None:
        while len(part):
            part = part[os.write(self._descriptor, part) :]


def _head(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Preamble and file meta information, as pynetdicom would write them."""
    meta = b"".join(
        (
            b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01",
            _short(0x0002, b"UI", sop_class),
            _short(0x0003, b"UI", sop_instance),
            _short(0x0010, b"UI", transfer_syntax),
            _short(0x0012, b"UI", PYNETDICOM_IMPLEMENTATION_UID),
            _short(0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION),
        )
    )
    return bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(meta)) + meta


def _short(number: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii")
    encoded += (b"\0" if vr == b"UI" else b" ") * (len(encoded) % 2)
    return struct.pack("<HH2sH", 0x0002, number, vr, len(encoded)) + encoded
