"""The `work` process: a steward that settles, an engine that runs jobs, and the children that compute."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from dbos import DBOS, DBOSPortableJSONSerializer, Queue

from medpipe.config import Config
from medpipe.logs import Event, about, concerning
from medpipe.routing import check_rules
from workers import faults, trace
from workers.audit import active
from workers.audit.repository import Clerk
from workers.confirm import Notary
from workers.database import is_away
from workers.deliver import Courier
from workers.errands import Errands
from workers.forgetting import Forgetter
from workers.jobs import JobRunner
from workers.lease import Lease
from workers.pace import POLL_SECONDS, Pace
from workers.queue import JOBS, SEND_SLOTS, SENDING, WORKFLOW_VERSION, JobQueue, migrate_engine
from workers.registry import Registry
from workers.retention import Janitor
from workers.settle import Steward
from workers.slots import CHILD_COMMAND, Interrupted, Slots
from workers.spool import Spool
from workers.status import is_idle
from workers.tidy import tidy
from workers.watchdog import Watchdog

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.25
_NOTES_SECONDS = 1.0
"""How long the engine may collect notifications. Nobody waits for one; by default it looks a hundred times a second."""
_IDLE_ROUNDS = 4
_GRACE_SECONDS = 10
"""How long a step may go on after SIGTERM; then its child is killed and the job waits for another worker."""


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

    def __init__(self, config: Config, child: Sequence[str] = CHILD_COMMAND) -> None:
        check_rules(config.rules)
        self.config = config
        self.spool = Spool(config.site.root)
        self.registry = Registry(config.site.database_url)
        self.queue = JobQueue(config.site.database_url)
        self.slots = Slots(config, child)
        self.lease = Lease(self.registry, config.site.root)
        self.stop = threading.Event()
        executor_id = self.lease.executor_id
        errands = Errands(config, self.registry, self.queue, executor_id)
        self._runner = JobRunner(config, self.spool, self.registry, self.queue, self.slots, executor_id)
        self._courier, self._notary = Courier(config, errands), Notary(config, errands)
        self._in_flight: Counter[str] = Counter()
        self._watchdog = Watchdog(self.registry, executor_id, self._in_flight)
        self._pace = Pace(self.registry)
        self._queues: list[Queue] = []

    def run(self, until_idle: bool = False) -> None:
        """Works until told to stop (or, if asked, until nothing is left to do)."""
        self.lease.take()
        self._launch_engine()
        ended = threading.Event()
        self.lease.start(ended)  # beats to the very end: what still runs is ours
        steward = threading.Thread(target=self._settle, name="steward", daemon=True)
        steward.start()
        janitor = threading.Thread(target=self._remove_old, name="janitor", daemon=True)
        janitor.start()
        clerk = threading.Thread(target=self._keep_trail, name="clerk", daemon=True)
        clerk.start()
        forgetter = threading.Thread(target=self._forget_ended, name="forgetter", daemon=True)
        forgetter.start()
        tidy(self.config, self.registry)
        log.info("worker %s is ready", self.lease.executor_id, extra=about(Event.PROCESS_READY))
        idle = 0
        try:
            while not self.stop.wait(_LOOK_SECONDS):
                self.slots.keep_full()
                self._watchdog.look(self.lease.leads)
                if self.lease.leads:
                    self._pace.look(self._queues)
                if until_idle:
                    idle = idle + 1 if self._is_idle() else 0
                    if idle >= _IDLE_ROUNDS:
                        return
        finally:
            self.stop.set()
            self._end((steward, janitor, clerk, forgetter), ended)

    def _end(self, threads: Sequence[threading.Thread], ended: threading.Event) -> None:
        """Claims nothing more, lets running steps finish for a short time, gives the rest back."""
        log.info("worker %s stops", self.lease.executor_id, extra=about(Event.PROCESS_STOPS))
        last_call = threading.Timer(_GRACE_SECONDS, self.slots.close)
        last_call.start()
        DBOS.destroy(workflow_completion_timeout_sec=_GRACE_SECONDS + 3)
        last_call.cancel()
        self.slots.end()
        for thread in threads:
            thread.join(timeout=5)
        ended.set()
        self.lease.release()
        self.queue.close()
        self.registry.close()

    def _is_idle(self) -> bool:
        return not +self._in_flight and is_idle(self.registry, self.spool)

    def _settle(self) -> None:
        with Steward(self.config, self.spool, self.registry, self.queue.enqueue) as steward:
            steward.run(self.stop, lambda: self.lease.leads)

    def _remove_old(self) -> None:
        Janitor(self.config, self.spool, self.registry).run(self.stop, lambda: self.lease.leads)

    def _forget_ended(self) -> None:
        Forgetter(self.config, self.registry, self.queue).run(self.stop, lambda: self.lease.leads)

    def _keep_trail(self) -> None:
        Clerk(self.config, self.registry).run(self.stop)

    def _launch_engine(self) -> None:
        DBOS(
            config={
                "name": "medpipe",
                "system_database_url": self.config.site.database_url,
                "application_version": WORKFLOW_VERSION,
                "executor_id": self.lease.executor_id,
                "log_level": "ERROR",
                "serializer": DBOSPortableJSONSerializer(),
                "sys_db_pool_size": 3,
                "notification_coalesce_sec": _NOTES_SECONDS,
                "run_migrations": False,
                "max_executor_threads": 2 * SEND_SLOTS + 2 * self.config.worker.slots + 8,
            }
        )
        self._register_workflows()
        DBOS.listen_queues([JOBS, SENDING])
        DBOS.launch()
        self._queues = [
            DBOS.register_queue(
                name,
                worker_concurrency=slots,
                polling_interval_sec=POLL_SECONDS,
                on_conflict="always_update",
            )
            for name, slots in ((JOBS, self.config.worker.slots), (SENDING, SEND_SLOTS))
        ]

    def _register_workflows(self) -> None:
        """Each workflow is one durable step: finished, it is never repeated; interrupted, it starts again."""
        attempts = (
            self.config.worker.attempts + 5
        )  # the registry counts; the engine's own count is the last resort

        # plain functions: the engine keeps its notes as attributes of what it decorates
        @DBOS.step(name="process")
        def process(job_id: str, generation: int, attempt: int) -> str:
            return self._outlasting(lambda: self._runner.run(job_id, generation, attempt))

        @DBOS.step(name="send")
        def send(job_id: str, destination: str, generation: int, attempt: int) -> str:
            return self._outlasting(lambda: self._courier.deliver(job_id, destination, generation, attempt))

        @DBOS.step(name="ask")
        def ask(job_id: str, destination: str, generation: int, attempt: int) -> str:
            return self._outlasting(lambda: self._notary.confirm(job_id, destination, generation, attempt))

        def job(job_id: str, generation: int, attempt: int) -> str:
            with concerning(job=job_id), _Marked(self._in_flight):
                return process(job_id, generation, attempt)

        def deliver(job_id: str, destination: str, generation: int, attempt: int) -> str:
            with concerning(job=job_id), _Marked(self._in_flight):
                return send(job_id, destination, generation, attempt)

        def confirm(job_id: str, destination: str, generation: int, attempt: int) -> str:
            with concerning(job=job_id), _Marked(self._in_flight):
                return ask(job_id, destination, generation, attempt)

        for workflow in (job, deliver, confirm):
            DBOS.workflow(name=workflow.__name__, max_recovery_attempts=attempts)(workflow)

    def _outlasting(self, work: Callable[[], str]) -> str:
        """A step's work, begun anew for as long as the database is away; what it comes to. Raises Interrupted.

        The engine's own repetitions come to an end, and wait for up to an hour.
        """
        pause = 1.0
        while True:
            try:
                state = work()
            except sa.exc.SQLAlchemyError as error:
                if not is_away(error):
                    raise
            else:
                # all its effects are there, and the engine is about to note it
                faults.point("before_checkpoint")
                return state
            log.warning("the database does not answer; the work waits", extra=about(Event.DATABASE_AWAY))
            if self.stop.wait(pause):
                raise Interrupted
            pause = min(1.5 * pause, 15.0)


class _Marked:
    """Counts the workflow among those that this process is running (twice where a stalled run of it wakes up)."""

    def __init__(self, in_flight: Counter[str]) -> None:
        self._in_flight = in_flight
        self._id = str(DBOS.workflow_id)

    def __enter__(self) -> None:
        self._in_flight[self._id] += 1

    def __exit__(self, *_: object) -> None:
        faults.point("after_checkpoint")
        self._in_flight[self._id] -= 1


def run_worker(config: Config, *, stop: threading.Event | None = None, until_idle: bool = False) -> None:
    """Runs a worker in this process until SIGTERM, SIGINT or `stop`."""
    prepare(config)
    trace.begin()
    with active(config.site.root, "work"):
        _run(Worker(config), stop, until_idle)


def _run(worker: Worker, stop: threading.Event | None, until_idle: bool) -> None:
    if stop is not None:
        worker.stop = stop
    if threading.current_thread() is threading.main_thread():
        ask = _Asked(worker.stop)
        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGINT, ask)
    try:
        worker.run(until_idle)
    finally:
        trace.end()


class _Asked:
    """The first signal asks; a later one does not wait: another worker takes over either way.

    A terminal's Ctrl-C comes twice, as SIGINT from the terminal and as SIGTERM from the supervisor: that is one.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._at = stop, 0.0

    def __call__(self, *_: object) -> None:
        if self._stop.is_set() and time.monotonic() - self._at > 1.0:
            os._exit(1)
        if not self._stop.is_set():
            self._at = time.monotonic()
            self._stop.set()
