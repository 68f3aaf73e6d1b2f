"""One association with a peer: negotiated, without Nagle's delay, released or aborted, its failures told apart."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ssl import SSLContext, SSLEOFError, SSLError, SSLSocket
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import AddressInformation, AssociationSocket

from medpipe.config import Peer, PeerTls
from medpipe.errors import (
    ConfigError,
    ConnectionLost,
    MedpipeError,
    PeerCrowded,
    PeerInsecure,
    PeerRefused,
    PeerUnreachable,
)
from medpipe.pacs.gate import hold_back
from medpipe.tls import distrusts_us, trouble

# Instances go from and to disk in chunks: memory does not follow an instance's size.
_config.STORE_SEND_CHUNKED_DATASET = True
_config.STORE_RECV_CHUNKED_DATASET = True
# Identifiers and data sets are a patient's; they belong in no log.
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"

MAXIMUM_CONTEXTS = 128
"""Presentation context ids are odd numbers in 1..255 (PS3.8 section 9.3.2.2)."""

LONGEST_PDU = 131_072
"""What we receive at most in one PDU; larger than pynetdicom's 16 KiB, so that C-GET is not bound by system calls."""

Handler = tuple[Any, Callable[..., Any]]


def peer_text(peer: Peer) -> str:
    """How a peer is named in messages: ORTHANC at 10.0.0.5:4242."""
    return f"{peer.ae_title} at {peer.host}:{peer.port}"


@contextmanager
def association(
    peer: Peer,
    calling_ae: str,
    contexts: Sequence[PresentationContext],
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[Handler] = (),
    patience: float | None = None,
    tls: SSLContext | None = None,
) -> Iterator[Association]:
    """An established association; released at the end, aborted when the body raises.

    `patience` is how long to wait for each DIMSE answer in seconds (default: the peer's timeout). `tls` is used in
    place of the peer's own settings.
    Raises PeerUnreachable (no answer, connection aborted), PeerCrowded (rejected for now), PeerRefused (rejected for
    good, or no presentation context accepted) or PeerInsecure (no TLS, or a certificate is not trusted).
    """
    ae = _Caller(ae_title=calling_ae)
    if tls is None and peer.tls is not None:
        tls = _as_configured(peer, peer.tls)
    ae.connection_timeout = peer.timeout
    ae.acse_timeout = peer.timeout
    ae.network_timeout = max(peer.timeout, patience or 0)
    ae.dimse_timeout = patience or peer.timeout
    try:
        assoc = ae.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            max_pdu=LONGEST_PDU,
            ext_neg=list(roles),
            tls_args=(tls, _server_name(peer)) if tls is not None else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, ae.opened), (evt.EVT_PDU_RECV, ae.received), *handlers],
        )
    except OSError as error:  # the host's name is unknown
        raise PeerUnreachable(f"{peer_text(peer)}: {error.strerror or error}") from error
    try:
        if not assoc.is_established:
            raise _why_not(peer, ae, assoc)
        hold_back(assoc)
        yield assoc
        if assoc.is_established:
            assoc.release()
    except BaseException:
        assoc.abort()
        raise
    finally:
        ae.close(assoc)


def _as_configured(peer: Peer, tls: PeerTls) -> SSLContext:
    """Read anew for each association, so that renewed files count. In the midst of a renewal, try again later."""
    try:
        return tls.context(f"{peer_text(peer)}: tls")
    except ConfigError as error:
        raise PeerUnreachable(str(error)) from error


def _server_name(peer: Peer) -> str:
    """What the peer's certificate must be for."""
    return (peer.tls.server_name if peer.tls is not None else "") or peer.host


class _SecuredSocket(SSLSocket):
    """Remembers why TLS failed: pynetdicom logs it, and takes the connection for closed.

    In TLS 1.3 the other side judges our certificate after our part of the handshake: its alert comes with what is
    read first.
    """

    failure: OSError | None = None

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError as error:
            self.failure = error
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except SSLError as error:
            self.failure = error
            raise


class _Caller(AE):
    """Our side of one association: no delay in its socket, which is closed in every case, and how far it came."""

    connection: socket.socket | None = None
    connected = False
    rejection: A_ASSOCIATE_RJ | None = None

    def opened(self, _event: evt.Event) -> None:
        self.connected = True

    def received(self, event: evt.Event) -> None:
        # A rejection that comes before pynetdicom looks at its connection is lost to it: noted here as it arrives.
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            self.rejection = event.pdu

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[SSLContext, str] | None
    ) -> AssociationSocket:
        made = super()._create_socket(assoc, address, None)
        if made.socket is not None and tls_args is not None:
            # here, not when it connects as pynetdicom has it: a socket that fails in between is ours to close
            context, name = tls_args
            context.sslsocket_class = _SecuredSocket
            made.socket = context.wrap_socket(made.socket, server_hostname=name)
        if made.socket is not None:
            # Nagle's algorithm and the peer's delayed acknowledgement together cost 40 ms per instance.
            made.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connection = made.socket
        return made

    def close(self, assoc: Association) -> None:
        """pynetdicom leaves a socket open that was refused or that the peer closed first."""
        if assoc.dul.is_alive():
            assoc.dul.join(1)
        if self.connection is not None:
            self.connection.close()


def _why_not(peer: Peer, ae: _Caller, assoc: Association) -> MedpipeError:
    """The error that says why there is no association, and what to do."""
    where = peer_text(peer)
    if ae.rejection is not None:
        if ae.rejection.result == 2:
            return PeerCrowded(f"{where} rejected the association for now: {ae.rejection.reason_str}")
        return PeerRefused(
            f"{where} rejected the association: {ae.rejection.reason_str}; the peer must know {ae.ae_title} as a"
            f" calling AE title, and be called by its own ({peer.ae_title})"
        )
    if assoc.rejected_contexts and not assoc.accepted_contexts:
        return PeerRefused(f"{where} accepts none of the services and objects asked for ({_names(assoc)})")
    failure = ae.connection.failure if isinstance(ae.connection, _SecuredSocket) else None
    if isinstance(failure, SSLError) and not isinstance(failure, SSLEOFError):
        return PeerInsecure(f"{where} {trouble(failure)}", distrusts_us=distrusts_us(failure))
    if failure is not None:
        return PeerUnreachable(f"{where} {trouble(failure)}; it may not speak TLS")
    if ae.connected:
        if isinstance(ae.connection, _SecuredSocket):
            return PeerUnreachable(
                f"{where} broke the association off after the TLS handshake; it may not accept our certificate, or not"
                f" know {ae.ae_title}, or be restarting"
            )
        return PeerUnreachable(
            f"{where} broke the association off; it may not know {ae.ae_title}, or be restarting"
        )
    return PeerUnreachable(f"{where} does not answer; check host, port and firewall")


def _names(assoc: Association) -> str:
    names = {
        str(context.abstract_syntax.name) for context in assoc.rejected_contexts if context.abstract_syntax
    }
    return ", ".join(sorted(names)[:4]) + (", ..." if len(names) > 4 else "")


def status_of(peer: Peer, answer: Dataset, doing: str) -> int:
    """The status of a DIMSE answer. Raises ConnectionLost when there was none (time-out, abort, connection lost)."""
    if "Status" not in answer:
        raise ConnectionLost(f"{peer_text(peer)}: connection lost or no answer in time while {doing}")
    return int(answer.Status)


def echo(peer: Peer, calling_ae: str, tls: SSLContext | None = None) -> float:
    """C-ECHO (PS3.4 annex A); seconds it took. Raises what `association` raises."""
    begin = time.perf_counter()
    with association(peer, calling_ae, [build_context(Verification)], tls=tls) as assoc:
        status = status_of(peer, assoc.send_c_echo(), "waiting for its C-ECHO")
    if status != 0:
        raise PeerRefused(f"{peer_text(peer)} answered C-ECHO with status 0x{status:04X}")
    return time.perf_counter() - begin
