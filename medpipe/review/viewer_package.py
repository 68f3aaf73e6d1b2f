"""OHIF as it comes from npm: one pinned version, checked by its integrity, without what is never used here.

The package is ready built. What is left out: ONNX models for click-segmentation and the microscopy viewer, source maps,
start-up pictures of telephones, sign-in helpers and a service worker that would load its parts from elsewhere.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import shutil
import sys
import tarfile
from pathlib import Path

import httpx2

from medpipe.config import Review
from medpipe.errors import IntegrityError, PeerUnreachable, StorageError

PACKAGE, VERSION = "@ohif/app", "3.13.2"
INTEGRITY = "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
"""As the npm registry states it for this version (Subresource Integrity)."""
REGISTRY = "https://registry.npmjs.org"

_INSIDE, _LICENSE = "package/dist/", "package/LICENSE"
_LEFT_OUT = ("ort/", "dicom-microscopy-viewer/", "customizations/", "assets/apple-touch-startup-image")
_LEFT_OUT_FILES = {
    "oidc-client.min.js", "silent-refresh.html", "sw.js", "google.js", "es6-shim.min.js", "serve.json", "_headers",
    "_redirects", "app-config.js",
}  # fmt: skip
_COMPRESSED = {".js", ".css", ".wasm", ".svg", ".html"}
_COMPLETE = ".complete"


def viewer_folder(settings: Review) -> Path:
    """Where the viewer's files lie: `review.viewer`, else inside the Python environment that medpipe runs in."""
    return settings.viewer or Path(sys.prefix) / "share" / "medpipe" / f"ohif-{VERSION}"


def is_fetched(folder: Path) -> bool:
    """Whether the whole of the pinned version is there (an unpacking that was cut off does not count)."""
    marker = folder / _COMPLETE
    return marker.is_file() and marker.read_text(encoding="ascii") == INTEGRITY


def fetch(folder: Path, package: Path | None = None) -> Path:
    """Unpacks the pinned viewer into `folder`, from a file that `npm pack` made or from the npm registry.

    Raises PeerUnreachable (registry), IntegrityError (another content than pinned), StorageError (disk).
    """
    if is_fetched(folder):
        return folder
    content = download() if package is None else package.read_bytes()
    check(content, str(package or REGISTRY))
    new = folder.with_name(f"{folder.name}.new-{os.getpid()}")
    try:
        unpack(content, new)
        shutil.rmtree(folder, ignore_errors=True)
        new.replace(folder)
    except OSError as error:
        raise StorageError(
            f"{folder}: the viewer cannot be written ({error.strerror}); review.viewer names another folder"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def download() -> bytes:
    """The package from the npm registry (about 50 MB). Raises PeerUnreachable."""
    name = PACKAGE.rpartition("/")[2]
    url = f"{REGISTRY}/{PACKAGE}/-/{name}-{VERSION}.tgz"
    try:
        answer = httpx2.get(url, timeout=60, follow_redirects=True)
        answer.raise_for_status()
    except httpx2.HTTPError as error:
        raise PeerUnreachable(
            f"{url}: {type(error).__name__}; on a machine without internet bring the file that "
            f"`npm pack {PACKAGE}@{VERSION}` makes, and name it with --package"
        ) from error
    return answer.content


def check(content: bytes, origin: str) -> None:
    """Raises IntegrityError where the package is not, byte for byte, the pinned one."""
    kind, _, wanted = INTEGRITY.partition("-")
    if base64.b64encode(hashlib.new(kind, content).digest()).decode() != wanted:
        raise IntegrityError(f"{origin}: not {PACKAGE} {VERSION} as pinned (its {kind} differs)")


def unpack(content: bytes, folder: Path) -> None:
    """Writes the wanted files of a checked package, large texts also compressed beside them."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            name = member.name.removeprefix(_INSIDE)
            wanted = member.name == _LICENSE or (member.name.startswith(_INSIDE) and is_wanted(name))
            file = archive.extractfile(member) if member.isfile() and wanted else None
            if file is None:
                continue
            path = folder / name.removeprefix("package/")
            path.parent.mkdir(parents=True, exist_ok=True)
            data = file.read()
            path.write_bytes(data)
            if path.suffix in _COMPRESSED and len(data) > 2000:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(data, 6, mtime=0))
    (folder / _COMPLETE).write_text(INTEGRITY, encoding="ascii")


def is_wanted(name: str) -> bool:
    """Whether a file of the package's `dist/` is served here."""
    parts = name.split("/")
    if ".." in parts or name in _LEFT_OUT_FILES or name.endswith((".map", ".LICENSE.txt")):
        return False
    return not name.startswith(_LEFT_OUT)
