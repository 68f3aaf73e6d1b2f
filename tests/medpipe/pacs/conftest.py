"""A peer of our own making, which can misbehave in ways that no real archive does on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from local_process import free_port
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.transport import AssociationSocket

from medpipe.config import Peer

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture(autouse=True)
def closed_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """pynetdicom's server forgets to close a connection that the other side closed first, and Python warns of it."""
    shutdown = AssociationSocket._shutdown_socket

    def shutdown_and_close(self: AssociationSocket) -> None:
        shutdown(self)
        if self.socket is not None:
            self.socket.close()

    monkeypatch.setattr(AssociationSocket, "_shutdown_socket", shutdown_and_close)


@pytest.fixture
def object_file(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a small DICOM file: `object_file("2.25.1", sop_class=..., syntax=...)`."""

    def write(uid: str, *, sop_class: str = SECONDARY_CAPTURE, syntax: str = ExplicitVRLittleEndian) -> Path:
        header = Dataset()
        header.SOPClassUID = sop_class
        header.SOPInstanceUID = uid
        header.StudyInstanceUID = "2.25.77"
        header.SeriesInstanceUID = "2.25.78"
        header.Modality = "OT"
        header.PatientID = "7"
        header.PatientName = "Doe^Jane"
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / f"{uid}.dcm"
        header.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def start_peer() -> Iterator[Callable[..., Peer]]:
    """A function that starts a peer with these contexts and handlers; the configured Peer."""
    servers = []

    def start(
        contexts: Sequence[Any], handlers: Sequence[Any] = (), *, timeout: float = 2, **attributes: Any
    ) -> Peer:
        ae = AE(ae_title="ARCHIVE")
        for name, value in attributes.items():
            setattr(ae, name, value)
        for context in contexts:
            ae.add_supported_context(*context) if isinstance(context, tuple) else ae.add_supported_context(
                context
            )
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
        servers.append(server)
        port = server.socket.getsockname()[1]
        return Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout=timeout)

    yield start
    for server in servers:
        port = server.socket.getsockname()[1]
        stopping = threading.Thread(target=server.shutdown)
        stopping.start()
        with contextlib.suppress(OSError):
            # wakes its loop, which else looks up only twice a second
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        stopping.join()


@pytest.fixture
def silent_peer() -> Iterator[Peer]:
    """Something that accepts the TCP connection and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield Peer(ae_title="ARCHIVE", host="127.0.0.1", port=server.getsockname()[1], timeout=0.5)


@pytest.fixture
def nobody() -> Peer:
    """A peer that does not listen."""
    return Peer(ae_title="ARCHIVE", host="127.0.0.1", port=free_port(), timeout=1)
