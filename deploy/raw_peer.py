"""A DICOM peer made of bytes: what a broken or hostile sender can put on the wire, which no library would (PS3.8).

For tests and benchmarks of the listener. PDUs are built here as they should be; who uses them breaks them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from types import TracebackType

VERIFICATION = "1.2.840.10008.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
COMMITMENT = "1.2.840.10008.1.20.1"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

Context = tuple[int, str, Sequence[str]]
"""Presentation context id, abstract syntax, transfer syntaxes."""

CONTEXTS: tuple[Context, ...] = ((1, VERIFICATION, (IMPLICIT,)), (3, SECONDARY_CAPTURE, (EXPLICIT,)))

ACCEPTED, REJECTED, DATA, RELEASED, ABORTED = 2, 3, 4, 6, 7
"""PDU types of the answers."""


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A PDU; `length` is what it claims, its body's length unless given."""
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate(
    contexts: Iterable[Context] = CONTEXTS,
    *,
    called: str | bytes = "MEDPIPE",
    calling: str | bytes = "MODALITY",
    maximum_pdu: int = 16384,
    more: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ; `more` is put among the user information's items."""
    titles = [
        (title.encode() if isinstance(title, str) else title).ljust(16)[:16] for title in (called, calling)
    ]
    user = item(0x51, struct.pack(">I", maximum_pdu)) + item(0x52, b"2.25.1") + more
    items = [item(0x10, b"1.2.840.10008.3.1.1.1")]
    for number, abstract, syntaxes in contexts:
        parts = item(0x30, abstract.encode()) + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
        items.append(item(0x20, bytes((number, 0, 0, 0)) + parts))
    items.append(item(0x50, user))
    return pdu(1, struct.pack(">HH", 1, 0) + titles[0] + titles[1] + bytes(32) + b"".join(items))


def p_data(context: int, header: int, value: bytes) -> bytes:
    """A P-DATA-TF PDU with one value; header 3 is a whole command, 2 the last (or only) part of a data set."""
    return pdu(4, struct.pack(">IBB", len(value) + 2, context, header) + value)


def command(elements: dict[int, bytes]) -> bytes:
    """A command set, with its group length."""
    body = b"".join(element(0, number, value) for number, value in sorted(elements.items()))
    return element(0, 0, struct.pack("<I", len(body))) + body


def element(group: int, number: int, value: bytes) -> bytes:
    """An element in implicit VR little endian, its value padded with NUL."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", group, number, len(value)) + value


def explicit(group: int, number: int, vr: str, value: bytes) -> bytes:
    """An element in explicit VR little endian."""
    value += (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(value) % 2)
    if vr in ("OB", "OW", "SQ", "UN", "UT"):
        return struct.pack("<HH2sHI", group, number, vr.encode(), 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr.encode(), len(value)) + value


def us(value: int) -> bytes:
    return struct.pack("<H", value)


def c_echo(message_id: int = 1, context: int = 1) -> bytes:
    body = {0x0002: VERIFICATION.encode(), 0x0100: us(0x30), 0x0110: us(message_id), 0x0800: us(0x0101)}
    return p_data(context, 3, command(body))


def c_store(
    instance: bytes, data: bytes, *, message_id: int = 1, context: int = 3, sop_class: str = SECONDARY_CAPTURE
) -> list[bytes]:
    """The command and the data set of a C-STORE request, in PDUs of at most 16 KiB."""
    body = {
        0x0002: sop_class.encode(),
        0x0100: us(0x0001),
        0x0110: us(message_id),
        0x0700: us(0),
        0x0800: us(1),
        0x1000: instance,
    }
    parts = [data[start : start + 16000] for start in range(0, len(data), 16000)] or [b""]
    values = [p_data(context, 0, part) for part in parts[:-1]] + [p_data(context, 2, parts[-1])]
    return [p_data(context, 3, command(body)), *values]


def data_set(
    instance: bytes = b"2.25.100",
    *,
    study: bytes = b"2.25.101",
    series: bytes = b"2.25.102",
    name: bytes = b"Nobody",
    charset: bytes = b"",
    pixels: bytes = bytes(1000),
) -> bytes:
    """A Secondary Capture data set in explicit VR little endian, values as given."""
    return b"".join(
        (
            explicit(0x0008, 0x0005, "CS", charset) if charset else b"",
            explicit(0x0008, 0x0016, "UI", SECONDARY_CAPTURE.encode()),
            explicit(0x0008, 0x0018, "UI", instance),
            explicit(0x0010, 0x0010, "PN" if len(name) < 65536 else "UT", name),
            explicit(0x0020, 0x000D, "UI", study),
            explicit(0x0020, 0x000E, "UI", series),
            explicit(0x7FE0, 0x0010, "OB", pixels),
        )
    )


RELEASE = pdu(5, bytes(4))
ABORT = pdu(7, bytes(4))


class RawPeer:
    """One connection. Use as a context manager."""

    def __init__(
        self, port: int, *, address: str = "127.0.0.1", seconds: float = 20, receive_buffer: int = 0
    ) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(seconds)
        self.socket.bind((address, 0))
        self.socket.connect(("127.0.0.1", port))

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *pdus: bytes) -> None:
        """Sends bytes; an end of the connection by the other side is left for `answer` to find."""
        try:
            for part in pdus:
                self.socket.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def answer(self) -> tuple[int, bytes]:
        """Type and body of the next PDU; (0, b"") where the other side has closed the connection."""
        header = self._read(6)
        if len(header) < 6:
            return 0, b""
        return header[0], self._read(int.from_bytes(header[2:], "big"))

    def ask(self, *pdus: bytes) -> int:
        """Sends PDUs; the type of the answer."""
        self.send(*pdus)
        return self.answer()[0]

    def status(self) -> int | None:
        """The status of the next DIMSE response; None where none comes any more."""
        kind, body = self.answer()
        at = body.find(b"\x00\x00\x00\x09\x02\x00\x00\x00")
        return int.from_bytes(body[at + 8 : at + 10], "little") if kind == DATA and at >= 0 else None

    def reset(self) -> None:
        """Ends the connection with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _read(self, count: int) -> bytes:
        got = b""
        try:
            while len(got) < count and (part := self.socket.recv(count - len(got))):
                got += part
        except ConnectionResetError:
            pass
        return got
