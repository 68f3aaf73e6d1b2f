"""A site with a registry of its own, a PACS that speaks DICOMweb over a real socket, and a viewer in a folder."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from medpipe.config import Config, parse_config
from medpipe.review import viewer_package
from medpipe.review.app import create_app
from workers.database import insert
from workers.registry import JobPlan, Registry
from workers.spool import Sidecar
from workers.tables import JobState, delivery, image, job, result

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
USER, PASSWORD = "pacs-user", "pacs:p@ss"


@dataclass
class Pacs:
    """Answers each path with what `answers` holds for it (status, type, body); remembers what it was asked."""

    port: int = 0
    answers: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    @property
    def dicomweb(self) -> str:
        return f"http://{USER}:pacs%3Ap%40ss@127.0.0.1:{self.port}/pacs/dicom-web"

    def says(self, path: str, body: Any, status: int = 200, kind: str = "application/dicom+json") -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[f"/pacs/dicom-web/{path}"] = (status, kind, raw)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs()
    expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            pacs.asked.append((path, query, {k.lower(): v for k, v in self.headers.items()}))
            status, kind, body = pacs.answers.get(path, (404, "text/plain", b"unknown"))
            if self.headers.get("Authorization") != expected:
                status, body = 401, b""
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Pacs", "its own business")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        pacs.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield pacs
        server.shutdown()
        thread.join()


INDEX = b"""<!doctype html><script>window.PUBLIC_URL='/'</script>
<script defer src='/app.bundle.0123456789abcdef.js'></script>"""


@pytest.fixture
def viewer_files(tmp_path: Path) -> Path:
    """A folder as `fetch-viewer` leaves it, with a page, a large script and a codec."""
    folder = tmp_path / "ohif"
    folder.mkdir()
    (folder / "index.html").write_bytes(INDEX)
    (folder / "app.bundle.0123456789abcdef.js").write_text("0;\n" * 2000)
    (folder / "app.bundle.0123456789abcdef.js.gz").write_bytes(b"\x1f\x8b packed")
    (folder / "fedcba9876543210.wasm").write_bytes(b"\0asm")
    (folder / ".complete").write_text(viewer_package.INTEGRITY)
    return folder


@pytest.fixture
def configure(tmp_path: Path, pacs: Pacs, viewer_files: Path, migrated: Path) -> Callable[..., Config]:
    """`configure(users=...)`: settings of a site beside the PACS, with a registry that has its tables."""

    def make(dicomweb: str | None = None, **review: Any) -> Config:
        peer = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": 4242, "timeout": 5}
        web = pacs.dicomweb if dicomweb is None else dicomweb
        config = parse_config(
            {
                "site": {"root": str(tmp_path / "site")},
                "review": {"viewer": str(viewer_files), **review},
                "peers": {"PACS": {**peer, "dicomweb": web}, "ARCHIVE": peer},
            }
        )
        config.site.root.mkdir(exist_ok=True)
        if not (config.site.root / migrated.name).exists():
            shutil.copy(migrated, config.site.root)
        return config

    return make


@pytest.fixture
def browser(configure: Callable[..., Config]) -> Iterator[Callable[..., TestClient]]:
    """`browser(users=...)`: a client of a running review; it follows no redirection by itself."""
    running: list[TestClient] = []

    def start(scheme: str = "http", **options: Any) -> TestClient:
        client = TestClient(
            create_app(configure(**options)), f"{scheme}://127.0.0.1:8080", follow_redirects=False
        )
        client.__enter__()
        running.append(client)
        return client

    yield start
    for client in running:
        client.__exit__(None, None, None)


@pytest.fixture
def registry(configure: Callable[..., Config]) -> Iterator[Registry]:
    """The same site's registry, as the workers write it."""
    registry = Registry(configure().site.database_url)
    yield registry
    registry.close()


@dataclass
class Case:
    """What a worker would have left of one study. `save` writes it."""

    registry: Registry
    study: str = "1.2.3"
    bundle: str = "fundus-lesions"
    state: JobState = JobState.CONFIRMED
    reason: str | None = None
    lesions: dict[str, int] = field(default_factory=lambda: {"MA": 3, "HE": 0})
    delivered: str | None = "confirmed"
    held_up: str | None = None
    destination: str = "PACS"
    received: float = 1_700_000_000.0
    content: str = "content"
    planned: float = 1_700_000_001.0

    def save(self) -> str:
        """Study, job, one picture (series <study>.1) and its SEG (series <study>.9); the job's id."""
        sidecar = Sidecar(
            f"f{self.study}", f"{self.study}.1.1", "1.2.840.10008.5.1.4.1.1.77.1.5.1", self.study, f"{self.study}.1",
            "1.2.840.10008.1.2.1", "d1", 10, "A", "M", self.received,
        )  # fmt: skip
        self.registry.register([sidecar])
        plan = JobPlan(
            self.study, self.bundle, "0.1.0", f"hash-{self.bundle}", self.content, (sidecar.file,), "rule", 100,
            (self.destination,), self.received,
        )  # fmt: skip
        for row in self.registry.unsettled():
            self.registry.settle(row, [], lambda *_: None)
        number = plan.id
        with self.registry.begin() as connection:
            self.registry.plan(connection, plan, lambda *_: None, self.planned)
            values = {"state": self.state.value, "reason": self.reason}
            connection.execute(sa.update(job).where(job.c.id == number).values(**values))
            refused = self.state is JobState.QUARANTINED
            picture = {
                "job": number, "number": 0, "name": f"{self.study}.1.1", "series_uid": f"{self.study}.1",
                "outcome": "quarantined" if refused else "done", "reason": self.reason,
                "lesions": {} if refused else self.lesions,
            }  # fmt: skip
            insert(connection, image, picture)
            if self.delivered is not None:
                for kind, series in ((SEG, "9"), (SR, "8")):
                    uid = f"{self.study}.{series}.1"
                    made = {
                        "sop_instance_uid": uid, "job": number, "image": picture["name"], "sop_class_uid": kind,
                        "series_uid": f"{self.study}.{series}", "file": f"{uid}.dcm", "digest": "d", "created_at": 1.0,
                    }  # fmt: skip
                    insert(connection, result, made)
                    sent = {
                        "sop_instance_uid": uid,
                        "destination": self.destination,
                        "state": self.delivered,
                        "reason": self.held_up,
                    }
                    insert(connection, delivery, sent)
        return number


@pytest.fixture
def case(registry: Registry) -> Callable[..., Case]:
    """`case(study="1.2.3", state=...).save()`."""

    def make(**values: Any) -> Case:
        return Case(registry, **values)

    return make


@pytest.fixture
def person() -> Callable[..., dict[str, Any]]:
    """`person(study, name)`: one study of a QIDO-RS answer."""

    def make(study: str, name: str, patient_id: str = "P-1") -> dict[str, Any]:
        return {
            "0020000D": {"vr": "UI", "Value": [study]},
            "00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]},
            "00100020": {"vr": "LO", "Value": [patient_id]},
            "00080020": {"vr": "DA", "Value": ["20260102"]},
            "00080061": {"vr": "CS", "Value": ["OP", "SEG"]},
        }

    return make
