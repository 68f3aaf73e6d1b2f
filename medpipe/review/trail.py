"""Who looked at what: the review's part of the audit trail. What cannot be recorded is not shown.

A study that somebody looks at is many requests, and one record: the next one comes when an hour has passed.
"""

from __future__ import annotations

import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio.to_thread
import sqlalchemy as sa
from starlette.requests import Request

from medpipe.identity import digest
from workers import audit
from workers.registry import Registry

NOBODY = "nobody signed in"
"""Who looks where no users are configured: whoever sits at this machine."""
UNKNOWN_NAME = "unknown name"
"""Who is refused under a name that is no user's: it may be a password, typed into the wrong field."""
_QUIET_SECONDS = 3600.0
_MOST_REMEMBERED = 10_000


class Trail:
    """Records of one running review. Each method raises SQLAlchemyError where the database does not take it."""

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._recent: OrderedDict[tuple[str, ...], float] = OrderedDict()

    async def opened(self, request: Request, study_uid: str) -> None:
        """Somebody is about to see a study: its page, its pictures, or whose it is."""
        await self._once(request, "study opened", study_uid, (study_uid,), {})

    async def searched(self, request: Request, text: str, group: str, found: int | None) -> None:
        """Somebody is about to see a list of studies. How many words were asked for is kept, and not which."""
        detail = {"words": len(text.split()), "group": group, "found": found}
        await self._once(request, "worklist searched", None, ("searched", digest(text), group), detail)

    async def asked_archive(
        self, request: Request, ours: str, archive: str, question: dict[str, str]
    ) -> None:
        """Somebody is about to have the PACS searched over DICOMweb; the same question once an hour."""
        detail = {"source": ours, "destination": archive, "question": question}
        about = ("archive", digest(*(part for item in sorted(question.items()) for part in item)))
        await self._once(request, "archive queried", None, about, detail)

    async def must_wait(self, request: Request, name: str) -> None:
        """Somebody goes on guessing; once an hour is enough to know it. `name` as in `refused`."""
        detail = {"reason": "too many wrong passwords just now"}
        await self._once(request, "sign-in refused", None, ("must wait",), detail, name)

    async def signed_in(self, request: Request, name: str) -> None:
        await self._note(name, "signed in", None, _from(request))

    async def refused(self, request: Request, name: str, reason: str) -> None:
        """`name` is a user's, or UNKNOWN_NAME."""
        await self._note(name, "sign-in refused", None, {**_from(request), "reason": reason})

    async def signed_out(self, request: Request) -> None:
        """Forgets what was looked at, too: who comes back looks again."""
        name = request.scope.get("user")
        if name is not None:
            self._recent = OrderedDict((key, at) for key, at in self._recent.items() if key[0] != name)
            await self._note(name, "signed out", None, _from(request))

    async def started(self) -> None:
        await self._note("medpipe", "application started", None, _PROCESS)

    async def stopped(self) -> None:
        with suppress(sa.exc.SQLAlchemyError):
            await self._note("medpipe", "application stopped", None, _PROCESS)

    async def _once(
        self,
        request: Request,
        what: str,
        study_uid: str | None,
        about: tuple[str, ...],
        detail: dict[str, Any],
        name: str | None = None,
    ) -> None:
        who, place = name or request.scope.get("user") or NOBODY, _from(request)
        key, now = (who, str(place.get("address", "")), *about), self._clock()
        if key in self._recent and now - self._recent[key] < _QUIET_SECONDS:
            return
        await self._note(who, what, study_uid, {**place, **detail})
        self._recent[key] = now
        self._recent.move_to_end(key)
        if len(self._recent) > _MOST_REMEMBERED:
            self._recent.popitem(last=False)

    async def _note(self, who: str, what: str, study_uid: str | None, detail: dict[str, Any]) -> None:
        def write() -> None:
            with self._registry.begin() as connection:
                audit.note(connection, who, what, study_uid, detail)

        await anyio.to_thread.run_sync(write)


_PROCESS = {"process": "review", "host": socket.gethostname(), "pid": os.getpid()}


def _from(request: Request) -> dict[str, Any]:
    """The browser's address: behind a reverse proxy on this machine, what that one says it is."""
    return {"address": request.client.host} if request.client is not None else {}
