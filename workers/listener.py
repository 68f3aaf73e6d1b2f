"""The DICOM listener: C-ECHO, C-STORE and storage commitment reports. It touches only files, never the database.

An instance is acknowledged (0x0000) when its bytes and its sidecar are durable, and not before. Memory does not follow
an instance's size: pynetdicom writes the data set to a file in the spool while it comes in.
"""

from __future__ import annotations

import logging
import shutil
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from medpipe.config import Config
from medpipe.errors import ConfigError, IntegrityError, StorageError
from medpipe.pacs import add_commitment_context, parse_commitment_report
from workers.commitments import keep_report
from workers.presentation import STORAGE_CLASSES, TRANSFER_SYNTAXES
from workers.spool import Arrival, Spool

log = logging.getLogger(__name__)

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH_CLASS = 0xA900
PROCESSING_FAILURE = 0x0110

_SERIES_INSTANCE_UID = 0x0020000E
_DEFER = 4096
_LARGEST_PDU = 1 << 17


def run_listener(config: Config, stop: threading.Event | None = None) -> None:
    """Listens until SIGTERM, SIGINT or `stop`. Prints `listening HOST PORT` once it can be reached."""
    if config.listener.processes > 1:
        raise ConfigError(
            f"listener.processes: this version listens with one process (given: {config.listener.processes})"
        )
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    listener = Listener(config)
    with listener:
        print(f"listening {config.listener.host} {listener.port}", flush=True)  # noqa: T201  (what scripts wait for)
        stop.wait()


class Listener:
    """One listening socket with its handlers. Use as a context manager."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._spool = Spool(config.site.root)
        self._root = config.site.root
        # the chunked receiver puts its files where `tempfile` says: on the spool's own disk, so that a rename suffices
        tempfile.tempdir = str(self._spool.incoming)
        _config.STORE_RECV_CHUNKED_DATASET = True
        _config.LOG_REQUEST_IDENTIFIERS = False
        _config.LOG_RESPONSE_IDENTIFIERS = False
        _config.LOG_HANDLER_LEVEL = "none"
        self._ae = _ae(config)
        self._server: Any = None
        self.port = config.listener.port

    def __enter__(self) -> Listener:
        linked = self._spool.repair()
        if linked:
            log.info("%d instances are offered to the registry again", linked)
        listener = self._config.listener
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_N_EVENT_REPORT, self._report),
            (evt.EVT_CONN_OPEN, _without_delay),
        ]
        try:
            self._server = self._ae.start_server(
                (listener.host, listener.port), block=False, evt_handlers=handlers
            )
        except OSError as error:
            raise StorageError(
                f"cannot listen on {listener.host}:{listener.port}: {error.strerror}; is another listener running?"
            ) from error
        self.port = self._server.socket.getsockname()[1]
        log.info("%s listens on %s:%d", listener.ae_title, listener.host, self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        for association in self._ae.active_associations:
            association.abort()

    # --- C-STORE -------------------------------------------------------------------------------------------------

    def _store(self, event: Any) -> int:
        """One instance: durable, then acknowledged. Whatever goes wrong, the sender hears that it still has it."""
        received_at = time.time()
        try:
            return self._take(event, received_at)
        except OSError as error:
            log.error("an instance could not be stored: %s", error.strerror or "input/output error")
            return OUT_OF_RESOURCES
        except Exception as error:
            log.exception("an instance could not be stored: %s", type(error).__name__)
            return PROCESSING_FAILURE

    def _take(self, event: Any, received_at: float) -> int:
        site = self._config.site
        if shutil.disk_usage(site.root).free < site.minimum_free:
            log.error(
                "less than %d bytes free on the spool's disk: instances are not accepted", site.minimum_free
            )
            return OUT_OF_RESOURCES
        path: Path = event.dataset_path
        if path.stat().st_size > self._config.listener.maximum_instance:
            log.error("an instance larger than listener.maximum_instance was not accepted")
            return OUT_OF_RESOURCES
        request = event.request
        sop_class, sop_instance = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        study, series, unreadable = None, None, None
        try:
            study, series, own_class, own_instance = peek(path)
            if own_class and own_class != sop_class:
                return DOES_NOT_MATCH_CLASS
            if own_instance and own_instance != sop_instance:
                return DOES_NOT_MATCH_CLASS
            if not study:
                unreadable = "StudyInstanceUID is missing"
        except OSError:
            raise
        except Exception as error:
            # kept as received and reported: it is the hospital's data, and we must not be the place where it is lost
            unreadable = f"the header cannot be parsed ({type(error).__name__})"
        requestor = event.assoc.requestor
        arrival = Arrival(
            sop_instance_uid=sop_instance,
            sop_class_uid=sop_class,
            study_uid=study or None,
            series_uid=series or None,
            transfer_syntax=str(event.context.transfer_syntax),
            calling_ae=str(requestor.ae_title).strip(),
            called_ae=str(requestor.primitive.called_ae_title).strip(),
            unreadable=unreadable,
        )
        sidecar, new = self._spool.receive(path, arrival, received_at)
        if new and sidecar.aside:
            log.warning("instance %s came again with other content: kept aside", sidecar.file)
        if new and unreadable:
            log.warning("instance %s is kept but not processed: %s", sidecar.file, unreadable)
        return SUCCESS

    # --- storage commitment ----------------------------------------------------------------------------------------

    def _report(self, event: Any) -> tuple[int, None]:
        """An archive's answer to a storage commitment request: kept durably, read by the `confirm` workflow."""
        try:
            keep_report(self._root, parse_commitment_report(event.event_information))
        except (IntegrityError, OSError) as error:
            log.error("a storage commitment report was not taken: %s", error)
            return PROCESSING_FAILURE, None
        return SUCCESS, None


def _ae(config: Config) -> AE:
    settings = config.listener
    ae = AE(ae_title=settings.ae_title)
    ae.require_called_aet = settings.check_called
    ae.require_calling_aet = [] if "*" in settings.calling else list(settings.calling)
    ae.maximum_associations = settings.maximum_associations
    ae.maximum_pdu_size = _LARGEST_PDU
    ae.network_timeout = settings.network_timeout
    ae.acse_timeout = ae.dimse_timeout = settings.network_timeout
    ae.add_supported_context(Verification)
    for sop_class in STORAGE_CLASSES:
        ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    add_commitment_context(ae)
    return ae


def _without_delay(event: Any) -> None:
    """Nagle's algorithm and delayed acknowledgements together cost 40 ms per instance."""
    connection = getattr(event.assoc.dul.socket, "socket", None)
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def peek(path: Path) -> tuple[str, str, str, str]:
    """Study, Series, SOP Class and SOP Instance UID, reading no further and holding no large value in memory."""

    def enough(tag: BaseTag, vr: str | None, length: int) -> bool:
        return int(tag) > _SERIES_INSTANCE_UID

    with path.open("rb") as file:
        header = read_partial(file, stop_when=enough, defer_size=_DEFER)
    return (
        str(header.get("StudyInstanceUID", "") or ""),
        str(header.get("SeriesInstanceUID", "") or ""),
        str(header.get("SOPClassUID", "") or ""),
        str(header.get("SOPInstanceUID", "") or ""),
    )
