"""OHIF at the origin's root: its files as fetched, its settings ours, any other page of it its index.html."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import re
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response

from medpipe.review.viewer_package import is_fetched

SETTINGS = Path(__file__).parent / "static" / "app-config.js"

_HASHED = re.compile(r"(\.bundle\.[0-9a-f]{16}\.js|^[0-9a-f]{16}\.(wasm|woff2))$")
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_OURS = ("app/", "api/", "metrics")
_FOR_GOOD = "public, max-age=31536000, immutable"
_TYPES = {".wasm": "application/wasm", ".js": "text/javascript", ".woff2": "font/woff2"}


class Viewer:
    """The files of one folder, listed once: what is not in the list is not served, wherever a path may lead."""

    def __init__(self, folder: Path) -> None:
        self.fetched = is_fetched(folder)
        files = [path for path in folder.rglob("*") if path.is_file()] if self.fetched else []
        self._files = {path.relative_to(folder).as_posix(): path for path in files if path.suffix}
        self.policy = _policy(self._files["index.html"].read_bytes()) if self.fetched else ""

    async def __call__(self, request: Request) -> Response:
        """A file, or the page for addresses such as /viewer. Raises HTTPException 404."""
        name = request.path_params["path"]
        if not name:
            return RedirectResponse("/app", 307)
        if not self.fetched:
            raise HTTPException(404, "the viewer is not installed here: `medpipe fetch-viewer` fetches it")
        if name == "app-config.js":
            return FileResponse(SETTINGS, headers={"cache-control": "no-cache"}, media_type="text/javascript")
        if name not in self._files:
            if "." in name.rpartition("/")[2] or name.startswith(_OURS):
                raise HTTPException(404)
            name = "index.html"
        return self._file(name, request)

    def _file(self, name: str, request: Request) -> Response:
        path = self._files[name]
        kind = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = {"cache-control": _FOR_GOOD if _HASHED.search(name) else "no-cache"}
        if name == "index.html":
            headers["content-security-policy"] = self.policy
        packed = self._files.get(f"{name}.gz")
        if packed is not None:
            headers["vary"] = "accept-encoding"
            if "gzip" in request.headers.get("accept-encoding", ""):
                path, headers["content-encoding"] = packed, "gzip"
        return FileResponse(path, headers=headers, media_type=kind)


def _policy(index: bytes) -> str:
    """OHIF's page may run its own scripts and its codecs, and speak to this origin alone (CSP level 3)."""
    digests = [base64.b64encode(hashlib.sha256(code).digest()).decode() for code in _INLINE.findall(index)]
    inline = " ".join(f"'sha256-{digest}'" for digest in digests)
    return "; ".join(
        (
            "default-src 'self'",
            f"script-src 'self' 'unsafe-eval' {inline}",
            "worker-src 'self' blob:",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self' data: blob:",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )
