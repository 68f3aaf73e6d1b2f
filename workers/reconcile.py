"""Nothing is missed while we were away: what an Orthanc got, and we did not, is asked for.

Auto-routing forgets what it could not deliver when Orthanc is restarted. Orthanc's log of changes does not: we keep our
place in it, look at each series that has come since, and have the instances sent that we do not hold.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from medpipe.config import Config
from medpipe.errors import IntegrityError, MedpipeError, PeerRefused, StorageError, UsageError
from medpipe.logs import Event, about
from medpipe.pacs.orthanc import Orthanc, StoredSeries
from workers.database import is_away
from workers.durable import write_json
from workers.registry import Registry
from workers.settle import register_arrivals
from workers.spool import Spool
from workers.tables import instance

log = logging.getLogger(__name__)

_TRIES = 20
"""Per series, counted only while our listener answers: then it is refused for good, and a person must look."""
_BATCH = 500


@dataclass(frozen=True)
class Place:
    """Where we are in an Orthanc's changes; `waiting`: series not wholly here yet -> how often they were asked for."""

    since: int
    waiting: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Reconciled:
    """One look: series looked at, instances that came because we asked, series that are not wholly here yet."""

    series: int
    arrived: int
    waiting: int


class Reconciler:
    """Compares one Orthanc with our registry. `look` may be repeated at any time, and killed at any moment."""

    def __init__(self, config: Config, name: str, registry: Registry) -> None:
        peer = config.peers.get(name)
        if peer is None or peer.orthanc is None:
            known = [key for key, value in config.peers.items() if value.orthanc is not None]
            raise UsageError(
                f"peers.{name}.orthanc is not set: reconciling needs Orthanc's REST interface"
                f" (peers that have it: {', '.join(sorted(known)) or 'none'})"
            )
        self._only = peer.orthanc.only
        self._orthanc = Orthanc(peer.orthanc, peer.timeout)
        self._registry, self._spool, self._name = registry, Spool(config.site.root), name
        self._site = config.site
        self._folder = config.site.root / "reconcile"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / f"{name}.json"

    def look(self, *, from_start: bool = False) -> Reconciled:
        """One comparison. The first one ever begins at the newest change (or, if asked, at the very first).

        Raises PeerUnreachable when Orthanc does not answer, or our listener does not answer it: nothing is forgotten
        then. Raises UsageError when another process is at it.
        """
        with self._alone():
            place = self._place(from_start)
            changed, since = self._orthanc.changed_series(place.since)
            waiting = dict.fromkeys(changed, 0) | place.waiting
            # kept before anything is asked for: from here on nothing is forgotten
            self._keep(Place(since, waiting))
            found = {series_id: self._orthanc.series(series_id) for series_id in waiting}
            wanted = {key: one for key, one in found.items() if one and one.is_wanted(self._only)}
            missing = {key: self._missing(one) for key, one in wanted.items()}
            due = {key: ids for key, ids in missing.items() if ids and wanted[key].stable}
            if due:
                self._check_room()
                self._orthanc.check_way_back()
            arrived = 0
            still = {key: waiting[key] for key, one in wanted.items() if not one.stable}
            for key, ids in due.items():
                left = self._ask_for(wanted[key], ids)
                arrived += len(ids) - left
                if left and not self._is_hopeless(wanted[key], left, waiting[key] + 1):
                    still[key] = waiting[key] + 1
            self._keep(Place(since, still))
        if arrived:
            log.info(
                "%s: %d instances came that had been missed", self._name, arrived,
                extra=about(Event.PEER_RECONCILED, peer=self._name, number=arrived),
            )  # fmt: skip
        return Reconciled(len(wanted), arrived, len(still))

    def _check_room(self) -> None:
        """A full disk is no refusal: our listener would turn everything away, try after try."""
        if shutil.disk_usage(self._site.root).free < self._site.minimum_free:
            raise StorageError(
                f"{self._site.root} has less than site.minimum_free: free it, nothing is asked for"
            )

    def _ask_for(self, series: StoredSeries, ids: list[str]) -> int:
        """Has instances sent; how many of them did not come. One series that cannot be sent keeps no other back."""
        try:
            self._orthanc.send(ids)
        except PeerRefused as error:
            log.warning(
                "%s: series %s: %s", self._name, series.series_uid, error,
                extra=about(Event.PEER_NOT_RECONCILED, peer=self._name, series=series.series_uid),
            )  # fmt: skip
        return len(self._missing(series))

    def _is_hopeless(self, series: StoredSeries, missing: int, tries: int) -> bool:
        if tries < _TRIES:
            return False
        log.error(
            "%s: %d instances of series %s were sent %d times and not taken; see the listener's log, then"
            " `medpipe reprocess %s`", self._name, missing, series.series_uid, tries, series.study_uid,
            extra=about(Event.PEER_NOT_RECONCILED, peer=self._name, study=series.study_uid, number=missing),
        )  # fmt: skip
        return True

    def _missing(self, series: StoredSeries) -> list[str]:
        """Orthanc's ids of the instances that never reached us (what lies aside or is unreadable did)."""
        register_arrivals(self._spool, self._registry)
        uids = list(series.instances.values())
        here: set[str] = set()
        with self._registry.read() as connection:
            for start in range(0, len(uids), _BATCH):
                asked = instance.c.sop_instance_uid.in_(uids[start : start + _BATCH])
                here |= set(connection.execute(sa.select(instance.c.sop_instance_uid).where(asked)).scalars())
        return [key for key, uid in series.instances.items() if uid not in here]

    # --- our place -----------------------------------------------------------------------------------------------

    def _place(self, from_start: bool) -> Place:
        last = self._orthanc.last_change()
        if from_start:
            return Place(0)
        if not self._file.exists():
            log.info(
                "%s: reconciled from now on (its change %d)", self._name, last,
                extra=about(Event.PEER_RECONCILED, peer=self._name),
            )  # fmt: skip
            return Place(last)
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            place = Place(int(kept["since"]), {str(k): int(n) for k, n in kept["waiting"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"{self._file} is damaged; remove it to begin at the newest change"
            ) from error
        if place.since > last:
            log.warning(
                "%s: its changes begin anew (%d after our %d): another Orthanc, or one restored from a backup;"
                " what it got meanwhile is asked for by `medpipe reconcile --from-start`",
                self._name, last, place.since, extra=about(Event.PEER_NOT_RECONCILED, peer=self._name),
            )  # fmt: skip
            return Place(last, place.waiting)
        return place

    def _keep(self, place: Place) -> None:
        write_json(self._file, {"since": place.since, "waiting": place.waiting})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise UsageError(f"{self._name} is being reconciled by another process at this moment") from error
        finally:
            os.close(descriptor)

    @property
    def _lock(self) -> Path:
        return self._folder / f"{self._name}.lock"


def run_reconciler(config: Config, names: list[str], stop: threading.Event) -> None:
    """Looks again and again, each peer as often as it says, until `stop`. What is away is waited for."""
    registry = Registry(config.site.database_url)
    threads = [
        threading.Thread(target=_follow, args=(config, name, registry, stop), name=f"reconcile {name}")
        for name in names
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        registry.close()


def _follow(config: Config, name: str, registry: Registry, stop: threading.Event) -> None:
    rest = config.peers[name].orthanc
    reconciler, said = Reconciler(config, name, registry), ""
    while not stop.is_set():
        try:
            reconciler.look()
            said = ""
        except MedpipeError as error:
            if str(error) != said:  # an Orthanc that is away all night is told once
                log.warning("%s: %s", name, error, extra=about(Event.PEER_AWAY, peer=name))
            said = str(error)
        except Exception as error:
            if is_away(error):
                log.warning("%s: the database is away; waiting", name, extra=about(Event.DATABASE_AWAY))
            else:
                log.exception(
                    "%s: reconciling failed; tried again later", name,
                    extra=about(Event.PROCESS_STUMBLED, peer=name),
                )  # fmt: skip
        stop.wait(rest.every if rest else 60)
