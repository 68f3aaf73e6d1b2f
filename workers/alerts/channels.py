"""How somebody is told: what the settings name, and the secrets that go with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from medpipe.config import Alerts
from workers.alerts.message import Message


class ChannelFailed(Exception):
    """A message was not taken. The sentence says by whom and why, without any secret."""


class Channel(Protocol):
    """`name` is stable and tells no secret: the memory and the log call the channel so."""

    @property
    def name(self) -> str: ...

    def send(self, message: Message) -> None:
        """Raises ChannelFailed."""


def channels_of(alerts: Alerts, environment: Mapping[str, str] = os.environ) -> list[Channel]:
    """All that the settings name, webhooks first."""
    from workers.alerts.mail import MailChannel
    from workers.alerts.webhook import WebhookChannel

    channels: list[Channel] = []
    if alerts.webhook is not None:
        channels += [WebhookChannel(alerts.webhook, url, environment) for url in alerts.webhook.urls]
    if alerts.mail is not None:
        channels.append(MailChannel(alerts.mail, environment))
    return channels


def secret(file: Path | None, variable: str, environment: Mapping[str, str]) -> str:
    """The content of the file, else of the environment variable, else nothing. Raises ChannelFailed."""
    if file is None:
        return environment.get(variable, "").strip()
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ChannelFailed(f"{file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ChannelFailed(f"{file} is no text") from error
