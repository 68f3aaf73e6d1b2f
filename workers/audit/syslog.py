"""Audit messages on the wire: syslog (RFC 5424) over TLS (RFC 5425) or UDP (RFC 5426), as PS3.15 A.6 wants it."""

from __future__ import annotations

import fcntl
import socket
import ssl
import sys
import termios
import time
from collections.abc import Sequence
from ssl import SSLContext
from xml.etree import ElementTree as ET

from medpipe.config import Audit
from medpipe.errors import PeerInsecure, PeerUnreachable
from medpipe.tls import distrusts_us, trouble
from workers.audit.events import event_of
from workers.audit.message import as_text, date_time
from workers.audit.trail import Record

_SECURITY = 10
"""The facility; PS3.15 A.6 has it so."""
_NOTICE, _WARNING, _ERROR = 5, 4, 3
_SEVERITY = {0: _NOTICE, 4: _WARNING, 8: _ERROR}
_MESSAGE_ID = "DICOM+RFC3881"
_BYTE_ORDER_MARK = "\ufeff"
_SECONDS = 20.0
_PACE_SECONDS = 0.005
"""Between datagrams: a receiver's buffer holds a few hundred, and what finds it full is lost (RFC 5426 section 4.3)."""


def syslog_message(record: Record, message: ET.Element, host: str) -> bytes:
    """One record as a syslog message: <priority>1 time host app process message-id structured-data text."""
    priority = _SECURITY * 8 + _SEVERITY[event_of(record.what).outcome]
    head = f"<{priority}>1 {date_time(record.at)} {_word(host)} medpipe {record.number} {_MESSAGE_ID} - "
    return (head + _BYTE_ORDER_MARK + '<?xml version="1.0" encoding="UTF-8"?>' + as_text(message)).encode()


def send(settings: Audit, messages: Sequence[bytes]) -> None:
    """Sends some messages to the repository. Raises PeerUnreachable or PeerInsecure; some may have arrived then.

    Over TLS the connection is closed by both sides in the end, so that the repository has read what it was sent (a
    syslog receiver answers nothing else). Over UDP nobody knows.
    """
    if settings.repository.startswith("udp:"):
        _send_datagrams(settings.address, messages)
    else:
        assert settings.tls is not None
        name = settings.tls.server_name or settings.address[0]
        _send_secured(settings.address, settings.tls.context("audit.tls"), name, messages)


def _send_datagrams(address: tuple[str, int], messages: Sequence[bytes]) -> None:
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, where = found[0]
        with socket.socket(family, kind, protocol) as sender:
            sender.connect(where)
            for one in messages:
                sender.send(one)
                time.sleep(_PACE_SECONDS)
    except OSError as error:
        raise _away(address, error) from error


def _send_secured(address: tuple[str, int], tls: SSLContext, name: str, messages: Sequence[bytes]) -> None:
    try:
        plain = socket.create_connection(address, _SECONDS)
    except OSError as error:
        raise _away(address, error) from error
    try:
        with tls.wrap_socket(plain, server_hostname=name) as connection:
            for one in messages:
                connection.sendall(b"%d %s" % (len(one), one))  # RFC 5425 section 4.3: octet counting
            _part(connection)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise _away(address, ConnectionResetError(0, "it closed the connection")) from error
    except ssl.SSLError as error:
        sentence = f"the audit record repository at {address[0]}:{address[1]} {trouble(error)}"
        raise PeerInsecure(sentence, distrusts_us=distrusts_us(error)) from error
    except OSError as error:
        raise _away(address, error) from error


def _part(connection: ssl.SSLSocket) -> None:
    """Closes TLS and waits for the other side to do the same: by then it has read everything before.

    Some close without a word; then its TCP must have acknowledged everything, too. One that does not close in time may
    not even have looked at our certificate yet (TLS 1.3): nothing counts as delivered. Raises OSError.
    """
    try:
        connection.unwrap()
    except ssl.SSLEOFError:
        pass
    except ssl.SSLError as error:
        if error.reason != "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":  # TLS 1.3: a late ticket
            raise
    if _unacknowledged(connection):
        raise ConnectionResetError(0, "it closed the connection before all was read")


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes that we have sent and the other side's TCP has not acknowledged (Linux: SIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def _away(address: tuple[str, int], error: OSError) -> PeerUnreachable:
    return PeerUnreachable(
        f"the audit record repository at {address[0]}:{address[1]} does not answer ({error.strerror or 'time is up'})"
    )


def _word(text: str) -> str:
    """A header field of RFC 5424: printable ASCII without spaces."""
    return "".join(c for c in text if "!" <= c <= "~")[:255] or "-"
