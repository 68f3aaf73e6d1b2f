"""A receiver of alerts by webhook, for tests and trials: it keeps what is posted, and answers what it is told to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LocalWebhook:
    """Use as a context manager; `url` is for alerts.webhook.urls, and `status` is what it answers."""

    def __init__(self) -> None:
        self.status = 204
        self.posts: list[tuple[str, dict[str, str], Any]] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.posts.append((self.path, dict(self.headers), json.loads(body)))
                self.send_response(webhook.status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="webhook")
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook/s3cret-path"

    def __enter__(self) -> LocalWebhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def alerts(self) -> list[tuple[str, str, str]]:
        """Kind, what about, and state of every alert that came."""
        return [
            (one["alert"], one["about"], one["state"]) for _, _, body in self.posts for one in body["alerts"]
        ]
