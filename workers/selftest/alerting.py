"""Whether somebody is told when the line needs a person."""

from __future__ import annotations

import time
from collections.abc import Iterator

from medpipe.config import Config
from workers.alerts import ChannelFailed, channels_of, trial_message
from workers.selftest.check import Check, State


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
