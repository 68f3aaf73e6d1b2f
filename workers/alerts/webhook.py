"""Telling by webhook: an HTTP POST of JSON."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx2

from medpipe.config import Webhook, is_loopback
from medpipe.identity import digest
from workers.alerts.channels import ChannelFailed, revealed
from workers.alerts.message import Message

_SECONDS = 10.0


class WebhookChannel:
    """One address. Redirections are not followed: they would take the secret along."""

    def __init__(self, settings: Webhook, url: str, environment: Mapping[str, str]) -> None:
        self._settings, self._url, self._environment = settings, url, environment

    @property
    def name(self) -> str:
        """Its host, and a digest: the path of such an address often is a secret."""
        return f"webhook {urlsplit(self._url).netloc} {digest(self._url)[:8]}"

    def send(self, message: Message) -> None:
        headers = {}
        authorization = revealed(self._settings, "alerts.webhook", "authorization", self._environment)
        if authorization:
            self._check_private()
            headers["Authorization"] = authorization
        try:
            with (
                httpx2.Client(timeout=_SECONDS, verify=self._trust(), follow_redirects=False) as client,
                client.stream("POST", self._url, json=message.plain(), headers=headers) as answer,
            ):
                status, is_taken = answer.status_code, answer.is_success  # its body may be of any length
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            raise ChannelFailed(f"{self.name} does not take it ({type(error).__name__})") from None
        if not is_taken:
            raise ChannelFailed(f"{self.name} answers HTTP {status}")

    def _check_private(self) -> None:
        parts = urlsplit(self._url)
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise ChannelFailed(f"{self.name} would get its secret unencrypted: use https")

    def _trust(self) -> ssl.SSLContext:
        if urlsplit(self._url).scheme == "http":
            return ssl.SSLContext(
                ssl.PROTOCOL_TLS_CLIENT
            )  # not used; the system's list takes a while to load
        try:
            return ssl.create_default_context(cafile=self._settings.ca)
        except OSError as error:
            raise ChannelFailed(f"alerts.webhook.ca: {self._settings.ca} cannot be used") from error
