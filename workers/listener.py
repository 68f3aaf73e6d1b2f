"""The DICOM listener: C-ECHO, C-STORE and storage commitment reports. It touches only files, never the database.

An instance is acknowledged (0x0000) when its bytes and its sidecar are durable, and not before. Memory does not follow
an instance's size: the data set goes to a file in the spool while it comes in.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from medpipe.config import Config
from medpipe.errors import IntegrityError, StorageError
from medpipe.identity import resembles_uid
from medpipe.logs import Event, about
from medpipe.pacs import add_commitment_context, parse_commitment_report
from medpipe.pacs.syntaxes import MESSAGES
from workers import faults
from workers.acceptor import Acceptor
from workers.audit import Notices, active
from workers.commitments import keep_report
from workers.dimse import StoreRequest
from workers.instance_file import InstanceFile
from workers.peek import Identity, UnreadableHeader, peek
from workers.presentation import STORAGE_CLASSES, TRANSFER_SYNTAXES
from workers.reactor import AcceptedAssociation
from workers.shared_port import SharedPort
from workers.spool import Arrival, Spool
from workers.wire_guard import Limits

log = logging.getLogger(__name__)

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000
PROCESSING_FAILURE = 0x0110
INVALID_ARGUMENT = 0x0115
INVALID_SOP_INSTANCE = 0x0117
SOP_CLASS_NOT_SUPPORTED = 0x0122

_LARGEST_PDU = 1 << 17


def run_listener(config: Config, stop: threading.Event | None = None) -> None:
    """Listens until SIGTERM, SIGINT or `stop`. Prints `listening HOST PORT` once it can be reached."""
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    listener = Listener(config)
    with active(config.site.root, "listen"), listener:
        print(f"listening {config.listener.host} {listener.port}", flush=True)  # noqa: T201  (what scripts wait for)
        stop.wait()


class Listener:
    """One listening socket with its handlers. Use as a context manager."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._spool = Spool(config.site.root)
        self._root = config.site.root
        self._notices = Notices(config.site.root)
        _config.LOG_REQUEST_IDENTIFIERS = False
        _config.LOG_RESPONSE_IDENTIFIERS = False
        _config.LOG_HANDLER_LEVEL = "none"
        self._tls = config.listener.tls.context() if config.listener.tls is not None else None
        self._acceptor: Acceptor | None = None
        self._place: SharedPort | None = None
        self.port = config.listener.port

    def __enter__(self) -> Listener:
        linked = self._spool.repair()
        if linked:
            log.info(
                "%d instances are offered to the registry again", linked, extra=about(Event.PROCESS_NOTE)
            )
        listener = self._config.listener
        if listener.processes > 1:
            self._place = SharedPort(self._root, listener.host, listener.port, listener.processes)
            with self._place:
                self._acceptor = self._bind(shared=True)
        else:
            self._acceptor = self._bind(shared=False)
        self._acceptor.__enter__()
        self.port = self._acceptor.server_address[1]
        spoken = "DICOM over TLS" if self._tls is not None else "DICOM"
        log.info(
            "%s listens on %s:%d (%s)", listener.ae_title, listener.host, self.port, spoken,
            extra=about(Event.PROCESS_READY),
        )  # fmt: skip
        return self

    def __exit__(self, *raised: object) -> None:
        if self._acceptor is not None:
            self._acceptor.__exit__(*raised)
        if self._place is not None:
            self._place.leave()

    def _bind(self, *, shared: bool) -> Acceptor:
        listener = self._config.listener
        handlers: list[Any] = [
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_N_EVENT_REPORT, self._report),
            (evt.EVT_REJECTED, self._refused),
        ]
        try:
            return Acceptor(
                _ae(self._config),
                (listener.host, listener.port),
                self._store,
                handlers,
                _limits(self._config),
                self._spool.incoming,
                shared=shared,
                tls=self._tls,
                tls_refused=self._tls_refused,
            )
        except OSError as error:
            raise StorageError(
                f"cannot listen on {listener.host}:{listener.port}: {error.strerror}; is another listener running?"
            ) from error

    # --- who is not let in ------------------------------------------------------------------------------------------

    def _refused(self, event: Any) -> None:
        """An association was rejected: for its titles, or for want of room."""
        caller, ours = event.assoc.requestor, self._config.listener
        calling = str(caller.primitive.calling_ae_title).strip()
        called = str(caller.primitive.called_ae_title).strip()
        if ours.check_called and called != ours.ae_title:
            reason = "it called another AE title"
        elif "*" not in ours.calling and calling not in ours.calling:
            reason = "its AE title may not call"
        elif event.assoc.limit_exceeded:
            reason = "there was no room for its association"
        else:
            reason = "its request is not one that we can serve"
        self._notices.leave(
            "medpipe",
            "association refused",
            address=str(caller.address),
            source=calling,
            reason=reason,
        )

    def _tls_refused(self, address: str, why: str) -> None:
        self._notices.leave("medpipe", "TLS refused", address=address, reason=why)

    # --- C-STORE -------------------------------------------------------------------------------------------------

    def _store(self, association: AcceptedAssociation, request: StoreRequest) -> int:
        """One instance: durable, then acknowledged. Whatever goes wrong, the sender hears that it still has it."""
        received_at = time.time()
        if not request.names_an_instance:
            return _refuse(association, INVALID_SOP_INSTANCE, "its SOP Class or Instance UID is no UID")
        if request.sop_class not in STORAGE_CLASSES:
            return _refuse(association, SOP_CLASS_NOT_SUPPORTED, "its SOP class is no storage class of ours")
        if request.sop_class != request.agreed_class:
            return _refuse(
                association, SOP_CLASS_NOT_SUPPORTED, "its presentation context is of another class"
            )
        if request.file is None:
            return _refuse(association, CANNOT_UNDERSTAND, "it has no data set")
        try:
            return self._take(association, request, request.file, received_at)
        except OSError as error:
            log.error(
                "an instance could not be stored: %s",
                error.strerror or "input/output error",
                extra=about(Event.INSTANCE_NOT_STORED),
            )
            return OUT_OF_RESOURCES
        except Exception as error:
            log.exception(
                "an instance could not be stored: %s",
                type(error).__name__,
                extra=about(Event.INSTANCE_NOT_STORED),
            )
            return PROCESSING_FAILURE

    def _take(
        self,
        association: AcceptedAssociation,
        request: StoreRequest,
        received: InstanceFile,
        received_at: float,
    ) -> int:
        if self._disk_is_full():
            return OUT_OF_RESOURCES
        identity, unreadable = Identity(), None
        try:
            identity = peek(received.path, request.transfer_syntax)
            if identity.sop_class not in ("", request.sop_class):
                return _refuse(association, DOES_NOT_MATCH_CLASS, "its data set is of another SOP class")
            if identity.sop_instance not in ("", request.sop_instance):
                return _refuse(association, DOES_NOT_MATCH_CLASS, "its data set has another SOP Instance UID")
            if not resembles_uid(identity.study):
                unreadable = "StudyInstanceUID is missing or no UID"
        except UnreadableHeader as error:
            # kept as received and reported: it is the hospital's data, and we must not be the place where it is lost
            unreadable = f"the header cannot be read: {error}"
        requestor = association.requestor
        assert requestor.primitive is not None
        arrival = Arrival(
            sop_instance_uid=request.sop_instance,
            sop_class_uid=request.sop_class,
            study_uid=identity.study if resembles_uid(identity.study) else None,
            series_uid=identity.series if resembles_uid(identity.series) else None,
            transfer_syntax=request.transfer_syntax,
            calling_ae=str(requestor.ae_title).strip(),
            called_ae=str(requestor.primitive.called_ae_title).strip(),
            unreadable=unreadable,
        )
        received.close()
        faults.point("received")
        sidecar, new = self._spool.receive(received.path, arrival, received_at, content=received.digest)
        if new and sidecar.aside:
            log.warning(
                "instance %s came again with other content: kept aside", sidecar.file,
                extra=about(Event.INSTANCE_ASIDE, file=sidecar.file, study=sidecar.study_uid),
            )  # fmt: skip
        if new and unreadable:
            log.warning(
                "instance %s is kept but not processed: %s", sidecar.file, unreadable,
                extra=about(Event.INSTANCE_UNREADABLE, file=sidecar.file),
            )  # fmt: skip
        faults.point("before_acknowledge")
        return SUCCESS

    def _disk_is_full(self) -> bool:
        site = self._config.site
        full = shutil.disk_usage(site.root).free < site.minimum_free
        if full:
            log.error(
                "less than %d bytes free on the spool's disk: nothing is accepted",
                site.minimum_free,
                extra=about(Event.DISK_FULL),
            )
        return full

    # --- storage commitment ----------------------------------------------------------------------------------------

    def _report(self, event: Any) -> tuple[int, None]:
        """An archive's answer to a storage commitment request: kept durably, read by the `confirm` workflow.

        Only from the peer that was asked; its first report counts, and one that comes again is answered and changes
        nothing (PS3.4 section J.3.3).
        """
        address = str(event.assoc.requestor.address)
        if self._disk_is_full():  # a report that nobody asked for lies there for days
            return PROCESSING_FAILURE, None
        try:
            report = parse_commitment_report(event.event_information)
            faults.point("before_report")
            keep_report(self._root, report, str(event.assoc.requestor.ae_title).strip())
            faults.point("after_report")
        except IntegrityError as error:
            log.error(
                "a storage commitment report from %s was not taken: %s", address, error,
                extra=about(Event.REPORT_NOT_TAKEN, address=address),
            )  # fmt: skip
            return INVALID_ARGUMENT, None
        except OSError as error:
            log.error(
                "a storage commitment report was not taken: %s",
                error.strerror or "input/output error",
                extra=about(Event.REPORT_NOT_TAKEN),
            )
            return PROCESSING_FAILURE, None
        except Exception as error:  # what pydicom makes of nonsense; its text might quote it
            log.error(
                "a storage commitment report was not taken: it cannot be read (%s)", type(error).__name__,
                extra=about(Event.REPORT_NOT_TAKEN),
            )  # fmt: skip
            return PROCESSING_FAILURE, None
        return SUCCESS, None


def _refuse(association: AcceptedAssociation, status: int, why: str) -> int:
    """Says in the log why the sender hears `status`; nothing of what it sent."""
    address = str(association.requestor.address)
    log.warning(
        "an instance from %s was refused (0x%04X): %s", address, status, why,
        extra=about(Event.INSTANCE_NOT_STORED, address=address, reason=why),
    )  # fmt: skip
    return status


def _ae(config: Config) -> AE:
    settings = config.listener
    ae = AE(ae_title=settings.ae_title)
    ae.require_called_aet = settings.check_called
    ae.require_calling_aet = [] if "*" in settings.calling else list(settings.calling)
    ae.maximum_associations = settings.maximum_connections  # ours are counted at the door
    ae.maximum_pdu_size = _LARGEST_PDU
    ae.network_timeout = settings.network_timeout
    ae.acse_timeout = settings.pdu_seconds
    ae.dimse_timeout = settings.network_timeout
    ae.add_supported_context(Verification, list(MESSAGES))
    for sop_class in STORAGE_CLASSES:
        ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    add_commitment_context(ae)
    return ae


def _limits(config: Config) -> Limits:
    settings = config.listener
    return Limits(
        p_data=_LARGEST_PDU,
        pdu_seconds=settings.pdu_seconds,
        connections=settings.maximum_connections,
        connections_per_address=settings.maximum_connections_per_address,
        associations=settings.maximum_associations,
        silence=settings.network_timeout,
        least_rate=settings.least_rate,
        instance=settings.maximum_instance,
    )
