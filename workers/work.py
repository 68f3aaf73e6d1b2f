"""The `work` process: a steward that settles, an engine that runs jobs, and the children that compute."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSPortableJSONSerializer

from medpipe.config import Config
from medpipe.routing import check_rules
from workers.deliver import Courier
from workers.jobs import JobRunner
from workers.lease import Lease
from workers.queue import JOBS, SEND_SLOTS, SENDING, WORKFLOW_VERSION, JobQueue, migrate_engine
from workers.registry import Registry
from workers.settle import Steward
from workers.slots import Slots
from workers.spool import Spool
from workers.status import is_idle
from workers.watchdog import requeue_forgotten

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_IDLE_ROUNDS = 4
_GRACE_SECONDS = 5


def prepare(config: Config) -> None:
    """What `init` does: folders, tables, the engine's tables. Safe to repeat, and for several processes at once."""
    Spool(config.site.root)
    registry = Registry(config.site.database_url)
    try:
        registry.migrate()
    finally:
        registry.close()
    migrate_engine(config.site.database_url)


class Worker:
    """Everything that one `work` process holds. Only one per process: the engine is a global of its library."""

    def __init__(self, config: Config) -> None:
        check_rules(config.rules)
        self.config = config
        self.spool = Spool(config.site.root)
        self.registry = Registry(config.site.database_url)
        self.queue = JobQueue(config.site.database_url)
        self.slots = Slots(config)
        self.lease = Lease(self.registry, config.site.root)
        self.stop = threading.Event()
        self._runner = JobRunner(
            config, self.spool, self.registry, self.queue, self.slots, self.lease.executor_id
        )
        self._courier = Courier(config, self.registry, self.queue)
        self._in_flight: set[str] = set()

    def run(self, until_idle: bool = False) -> None:
        """Works until told to stop (or, if asked, until nothing is left to do)."""
        self.lease.take()
        self._launch_engine()
        self.lease.start(self.stop)
        steward = threading.Thread(target=self._settle, name="steward", daemon=True)
        steward.start()
        log.info("worker %s is ready", self.lease.executor_id)
        idle = 0
        next_look = time.monotonic() + 5
        try:
            while not self.stop.wait(_POLL_SECONDS / 2):
                self.slots.keep_full()
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + 5
                    self._watch()
                if until_idle:
                    idle = idle + 1 if is_idle(self.registry, self.spool) and not self._in_flight else 0
                    if idle >= _IDLE_ROUNDS:
                        return
        finally:
            self.stop.set()
            log.info("worker %s stops; what it has not finished is taken over", self.lease.executor_id)
            self.slots.close()
            DBOS.destroy(workflow_completion_timeout_sec=_GRACE_SECONDS if until_idle else 0)
            steward.join(timeout=5)
            self.lease.release()
            self.queue.close()
            self.registry.close()

    def _settle(self) -> None:
        with Steward(self.config, self.spool, self.registry, self.queue.enqueue) as steward:
            steward.run(self.stop)

    def _watch(self) -> None:
        try:
            requeue_forgotten(self.registry, self.lease.executor_id, self._in_flight)
        except sa.exc.DBAPIError:
            log.warning("the database does not answer; the watchdog looks again later")

    def _launch_engine(self) -> None:
        DBOS(
            config={
                "name": "medpipe",
                "system_database_url": self.config.site.database_url,
                "application_version": WORKFLOW_VERSION,
                "executor_id": self.lease.executor_id,
                "log_level": "ERROR",
                "serializer": DBOSPortableJSONSerializer(),
                "sys_db_pool_size": 4,
                "run_migrations": False,
                "max_executor_threads": 2 * SEND_SLOTS + 2 * self.config.worker.slots + 8,
            }
        )
        self._register_workflows()
        DBOS.listen_queues([JOBS, SENDING])
        DBOS.launch()
        DBOS.register_queue(
            JOBS,
            worker_concurrency=self.config.worker.slots,
            polling_interval_sec=_POLL_SECONDS,
            on_conflict="always_update",
        )
        DBOS.register_queue(
            SENDING,
            worker_concurrency=SEND_SLOTS,
            polling_interval_sec=_POLL_SECONDS,
            on_conflict="always_update",
        )

    def _register_workflows(self) -> None:
        """Each workflow is one durable step: finished, it is never repeated; interrupted, it starts again."""
        retried: dict[str, Any] = {
            "retries_allowed": True,
            "max_attempts": 20,
            "interval_seconds": 1.0,
            "backoff_rate": 1.5,
            "should_retry": _is_database_trouble,
        }
        attempts = (
            self.config.worker.attempts + 5
        )  # the registry counts; the engine's own count is the last resort

        # plain functions: the engine keeps its notes as attributes of what it decorates
        @DBOS.step(name="process", **retried)
        def process(job_id: str, generation: int, attempt: int) -> str:
            return self._runner.run(job_id, generation, attempt)

        @DBOS.step(name="send", **retried)
        def send(job_id: str, destination: str, generation: int, attempt: int) -> str:
            return self._courier.deliver(job_id, destination, generation, attempt)

        @DBOS.step(name="ask", **retried)
        def ask(job_id: str, destination: str, generation: int, attempt: int) -> str:
            return self._courier.confirm(job_id, destination, generation, attempt)

        def job(job_id: str, generation: int, attempt: int) -> str:
            with _Marked(self._in_flight):
                return process(job_id, generation, attempt)

        def deliver(job_id: str, destination: str, generation: int, attempt: int) -> str:
            with _Marked(self._in_flight):
                return send(job_id, destination, generation, attempt)

        def confirm(job_id: str, destination: str, generation: int, attempt: int) -> str:
            with _Marked(self._in_flight):
                return ask(job_id, destination, generation, attempt)

        for workflow in (job, deliver, confirm):
            DBOS.workflow(name=workflow.__name__, max_recovery_attempts=attempts)(workflow)


class _Marked:
    """Keeps the workflow in the set of those that this process is running."""

    def __init__(self, in_flight: set[str]) -> None:
        self._in_flight = in_flight
        self._id = str(DBOS.workflow_id)

    def __enter__(self) -> None:
        self._in_flight.add(self._id)

    def __exit__(self, *_: object) -> None:
        self._in_flight.discard(self._id)


def _is_database_trouble(error: BaseException) -> bool:
    return isinstance(error, sa.exc.DBAPIError)


def run_worker(config: Config, *, stop: threading.Event | None = None, until_idle: bool = False) -> None:
    """Runs a worker in this process until SIGTERM, SIGINT or `stop`."""
    prepare(config)
    worker = Worker(config)
    if stop is not None:
        worker.stop = stop
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: _stop_or_leave(worker.stop))
        signal.signal(signal.SIGINT, lambda *_: _stop_or_leave(worker.stop))
    worker.run(until_idle)


def _stop_or_leave(stop: threading.Event) -> None:
    """The first signal asks; a second one does not wait: another worker takes over either way."""
    if stop.is_set():
        os._exit(1)
    stop.set()
