"""An Orthanc of our own, as an ordinary process: the PACS of the demo, the system tests and the benchmarks.

It reads the same `orthanc/orthanc.json` and `orthanc/autorouting.lua` that a hospital would install, with its
own ports, storage and password put in.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local_process import LocalProcess, free_port, wait_until

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE / "orthanc" / "orthanc.json"
AUTOROUTING = HERE / "orthanc" / "autorouting.lua"
PROGRAM_PLACES = "/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin"


def orthanc_program() -> str | None:
    """Path of the Orthanc program, None where there is none (Debian keeps it in /usr/sbin)."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path=PROGRAM_PLACES)


class RestError(RuntimeError):
    """Orthanc answered a REST request with an error status."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"{method} {path}: HTTP {status} {text[:300]}")
        self.status = status


class LocalOrthanc:
    """One Orthanc on free ports, with authentication on and strangers refused.

    `dicom_port`, `http_port`, `ae_title`, `user` and `password` say how to reach it. Modalities can be added while
    it runs. `autorouting` loads the auto-routing script; `settings` override keys of the template.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "ORTHANC",
        autorouting: bool = False,
        stable_age: int = 2,
        modalities: Mapping[str, Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.host = "127.0.0.1"
        self.http_port = free_port()
        self.dicom_port = free_port()
        self.user = "medpipe"
        self.password = secrets.token_urlsafe(16)
        self.autorouting = autorouting
        self.stable_age = stable_age
        self.modalities = {name: dict(entry) for name, entry in (modalities or {}).items()}
        self.settings = dict(settings or {})
        self.process: LocalProcess | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        """Its DICOMweb with the password in it, as `peers.PACS.dicomweb` wants it."""
        return f"http://{self.user}:{self.password}@{self.host}:{self.http_port}/dicom-web"

    @property
    def log(self) -> Path:
        return self.folder / "orthanc.log"

    def configuration(self) -> dict[str, Any]:
        """The template with this instance's own places, ports and users."""
        config: dict[str, Any] = json.loads(TEMPLATE.read_text())
        plugins = [path for path in config["Plugins"] if Path(path).is_file()]
        config.update(
            {
                "StorageDirectory": str(self.folder / "storage"),
                "IndexDirectory": str(self.folder / "storage"),
                "Plugins": plugins,
                "LuaScripts": [str(AUTOROUTING)] if self.autorouting else [],
                "LuaHeartBeatPeriod": 1,
                "StableAge": self.stable_age,
                "HttpPort": self.http_port,
                "RegisteredUsers": {self.user: self.password},
                "DicomAet": self.ae_title,
                "DicomPort": self.dicom_port,
                "DicomModalities": self.modalities,
            }
        )
        config.update(self.settings)
        return config

    def start(self, seconds: float = 60) -> LocalOrthanc:
        """Starts it and waits until it answers with our own password. Raises StartError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "storage").mkdir(exist_ok=True)
        path = self.folder / "orthanc.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(self.configuration(), indent=2))
        self.process = LocalProcess(
            "Orthanc",
            [orthanc_program() or "Orthanc", path],
            self.log,
            environment={
                "TCP_NODELAY": "1"
            },  # DCMTK's switch: without it each instance waits 40 ms for Nagle
            folder=self.folder,
        )
        self.process.start()
        self.process.wait_ready(self._answers, seconds)
        return self

    def _answers(self) -> bool:
        try:
            return bool(self.get("/system")["DicomAet"] == self.ae_title)
        except (OSError, RestError, ValueError, KeyError):
            return False

    def stop(self) -> None:
        """Ends it in order (its index is consistent afterwards)."""
        if self.process is not None:
            self.process.stop(30)

    def kill(self) -> None:
        """SIGKILL, as in a power cut."""
        if self.process is not None:
            self.process.kill()

    # REST

    def request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        """One REST request with our credentials. Raises RestError (error status) or OSError (no answer)."""
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = urllib.request.Request(self.url + path, data=body, method=method)
        request.add_header("Authorization", f"Basic {token}")
        request.add_header("Content-Type", kind)
        request.add_header("Accept", "*/*")
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({})
        )  # never through a proxy of the environment
        try:
            with opener.open(request, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            raise RestError(method, path, error.code, text) from error

    def get(self, path: str) -> Any:
        return json.loads(self.request("GET", path))

    def post(self, path: str, body: Any) -> Any:
        answer = self.request("POST", path, json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def put(self, path: str, body: Any) -> None:
        self.request("PUT", path, json.dumps(body).encode())

    def delete(self, path: str) -> None:
        self.request("DELETE", path)

    # modalities and content

    def add_modality(
        self, name: str, ae_title: str, port: int, *, host: str = "127.0.0.1", **allow: bool
    ) -> None:
        """Makes an AE known while Orthanc runs. `allow` overrides AllowEcho, AllowStore, AllowFind, ..."""
        entry = {"AET": ae_title, "Host": host, "Port": port, "AllowStorageCommitment": True, **allow}
        self.put(f"/modalities/{name}", entry)

    def upload(self, path: Path) -> str:
        """Puts a file in through REST; Orthanc's id of the instance."""
        answer = json.loads(self.request("POST", "/instances", path.read_bytes(), "application/dicom"))
        return str(answer["ID"])

    def find(self, level: str, **tags: str) -> list[dict[str, Any]]:
        """What Orthanc holds at a level ('Study', 'Series', 'Instance') with these tags, expanded."""
        found = self.post("/tools/find", {"Level": level, "Query": tags, "Expand": True})
        return list(found)

    def file(self, sop_instance_uid: str) -> bytes:
        """The stored file of one instance. Raises KeyError when Orthanc does not hold it."""
        found = self.find("Instance", SOPInstanceUID=sop_instance_uid)
        if not found:
            raise KeyError(sop_instance_uid)
        return self.request("GET", f"/instances/{found[0]['ID']}/file")

    def sop_instance_uids(self, **tags: str) -> set[str]:
        """SOP Instance UIDs of the instances of the series with these tags (study tags included)."""
        uids: set[str] = set()
        for series in self.find("Series", **tags):
            for instance in self.get(f"/series/{series['ID']}/instances"):
                uids.add(str(instance["MainDicomTags"]["SOPInstanceUID"]))
        return uids

    def wait_for(self, count: int, seconds: float = 30, **tags: str) -> set[str]:
        """Waits until at least `count` instances with these tags are there; those there in the end."""
        wait_until(lambda: len(self.sop_instance_uids(**tags)) >= count, seconds, 0.2)
        return self.sop_instance_uids(**tags)

    def clear(self) -> None:
        """Empties it and forgets the modalities that were added: as it was when it was started."""
        for name in self.get("/modalities"):
            if name not in self.modalities:
                self.delete(f"/modalities/{name}")
        for patient in self.get("/patients"):
            self.delete(f"/patients/{patient}")
