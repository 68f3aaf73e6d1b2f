"""Real peers for the system tests: Orthanc, PostgreSQL, DCMTK and Chromium as ordinary processes on free ports.

A program that is absent skips the test with a reason; under CI=true it is an error instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import local_process
import pytest
from local_orthanc import LocalOrthanc, orthanc_program
from local_postgres import LocalPostgres, postgres_programs
from playwright.sync_api import Browser, sync_playwright
from pynetdicom.transport import AssociationSocket

from medpipe.config import Config, Peer, Review, load_config
from medpipe.review.viewer_package import is_fetched, viewer_folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.system)


def absent(reason: str) -> None:
    """Skips the test, or fails it where everything has to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (CI=true: nothing may be skipped for want of a program)")
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def closed_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """pynetdicom's server forgets to close a connection that the other side closed first, and Python warns of it."""
    shutdown = AssociationSocket._shutdown_socket

    def shutdown_and_close(self: AssociationSocket) -> None:
        shutdown(self)
        if self.socket is not None:
            self.socket.close()

    monkeypatch.setattr(AssociationSocket, "_shutdown_socket", shutdown_and_close)


@pytest.fixture(autouse=True)
def same_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener in this process points `tempfile` at its spool: the next test gets the old place back."""
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that gives a TCP port nobody listens on."""
    return local_process.free_port


@dataclass(frozen=True)
class Dcmtk:
    """DCMTK's programs, run with TCP_NODELAY as a benchmark or a patient person would."""

    def __call__(self, program: str, *arguments: str | Path | int, check: bool = True) -> str:
        """Runs a program to its end; its output. Raises AssertionError on a bad exit unless `check` is false."""
        if shutil.which(program) is None:
            absent(f"{program} (package dcmtk) is not installed")
        done = subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        text = done.stdout + done.stderr
        assert done.returncode == 0 or not check, (
            f"{program} {arguments}: exit {done.returncode}\n{text[-3000:]}"
        )
        return text


@pytest.fixture(scope="session")
def dcmtk() -> Dcmtk:
    """`dcmtk("storescu", "-aec", "ORTHANC", host, port, file)` -> the program's output."""
    if shutil.which("storescu") is None:
        absent("DCMTK (package dcmtk) is not installed")
    return Dcmtk()


@pytest.fixture(scope="session")
def dciodvfy() -> Callable[[Path], list[str]]:
    """A function that validates a DICOM file; the validator's error lines (none = valid)."""
    if shutil.which("dciodvfy") is None:
        absent("dciodvfy (package dicom3tools) is not installed")

    def validate(path: Path) -> list[str]:
        done = subprocess.run(
            ["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace", timeout=120
        )
        return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]

    return validate


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless Chromium, Debian's own; it speaks to nobody but the page that is opened in it."""
    program = shutil.which("chromium")
    if program is None:
        absent("Chromium (package chromium) is not installed")
    flags = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
             "disable-component-update", "disable-sync"]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[f"--{flag}" for flag in flags])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def viewer_is_installed() -> None:
    """OHIF, where `medpipe fetch-viewer` puts it."""
    if not is_fetched(viewer_folder(Review())):
        absent("the viewer (medpipe fetch-viewer) is not installed")


@pytest.fixture(scope="session")
def start_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LocalOrthanc]]:
    """A function that starts one more Orthanc: `start_orthanc(autorouting=True, modalities={}, settings={})`."""
    if orthanc_program() is None:
        absent("Orthanc (package orthanc) is not installed")
    started: list[LocalOrthanc] = []

    def start(**options: Any) -> LocalOrthanc:
        orthanc = LocalOrthanc(tmp_path_factory.mktemp("orthanc"), **options)
        started.append(orthanc)
        return orthanc.start()

    yield start
    for orthanc in started:
        orthanc.kill()


@pytest.fixture(scope="session")
def orthanc_of_session(start_orthanc: Callable[..., LocalOrthanc]) -> LocalOrthanc:
    return start_orthanc()


@pytest.fixture
def orthanc(orthanc_of_session: LocalOrthanc) -> LocalOrthanc:
    """The PACS: an empty Orthanc that knows no modality yet (`orthanc.add_modality(name, aet, port)`)."""
    orthanc_of_session.clear()
    return orthanc_of_session


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[LocalPostgres]:
    """The PostgreSQL cluster of this session; `stop`, `crash` and `start` are for tests of an outage."""
    if postgres_programs() is None:
        absent("PostgreSQL (package postgresql) is not installed")
    server = LocalPostgres()
    try:
        yield server.create().start()
    finally:
        server.remove()


@dataclass(frozen=True)
class Database:
    """One empty PostgreSQL database."""

    server: LocalPostgres
    name: str

    @property
    def url(self) -> str:
        """As `site.database` wants it."""
        return self.server.url(self.name)


@pytest.fixture
def postgres(postgres_server: LocalPostgres) -> Iterator[Database]:
    """A fresh, empty database: `postgres.url`."""
    if not postgres_server.listens:
        postgres_server.start()
    name = postgres_server.new_database()
    yield Database(postgres_server, name)
    if not postgres_server.listens:
        postgres_server.start()
    postgres_server.drop_database(name)


@dataclass(frozen=True)
class SiteFolder:
    """A hospital's installation in a temporary folder: its medpipe.toml and the checked settings."""

    path: Path
    config: Config
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.config.site.root


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., SiteFolder]:
    """A function that writes a medpipe.toml: `site(orthanc, database=..., rules=[...], worker={...})`.

    The listener gets a free port, settles after 1 s and lets ORTHANC and MODALITY call. Given an Orthanc, it is
    the peer PACS with storage commitment, and our listener becomes its modality `medpipe`.
    """

    def write(orthanc: LocalOrthanc | None = None, *, name: str = "site", **sections: Any) -> SiteFolder:
        import tomli_w

        folder = tmp_path / name
        folder.mkdir()
        document: dict[str, Any] = {
            "site": {"root": str(folder / "root"), "minimum_free": "10 MB"},
            "listener": {
                "port": local_process.free_port(),
                "calling": ["ORTHANC", "MODALITY"],
                "settle_seconds": 1,
            },
            "worker": {"device": "cpu"},
        }
        if "database" in sections:
            document["site"]["database"] = sections.pop("database")
        if orthanc is not None:
            document["peers"] = {
                "PACS": {
                    "ae_title": orthanc.ae_title,
                    "host": orthanc.host,
                    "port": orthanc.dicom_port,
                    "commitment": True,
                }
            }
            document["rules"] = [
                {
                    "name": "everything",
                    "when": {"Modality": "OP"},
                    "bundle": "fundus-lesions",
                    "send": ["PACS"],
                }
            ]
        for key, value in sections.items():
            if isinstance(value, dict):
                document.setdefault(key, {}).update(value)
            else:
                document[key] = value
        path = folder / "medpipe.toml"
        path.write_text(tomli_w.dumps(document))
        config = load_config(path)
        if orthanc is not None:
            orthanc.add_modality("medpipe", config.listener.ae_title, config.listener.port)
        return SiteFolder(path, config)

    return write


@pytest.fixture
def peer(orthanc: LocalOrthanc) -> Peer:
    """The Orthanc of `orthanc` as a configured peer with storage commitment."""
    return Peer(
        ae_title=orthanc.ae_title, host=orthanc.host, port=orthanc.dicom_port, commitment=True, timeout=10
    )
