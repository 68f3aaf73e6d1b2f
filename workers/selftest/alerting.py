"""Whether somebody is told when the line needs a person, and how long the certificates last."""

from __future__ import annotations

import time
from collections.abc import Iterator

from medpipe.config import Config
from workers.alerts import ChannelFailed, channels_of, trial_message
from workers.alerts.certificates import certificate_files, first_end
from workers.selftest.check import Check, State

_DAY = 86400.0


def check_alerts(config: Config, *, send: bool) -> Iterator[Check]:
    """`send` tries each channel with a test message."""
    channels = channels_of(config.alerts)
    if not channels:
        advice = "add [alerts.webhook] or [alerts.mail] (docs/monitoring.md)"
        yield Check("alerts", State.NOTE, "nobody is told when the line needs a person", advice)
        return
    if not send:
        names = ", ".join(channel.name for channel in channels)
        yield Check("alerts", State.OK, f"told by {names}; `medpipe doctor --send-test-alert` tries it")
        return
    message = trial_message(config.listener.ae_title, time.time())
    for channel in channels:
        try:
            channel.send(message)
        except ChannelFailed as error:
            advice = "correct [alerts] in the settings, or the other side"
            yield Check(f"alert {channel.name}", State.AWAY, str(error), advice)
        else:
            yield Check(f"alert {channel.name}", State.OK, "took a test message")


def check_certificates(config: Config) -> Iterator[Check]:
    for key, path in certificate_files(config):
        try:
            days = (first_end(path) - time.time()) / _DAY
        except (OSError, ValueError):
            continue  # `load_config` has tried the file, and knows better what is wrong
        if days < 0:
            yield Check(key, State.FAILED, f"{path} has expired", "renew it, then restart medpipe")
        elif days < config.alerts.certificate_days:
            yield Check(key, State.NOTE, f"{path} ends in {days:.0f} days", "renew it, then restart medpipe")
