"""How somebody is told: what the settings name, and the secrets that go with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

from medpipe.config import Alerts, Section, secret
from medpipe.errors import ConfigError
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


def revealed(table: Section, place: str, key: str, environment: Mapping[str, str]) -> str:
    """The secret of a table, "" where none is set. Raises ChannelFailed."""
    try:
        found = secret(table, place, key, environment)
    except ConfigError as error:
        raise ChannelFailed(str(error)) from error
    return "" if found is None else found.get_secret_value()
