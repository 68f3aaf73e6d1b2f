"""The `watch` process: looks at the site again and again, and tells somebody what has changed.

It is a process of its own beside the line and writes nothing that the line reads: whatever becomes of a webhook or a
mail server, no study waits for it. Of several that share `site.root` one watches, and another takes over when it ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from medpipe.config import Config
from medpipe.errors import UsageError
from medpipe.logs import Event, about
from workers.alerts.channels import Channel, ChannelFailed, channels_of
from workers.alerts.conditions import Look, look
from workers.alerts.memory import Memory, load, save
from workers.alerts.message import Message, site_name
from workers.registry import Registry
from workers.spool import Spool

log = logging.getLogger(__name__)


class Watch:
    """The state of one watch. `round` is one look; `run` goes on until told to stop."""

    def __init__(self, config: Config, see: Callable[[float], Look], channels: Sequence[Channel]) -> None:
        self._config, self._see, self._channels = config, see, channels
        self._quiet = 60 * config.alerts.quiet_minutes
        self._file = config.site.root / "alerts.json"

    def round(self, now: float) -> None:
        """One look, and telling those who do not know yet."""
        before = load(self._file)
        memory = before.without_channels_but(channel.name for channel in self._channels)
        memory = memory.after(self._see(now), now, self._quiet)
        for channel in self._channels:
            memory = self._tell(channel, memory, now)
        if memory != before:
            save(self._file, memory)

    def _tell(self, channel: Channel, memory: Memory, now: float) -> Memory:
        began, over = memory.news_for(channel.name, now)
        if not began and not over:
            return memory
        message = Message(site_name(self._config.listener.ae_title), now, tuple(began), tuple(over))
        try:
            channel.send(message)
        except ChannelFailed as error:
            log.warning("nobody was told: %s", error, extra=about(Event.ALERT_NOT_SENT, channel=channel.name))
            return memory.with_failure(channel.name, now, self._quiet)
        except Exception:  # the other channels are to be told all the same
            log.exception("nobody was told", extra=about(Event.ALERT_NOT_SENT, channel=channel.name))
            return memory.with_failure(channel.name, now, self._quiet)
        log.info(
            "told by %s: %s",
            channel.name,
            message.subject,
            extra=about(Event.ALERT_SENT, channel=channel.name),
        )
        memory = memory.with_told(channel.name, now, self._quiet)
        save(self._file, memory)  # at once: what was told is not told again
        return memory

    def run(self, stop: threading.Event) -> None:
        """Looks until `stop`. A fault of ours is logged, and the next look is the next chance."""
        while not stop.is_set():
            try:
                self.round(time.time())
            except Exception:
                log.exception("the watch stumbled; it looks again", extra=about(Event.PROCESS_STUMBLED))
            stop.wait(self._config.alerts.every)


def run_watch(config: Config, stop: threading.Event) -> None:
    """Watches a site until `stop`. Raises UsageError where the settings name nobody to tell."""
    channels = channels_of(config.alerts)
    if not channels:
        raise UsageError(
            "[alerts] names nobody to tell: add [alerts.webhook] or [alerts.mail] to the settings"
        )
    registry, spool = Registry(config.site.database_url), Spool(config.site.root)
    try:
        with _alone(config.site.root / "alerts.lock", stop) as ours:
            if ours:
                names = ", ".join(channel.name for channel in channels)
                log.info("watching; tells %s", names, extra=about(Event.PROCESS_READY))
                Watch(config, partial(look, config, registry, spool), channels).run(stop)
    finally:
        registry.close()


@contextmanager
def _alone(path: Path, stop: threading.Event) -> Iterator[bool]:
    """Waits until no other process watches this site; False where `stop` came first."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not stop.is_set():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stop.wait(1.0)
            else:
                yield True
                return
        yield False
    finally:
        os.close(descriptor)
