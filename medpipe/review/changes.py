"""Live updates: one look at the registry every second for all open pages, none while no page is open."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.to_thread
from sqlalchemy.exc import SQLAlchemyError

from medpipe.logs import Event, about

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_BREATH_SECONDS = 15.0
"""A comment at least this often: proxies end connections that say nothing."""


class Changes:
    """`stream` is one page's event stream; `watch` runs beside the server and wakes them all; `end` lets all go."""

    def __init__(self, pulse: Callable[[], tuple[Any, ...]]) -> None:
        self._pulse = pulse
        self._last: tuple[Any, ...] | None = None
        self._woken = anyio.Event()
        self._ended = False
        self._pages = 0

    async def watch(self) -> None:
        """Runs until cancelled. A database that is away only means that nothing changes."""
        while not self._ended:
            if self._pages:
                await self._look()
            await anyio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        try:
            now = await anyio.to_thread.run_sync(self._pulse)
        except SQLAlchemyError as error:
            log.warning(
                "the registry does not answer (%s)", type(error).__name__, extra=about(Event.DATABASE_AWAY)
            )
            return
        if (
            now != self._last
        ):  # the first look, too: something may have changed since the first page was written
            self._wake()
        self._last = now

    def end(self) -> None:
        """Ends all streams, so that the server can stop at once."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._woken.set()
        self._woken = anyio.Event()

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events (WHATWG HTML, 9.2): `changed` after each change, without any content."""
        self._pages += 1
        try:
            yield "retry: 3000\nevent: changed\ndata: {}\n\n"  # what happened while the page was not connected
            while not self._ended:
                woken = self._woken
                with anyio.move_on_after(_BREATH_SECONDS):
                    await woken.wait()
                yield "event: changed\ndata: {}\n\n" if woken.is_set() else ": still here\n\n"
        finally:
            self._pages -= 1
