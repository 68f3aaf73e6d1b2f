"""What all pages of one running review share: worklist, people, the way to the PACS, viewer, sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread

from medpipe.config import Config, Review
from medpipe.review.changes import Changes
from medpipe.review.dicomweb import Proxy
from medpipe.review.metrics import Metrics
from medpipe.review.people import People
from medpipe.review.sessions import Doorkeeper, Sessions
from medpipe.review.trail import Trail
from medpipe.review.users import Users
from medpipe.review.viewer import Viewer
from medpipe.review.viewer_package import viewer_folder
from medpipe.review.worklist import Study, Worklist
from workers.registry import Registry


class Site:
    """Made from the settings. `running` is what must go on beside the server."""

    def __init__(self, config: Config) -> None:
        self.settings = config.review or Review()
        self.registry = Registry(config.site.database_url)
        viewed = config.viewed_peer()
        self.proxy = Proxy(viewed[1], f"peers.{viewed[0]}") if viewed is not None else None
        self.titles = (config.listener.ae_title, viewed[1].ae_title if viewed is not None else "")
        self.viewer = Viewer(viewer_folder(self.settings))
        shown_peer = viewed[0] if viewed is not None and self.viewer.fetched else None
        self.worklist = Worklist(self.registry, config.worker.bundle_folders, shown_peer)
        self.people = People(self.proxy)
        self.metrics = Metrics(config, self.registry)
        self.changes = Changes(self.worklist.pulse)
        self.trail = Trail(self.registry)
        self.users = Users(self.settings)
        self.doorkeeper = Doorkeeper(self.users.hash_of)
        hours, is_user = self.settings.session_hours, self.users.__contains__
        self.sessions = Sessions(hours * 3600, still_one=is_user) if self.settings.has_sign_in else None
        self.one_guess_at_a_time = anyio.Lock()  # a hash takes 32 MiB

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watches for changes; gives the connections back in the end."""
        await self.trail.started()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.changes.watch)
                yield
                tasks.cancel_scope.cancel()
        finally:
            await self.trail.stopped()
            if self.proxy is not None:
                await self.proxy.aclose()
            self.registry.close()

    async def studies(self, group: str | None, limit: int) -> list[Study]:
        return await anyio.to_thread.run_sync(self.worklist.studies, group, limit)

    async def counts(self) -> dict[str, int]:
        return await anyio.to_thread.run_sync(self.worklist.counts)

    async def study(self, study_uid: str) -> Study | None:
        return await anyio.to_thread.run_sync(self.worklist.study, study_uid)

    async def shortcomings(self) -> dict[str, str]:
        """What does not work now: part -> what is wrong; nothing where all is well."""
        found = {}
        try:
            await anyio.to_thread.run_sync(self.worklist.pulse)
        except Exception as error:
            found["database"] = f"does not answer ({type(error).__name__})"
        if self.proxy is not None and not await self.proxy.answers():
            found["pacs"] = "its DICOMweb does not answer"
        return found
