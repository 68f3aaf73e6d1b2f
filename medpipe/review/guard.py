"""What stands before every page: the right host, a signed-in user where users are configured, headers that confine."""

from __future__ import annotations

from urllib.parse import quote

from starlette.datastructures import URL, Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medpipe.config import is_loopback
from medpipe.review.sessions import Sessions

COOKIE = "medpipe_session"
SIGN_IN = "/app/sign-in"

_OPEN = {"/healthz", "/readyz", "/metrics", SIGN_IN}
_OPEN_FOLDER = "/app/static/"
_DATA = ("/api/", "/dicom-web/")
_PASSED_ON = {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"}
"""Headers of a proxy: who is behind it is not this machine."""
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """ASGI middleware. `sessions` None: nobody signs in, and only requests to this machine's own names are answered.

    (A page of another site could otherwise have its own name point to 127.0.0.1 and read from there.)
    """

    def __init__(self, app: ASGIApp, sessions: Sessions | None) -> None:
        self.app = app
        self.sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def confined(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(("/app", "/api/")):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, confined)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is answered instead of the page, None where the page may be seen."""
        if self.sessions is None:
            scope["user"] = None
            headers = Headers(scope=scope)
            if _is_own_name(headers.get("host", "")) and not _PASSED_ON & set(headers):
                return None
            return PlainTextResponse(
                "no sign-in is set up: only addresses of this machine are answered\n", 421
            )
        scope["user"] = self.sessions.user_of(HTTPConnection(scope).cookies.get(COOKIE, ""))
        path = scope["path"]
        if scope["user"] is not None or path in _OPEN or path.startswith(_OPEN_FOLDER):
            return None
        if path.startswith(_DATA):
            return JSONResponse({"error": "not signed in"}, 401)
        url = URL(scope=scope)
        wanted = url.path + (f"?{url.query}" if url.query else "")
        return RedirectResponse(f"{SIGN_IN}?next={quote(wanted, safe='/')}", 303)


def _is_own_name(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return is_loopback(name.strip("[]"))


def inside(target: str) -> str:
    """An address to go on to after sign-in, only ever one of our own."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if plain and "\\" not in target else "/app"
