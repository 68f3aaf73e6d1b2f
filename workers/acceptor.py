"""The listening socket: accepts connections that find room, and gives each its association."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from ssl import SSLContext, SSLSocket
from typing import Any

from pynetdicom import AE
from pynetdicom.transport import AddressInformation, AssociationServer

from medpipe.logs import Event, about
from workers.dimse import StoreRequest
from workers.reactor import AcceptedAssociation
from workers.wire_guard import Door, Limits

log = logging.getLogger(__name__)

_GOODBYE_SECONDS = 3.0
_POLL_SECONDS = 0.25
_SEND_BUFFER = 64 * 1024
"""Our answers are short; what a peer does not read of them must not pile up in the kernel."""


class _AcceptedSocket(SSLSocket):
    """Closed where its peer has gone already: Python tries to read when it makes one, and leaves it open on failure."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except OSError:
            self.close()
            raise


class Acceptor(AssociationServer):
    """A server whose associations are guarded and have one thread each. Use as a context manager.

    `store` says the status of a C-STORE request whose data set is complete; what it leaves in `incoming` is removed.
    `handlers` are pynetdicom's, for everything else. `shared`: other processes listen on the same port, and the kernel
    spreads the connections over them (SO_REUSEPORT). `tls`: every connection begins with a TLS handshake; `tls_refused`
    is told the address of a caller with whom there was none, and why.
    """

    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        store: Callable[[AcceptedAssociation, StoreRequest], int],
        handlers: list[Any],
        limits: Limits,
        incoming: Path,
        *,
        shared: bool = False,
        tls: SSLContext | None = None,
        tls_refused: Callable[[str, str], None] = lambda address, why: None,
    ) -> None:
        self.limits, self.store, self.incoming = limits, store, incoming
        self.tls_refused = tls_refused
        self.door = Door(limits)
        self._shared = shared
        if tls is not None:
            tls.sslsocket_class = _AcceptedSocket
        super().__init__(ae, address, ae.ae_title, ae.supported_contexts, tls, handlers)
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_POLL_SECONDS,), name="acceptor", daemon=True
        )

    def __enter__(self) -> Acceptor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes no more connections, and aborts those there are: the peers keep what was not acknowledged."""
        super(AssociationServer, self).shutdown()
        self.server_close()
        for association in self.active_associations:
            association.abort()
        until = time.monotonic() + _GOODBYE_SECONDS
        for association in self.active_associations:
            association.join(max(0.0, until - time.monotonic()))

    def server_bind(self) -> None:
        if self._shared and self.socket is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        """A connection that has just come; its TLS handshake is left to its own thread, and holds up no other."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Nothing has been read of the connection yet."""
        return self.door.enter(request, client_address[0])

    def process_request(self, request: Any, client_address: Any) -> None:
        try:
            # Nagle's algorithm and delayed acknowledgements together cost 40 ms per instance
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            association = AcceptedAssociation(self, request, client_address[0])
            self._introduce(association, client_address)
            association.start()
        except BaseException:
            self.door.leave(request)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception(
            "a connection from %s could not be served", client_address[0],
            extra=about(Event.CONNECTION_BROKEN, address=client_address[0]),
        )  # fmt: skip

    def _introduce(self, association: AcceptedAssociation, client_address: Any) -> None:
        """Who we are and what we support. The contexts are only read in the negotiation, so all share them."""
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.ae_title
        acceptor.address_info = AddressInformation.from_tuple(self.server_address)
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = self.contexts
        association.requestor.address_info = AddressInformation.from_tuple(client_address)
        for event, handlers in self._handlers.items():
            for handler in [handlers] if isinstance(handlers, tuple) else handlers:
                if handler[0] is not None:
                    association.bind(event, *handler)
