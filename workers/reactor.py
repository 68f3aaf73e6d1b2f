"""An accepted association in one thread: pynetdicom's state machine, negotiation and services, without its polling.

pynetdicom runs two threads per association that look at each other's queues a thousand times a second, and reads on
while earlier requests still wait. Here a PDU is read, the state machine moves, and what that brought is answered before
the next PDU is read: an instance takes no detours, an idle association costs nothing, a flood is throttled by TCP.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO, N_EVENT_REPORT
from pynetdicom.pdu import A_ABORT_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA

from medpipe.logs import Event, about
from workers import command_set
from workers.association_request import without_unknown_items
from workers.dimse import Dimse, StoreRequest
from workers.wire_guard import GuardedSocket, HandshakeFault, Limits, WireFault

if TYPE_CHECKING:
    from workers.acceptor import Acceptor

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 0.1
"""How long a thread that waits for its peer stays deaf to us: an abort at shutdown, a timer."""
_ASSOCIATE_RQ, _P_DATA = 0x01, 0x04
_SMALLEST_PEER_PDU = 1024
"""A C-STORE response fits in it whatever its UIDs; no implementation is known to ask for so little."""
_REJECTED_TRANSIENT, _BY_PRESENTATION_PROVIDER, _LOCAL_LIMIT_EXCEEDED = 2, 3, 2
_REJECTED_PERMANENT, _BY_SERVICE_USER, _NO_REASON_GIVEN = 1, 1, 1


class AcceptedAssociation(Association):
    """The thread of one connection, from its acceptance to its end. Whatever the peer does, it ends in order."""

    def __init__(self, server: Acceptor, connection: socket.socket, address: str) -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        self.name = f"AcceptorThread@{address}"
        self._server: Acceptor = server
        self._address = address
        self.limit_exceeded = False
        self.limits: Limits = server.limits
        self._connection = connection
        self._wire = GuardedSocket(self, connection, server.limits)
        self.set_socket(self._wire)
        self.dimse: Dimse = Dimse(self, server.incoming)

    def run_reactor(self) -> None:
        """The thread: until the state machine is idle again, whoever ended it and however."""
        try:
            self.dul._idle_timer.start()
            while not self.dul._kill_thread:
                self._turn()
        except HandshakeFault as fault:
            self._break_off(str(fault))
            self._server.tls_refused(self._address, str(fault))
        except WireFault as fault:
            self._break_off(str(fault))
        except OSError as error:  # the spool's disk: the peer still has its instance
            self._break_off(f"an instance cannot be written ({error.strerror})")
        except Exception as error:  # what pynetdicom makes of nonsense
            self._break_off(f"the peer's messages cannot be understood ({type(error).__name__})")
        finally:
            self.is_established = False
            with contextlib.suppress(OSError):
                self.dimse.drop_unfinished()
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()
            self._server.door.leave(self._connection)

    def _turn(self) -> None:
        """One event of the state machine (PS3.8 section 9.2), and what it brought for us."""
        dul = self.dul
        if dul.event_queue.empty() and not dul._process_recv_primitive():
            self._listen()
        if dul.event_queue.empty():
            return
        dul.state_machine.do_action(dul.event_queue.get())
        if self.requestor.primitive is None and isinstance(dul.peek_next_pdu(), A_ASSOCIATE):
            self._negotiate()
        while (request := self.dimse.get_msg(block=False))[1] is not None:
            self._serve_request(request[1], request[0])
        if self.is_established and self.acse.is_release_requested():
            self.acse.send_release(is_response=True)
            self.is_released, self.is_established = True, False
            evt.trigger(self, evt.EVT_RELEASED, {})

    def _listen(self) -> None:
        """Waits a moment for the peer; turns what came, or its silence, into an event."""
        dul = self.dul
        try:
            pdu = self._wire.receive(_PATIENCE_SECONDS)
        except EOFError:
            dul.event_queue.put("Evt17")  # transport connection closed
            return
        if pdu is not None:
            dul._idle_timer.restart()
            self._decode(pdu)
        elif dul.state_machine.current_state == "Sta13":
            self._wire.close()  # the peer had its moment to close it
        elif dul.artim_timer.expired:
            dul.event_queue.put("Evt18")
        elif self.is_established and dul.idle_timer_expired():
            log.info(
                "an association from %s was idle for too long",
                self._address,
                extra=about(Event.CONNECTION_BROKEN, address=self._address),
            )
            self.abort()

    def _decode(self, pdu: bytearray) -> None:
        if pdu[0] == _P_DATA:
            self.dul._recv_pdu.put(_ReceivedData(pdu))
            self.dul.event_queue.put("Evt10")
            return
        if pdu[0] == _ASSOCIATE_RQ:
            pdu = bytearray(without_unknown_items(pdu))
        decoded, event = self.dul._decode_pdu(pdu)
        self.dul._recv_pdu.put(decoded)
        self.dul.event_queue.put(event)

    def _negotiate(self) -> None:
        self.requestor.primitive = cast(A_ASSOCIATE, self.dul.receive_pdu(wait=False))
        length = self.requestor.maximum_length
        if length is not None and 0 < length < _SMALLEST_PEER_PDU:
            self._reject(_REJECTED_PERMANENT, _BY_SERVICE_USER, _NO_REASON_GIVEN)
        elif not self._server.door.associate(self._connection):
            self.limit_exceeded = True
            self._reject(_REJECTED_TRANSIENT, _BY_PRESENTATION_PROVIDER, _LOCAL_LIMIT_EXCEEDED)
        else:
            self.acse.negotiate_association()

    def _reject(self, *reason: int) -> None:
        self.acse.send_reject(*reason)
        self.is_rejected = True
        evt.trigger(self, evt.EVT_REJECTED, {})

    def store(self, request: StoreRequest) -> None:
        """Answers a C-STORE request whose data set is complete."""
        status = self._server.store(self, request)
        answer = P_DATA()
        value = b"\x03" + command_set.store_response(request.elements, status)
        answer.presentation_data_value_list.append((request.context_id, value))
        self.dul.send_pdu(answer)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Answers any other request, in this thread; pynetdicom starts a thread of its own for reports."""
        if threading.current_thread() is not self:
            self.dimse.msg_queue.put((context_id, msg))
        elif not msg.is_valid_request:  # pynetdicom would say nothing, and the peer wait for its answer
            raise WireFault(f"its {msg.msg_type} lacks what a request must have")
        elif isinstance(msg, C_ECHO | N_EVENT_REPORT):
            context = self._accepted_cx.get(context_id)
            if context is None or context.abstract_syntax != msg.AffectedSOPClassUID:
                raise WireFault(f"its {msg.msg_type} is not of the SOP class of its presentation context")
            super()._serve_request(msg, context_id)
        else:
            raise WireFault(f"it asked for a {type(msg).__name__.replace('_', '-')}, which we do not offer")

    def _abort_blocking(self, block: bool = True) -> None:
        """Aborting is asking for it: the thread that would have to be waited for is this one."""
        super()._abort_blocking(block=False)

    def _break_off(self, reason: str) -> None:
        """An A-ABORT past the state machine, which may be part of the trouble."""
        log.warning(
            "the connection from %s was broken off: %s", self._address, reason,
            extra=about(Event.CONNECTION_BROKEN, address=self._address, reason=reason),
        )  # fmt: skip
        abort = A_ABORT_RQ()
        abort.source, abort.reason_diagnostic = 0x02, 0x00
        self._wire.send(abort.encode())
        self.is_aborted = True


class _ReceivedData(P_DATA_TF):
    """A P-DATA-TF PDU (PS3.8 section 9.3.5). An item that does not fit in it is a fault."""

    def __init__(self, pdu: bytearray) -> None:
        super().__init__()
        self._primitive = P_DATA()
        values: list[Any] = self._primitive.presentation_data_value_list  # of views into the PDU
        start, whole = 6, memoryview(pdu)
        while start < len(pdu):
            length = int.from_bytes(whole[start : start + 4], "big")
            end = start + 4 + length
            if length < 2 or end > len(pdu):
                raise WireFault("a presentation data value does not fit in its PDU")
            values.append((pdu[start + 4], whole[start + 5 : end]))
            start = end

    def to_primitive(self) -> P_DATA:
        return self._primitive
