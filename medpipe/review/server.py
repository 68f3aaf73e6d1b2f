"""The `review` process: the application behind uvicorn, on one address, until SIGTERM or SIGINT."""

from __future__ import annotations

import logging
import socket
from types import FrameType

import uvicorn

from medpipe.config import Config, Review, is_loopback
from medpipe.errors import ConfigError
from medpipe.logs import Event, about
from medpipe.review.app import create_app
from medpipe.review.changes import Changes
from medpipe.review.site import Site
from workers.registry import Registry

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 3


class _Server(uvicorn.Server):
    """Lets the pages' event streams go first: they would otherwise hold up the end."""

    changes: Changes

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.changes.end()
        super().handle_exit(sig, frame)


def run_review(config: Config) -> None:
    """Serves until told to stop. Raises ConfigError where the address cannot be bound or TLS cannot be set up."""
    settings = config.review or Review()
    tls = settings.context()
    registry = Registry(config.site.database_url)
    try:
        registry.migrate()
    finally:
        registry.close()
    app = create_app(config)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # addresses hold UIDs; who looked at what is for a trail of its own, not for a log
            server_header=False,
            timeout_graceful_shutdown=_PATIENCE_SECONDS,
            limit_concurrency=500,
        )
    )
    server.changes = app.state.site.changes
    server.config.load()
    server.config.ssl = (
        tls  # ours: sound ciphers only, and a key with a password is no question on a terminal
    )
    with _bound(settings) as bound:
        _tell(app.state.site, settings)
        server.run(sockets=[bound])


def address(settings: Review) -> str:
    """Where a browser on this machine finds the pages."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    scheme = "https" if settings.certificate is not None else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _bound(settings: Review) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=128)
    except OSError as error:
        raise ConfigError(
            f"review.host {settings.host!r}, review.port {settings.port}: cannot be bound ({error.strerror or error})"
        ) from error


def _tell(site: Site, settings: Review) -> None:
    log.info("review on %s/app", address(settings), extra=about(Event.PROCESS_READY))
    if site.proxy is None or not site.viewer.fetched:
        log.warning(
            "no pictures: the viewer is not installed (`medpipe fetch-viewer`) or no peer has `dicomweb`",
            extra=about(Event.PROCESS_NOTE),
        )
    if settings.certificate is None and not is_loopback(settings.host):
        log.warning(
            "review speaks plain HTTP on %s: give it a certificate, or a reverse proxy with TLS",
            settings.host,
            extra=about(Event.PROCESS_NOTE),
        )
