"""What a peer may do to the wire: whole PDUs only, none too large or too slow, and not too many connections.

pynetdicom reads as many bytes as a PDU claims to have, for as long as they keep coming, and counts associations only
after their request has been read. Here the length is judged by the first six bytes, each PDU has a deadline, and
connections are counted before anything is read from them (PS3.8 section 9.3 for the PDUs).
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from medpipe.logs import Event, about
from medpipe.tls import trouble

log = logging.getLogger(__name__)

_HEADER = 6
_P_DATA = 0x04
_PDU_TYPES = range(0x01, 0x08)
_SHORT_PDU = 4
"""Length of the release and abort PDUs, which carry nothing (types 0x05 to 0x07)."""
_CONTROL_PDU = 256 * 1024
_ROOM_SECONDS = 0.2
_QUIET_SECONDS = 10.0
_ALERT_SECONDS = 1.0


@dataclass(frozen=True)
class Limits:
    """`p_data`: bytes of a P-DATA-TF PDU, as advertised. `pdu_seconds`: from a PDU's first byte to its last."""

    p_data: int
    pdu_seconds: float
    connections: int
    connections_per_address: int
    associations: int
    silence: float
    """Seconds that an association may be silent, and that a message may always take."""
    least_rate: int
    """Bytes a second: how much longer a larger message may take."""
    instance: int
    """Bytes of one data set that goes to a file."""
    command: int = 64 * 1024
    """Bytes of a command set, which is held in memory."""
    report: int = 1024 * 1024
    """Bytes of a data set that is held in memory (storage commitment reports)."""


class WireFault(Exception):
    """A peer broke the rules of the wire: its association is aborted. The text has nothing of what it sent."""


class HandshakeFault(WireFault):
    """No TLS with a caller; the text follows "it"."""


class GuardedSocket(AssociationSocket):
    """An accepted connection that gives whole PDUs within the limits, and nothing else."""

    def __init__(self, association: Association, connection: socket.socket, limits: Limits) -> None:
        super().__init__(association, client_socket=connection)
        self._limits = limits
        self._buffer = bytearray(_HEADER)
        self._filled = 0
        self._deadline = 0.0
        self._handshaken = not isinstance(connection, ssl.SSLSocket)

    def receive(self, patience: float) -> bytearray | None:
        """The next PDU; None if it is not all here within `patience` seconds (what has come is kept).

        The first calls make the TLS handshake; how long that may take is the state machine's ARTIM timer, as for the
        association request. Raises WireFault for a PDU that is too large, too slow or of no known type,
        HandshakeFault for a handshake that fails, EOFError where the peer has gone.
        """
        if not self._handshaken and not self._handshake(patience):
            return None
        end = time.monotonic() + patience
        while True:
            now = time.monotonic()
            if self._filled and now >= self._deadline:
                raise WireFault(f"a PDU took longer than {self._limits.pdu_seconds:g} s")
            if now >= end:
                return None
            wait = min(end, self._deadline) - now if self._filled else end - now
            if self._read(wait) and self._filled == len(self._buffer):
                pdu, self._buffer, self._filled = self._buffer, bytearray(_HEADER), 0
                return pdu

    def _handshake(self, seconds: float) -> bool:
        """Whether the TLS handshake is done; it goes on with the next call. Raises HandshakeFault, EOFError."""
        if not isinstance(self.socket, ssl.SSLSocket):
            raise EOFError
        try:
            self.socket.settimeout(seconds)
            self.socket.do_handshake()
        except TimeoutError:
            return False
        except ssl.SSLEOFError as error:
            raise EOFError from error
        except ssl.SSLError as error:
            self._leave_time_for_alert()
            raise HandshakeFault(f"it {trouble(error)}") from error
        except OSError as error:
            raise EOFError from error
        self._handshaken = True
        return True

    def _leave_time_for_alert(self) -> None:
        """A connection that is closed with bytes unread is reset, and the reset overtakes the alert that says why."""
        assert self.socket is not None
        end = time.monotonic() + _ALERT_SECONDS
        try:  # of the plain socket beneath: TLS is over
            socket.socket.shutdown(self.socket, socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0:
                self.socket.settimeout(left)
                if not socket.socket.recv(self.socket, 4096):
                    return
        except OSError:
            pass

    def _read(self, seconds: float) -> bool:
        if self.socket is None:
            raise EOFError
        try:
            self.socket.settimeout(seconds)
            count = self.socket.recv_into(memoryview(self._buffer)[self._filled :])
        except TimeoutError:
            return False
        except OSError as error:
            raise EOFError from error
        if count == 0:
            raise EOFError
        if not self._filled:
            self._deadline = time.monotonic() + self._limits.pdu_seconds
            if self._buffer[0] not in _PDU_TYPES:
                raise WireFault(f"0x{self._buffer[0]:02X} is no PDU type")
        self._filled += count
        if self._filled == len(self._buffer) == _HEADER:
            self._buffer += bytes(self._length())
        return True

    def _length(self) -> int:
        """What the header claims. Only now is memory taken for it."""
        kind, length = self._buffer[0], int.from_bytes(self._buffer[2:_HEADER], "big")
        allowed = self._limits.p_data if kind == _P_DATA else _CONTROL_PDU if kind < _P_DATA else _SHORT_PDU
        if length > allowed:
            raise WireFault(f"a PDU of type {kind} claims {length} bytes; {allowed} are allowed")
        return length

    def send(self, bytestream: bytes) -> None:
        """Sends a PDU, or says that the connection is lost: also when the peer does not take it in time."""
        if self.socket is not None and self._handshaken:
            try:
                self.socket.settimeout(self._limits.pdu_seconds)
                self.socket.sendall(bytestream)
                return
            except OSError:
                pass
        self.event_queue.put("Evt17")


class Door:
    """Counts connections, all together and by address, before anything is read from them.

    Where there is no room, the connection that has kept its association request to itself for longest is closed in
    favour of the new one: idle connections cannot keep anybody out.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        self._waiting: dict[socket.socket, str] = {}
        self._associated: dict[socket.socket, str] = {}
        self._turned_away = 0
        self._said = -_QUIET_SECONDS

    def enter(self, connection: socket.socket, address: str) -> bool:
        """Whether there is room for one more connection from `address`."""
        with self._changed:
            if not self._room(address):
                made = self._close_longest_waiting(address)
                if not made or not self._changed.wait_for(lambda: self._room(address), _ROOM_SECONDS):
                    self._say(address)
                    return False
            self._waiting[connection] = address
            return True

    def associate(self, connection: socket.socket) -> bool:
        """Whether there is room for one more association; the connection is then safe from being closed for others.

        A fifth is kept for other addresses: associations may last, and one sender must not be everybody.
        """
        with self._changed:
            most = self._limits.associations
            of_address = list(self._associated.values()).count(self._waiting[connection])
            if len(self._associated) >= most or of_address >= most - most // 5:
                return False
            self._associated[connection] = self._waiting.pop(connection)
            return True

    def leave(self, connection: socket.socket) -> None:
        with self._changed:
            self._waiting.pop(connection, None)
            self._associated.pop(connection, None)
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting) + len(self._associated)

    def _room(self, address: str) -> bool:
        held = [*self._waiting.values(), *self._associated.values()]
        return (
            len(held) < self._limits.connections
            and held.count(address) < self._limits.connections_per_address
        )

    def _close_longest_waiting(self, address: str) -> bool:
        """Its own thread sees the end of the connection and leaves. False where there is none to close."""
        held = [*self._waiting.values(), *self._associated.values()]
        crowded = held.count(address) >= self._limits.connections_per_address
        for connection, other in self._waiting.items():  # in the order in which they came
            if not crowded or other == address:
                try:
                    # not SSLSocket's own, which would take TLS away under the other thread's hands
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
                except OSError:
                    continue  # it has gone by itself
                return True
        return False

    def _say(self, address: str) -> None:
        """A flood must not fill the log."""
        self._turned_away += 1
        if time.monotonic() - self._said >= _QUIET_SECONDS:
            log.warning(
                "no room for more connections (%d turned away, the last from %s); see listener.maximum_connections",
                self._turned_away,
                address,
                extra=about(Event.CONNECTION_REFUSED, number=self._turned_away, address=address),
            )
            self._said, self._turned_away = time.monotonic(), 0
