"""The spool: every instance as received, with a small sidecar that says what it is. The sidecars are the truth.

    spool/incoming/               what is being received; left-overs of a killed listener are removed
    spool/instances/<hh>/<name>   <name>.dcm as received (only the preamble zeroed), <name>.json its sidecar
    spool/arrivals/<name>.json    a second link to the sidecar, until the registry knows the instance

A name is a digest of the SOP Instance UID and of the content, so no path is built from a foreign UID, the same
instance again finds its own file, and the same UID with other content gets a name beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medpipe.errors import IntegrityError, UsageError
from medpipe.identity import digest
from medpipe.logs import Event, about
from workers import faults
from workers.durable import json_text, sync_files, sync_folder

log = logging.getLogger(__name__)

RESTORING = ".restoring"
"""Below `site.root` while a backup is being put into place."""
_PREAMBLE = 128
_BLOCK = 1 << 20
_STALE_INCOMING_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Sidecar:
    """What is known of one received instance; no patient data. `file` is the name without suffix.

    `digest` is the SHA-256 of the data set's bytes (preamble and meta header left out), and of the transfer syntax
    where the same bytes had come in another one. `aside`: another readable content came first under the same UID.
    `unreadable`: why the header could not be read.
    """

    file: str
    sop_instance_uid: str
    sop_class_uid: str
    study_uid: str | None
    series_uid: str | None
    transfer_syntax: str
    digest: str
    size: int
    calling_ae: str
    called_ae: str
    received_at: float
    aside: bool = False
    unreadable: str | None = None
    version: int = 1


@dataclass(frozen=True)
class Arrival:
    """What the listener knows of an instance when its last byte has come."""

    sop_instance_uid: str
    sop_class_uid: str
    study_uid: str | None
    series_uid: str | None
    transfer_syntax: str
    calling_ae: str
    called_ae: str
    unreadable: str | None = None


class Spool:
    """The folders under `site.root`. Any number of processes and machines may share them (POSIX rename and fsync)."""

    def __init__(self, root: Path) -> None:
        if (root / RESTORING).exists():
            raise UsageError(
                f"{root}: a restore has not ended; run `medpipe restore` again with the same backup"
            )
        self.root = root
        self.incoming = root / "spool" / "incoming"
        self.instances = root / "spool" / "instances"
        self._arrivals = root / "spool" / "arrivals"
        for folder in (self.incoming, self.instances, self._arrivals):
            folder.mkdir(parents=True, exist_ok=True)

    def receive(
        self, temporary: Path, arrival: Arrival, received_at: float, *, content: str | None = None
    ) -> tuple[Sidecar, bool]:
        """Takes over a complete Part 10 file from `incoming`; returns its sidecar, and whether it is new.

        `content` is the digest of its data set where the caller wrote the file (its preamble zeroed) and knows it.

        When this returns the instance is durable. The same instance again changes nothing; the same UID with other
        content is kept aside. Raises OSError where the disk does not take it (nothing is acknowledged then).
        """
        if content is None:
            _zero_preamble(temporary)
            content = _content_digest(temporary)
        stem = digest(arrival.sop_instance_uid)[:32]
        name = f"{stem}-{content[:16]}"
        folder = self.instances / stem[:2]
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            sync_folder(self.instances)
        with _locked(folder):
            known = self._known(folder / f"{name}.json")
            if known is not None and known.transfer_syntax != arrival.transfer_syntax:
                content = digest(content, arrival.transfer_syntax)  # the same bytes mean something else there
                name = f"{stem}-{content[:16]}"
                known = self._known(folder / f"{name}.json")
            if known is not None:
                temporary.unlink()
                sync_folder(folder)  # its first receipt may have ended before that, or before the link
                self._announce(name)
                return known, False
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries]
            others = [one for one in names if one.startswith(f"{stem}-") and one.endswith(".json")]
            # what could not be read is of no study: it must not keep the readable one out of its own
            aside = any(_is_readable(folder / one) for one in others)
            sidecar = Sidecar(
                file=name,
                digest=content,
                size=temporary.stat().st_size,
                received_at=received_at,
                aside=aside,
                **vars(arrival),
            )
            described = temporary.with_suffix(".json")
            try:
                faults.point("before_sidecar")
                described.write_text(json_text(vars(sidecar)), encoding="utf-8")
                sync_files(temporary, described)
                faults.point("after_fsync")
                temporary.replace(folder / f"{name}.dcm")
                faults.point("after_rename")
                described.replace(folder / f"{name}.json")  # where the sidecar is, the file is
            finally:
                described.unlink(missing_ok=True)
            faults.point("after_sidecar")
            sync_folder(folder)
            self._announce(name)
        return sidecar, True

    def _announce(self, name: str) -> None:
        """Not flushed: after a power cut `repair` announces again."""
        with contextlib.suppress(FileExistsError):
            os.link(self.path_named(name).with_suffix(".json"), self._arrivals / f"{name}.json")

    def _known(self, path: Path) -> Sidecar | None:
        """The sidecar of an instance that is already safely here (its file too)."""
        if not path.is_file() or not path.with_suffix(".dcm").is_file():
            return None
        return read_sidecar(path)

    def arrivals(self, limit: int = 1000) -> list[Sidecar]:
        """Instances that the registry does not know yet, oldest first; at most `limit`."""
        names: list[tuple[float, str]] = []
        with os.scandir(self._arrivals) as entries:
            for entry in entries:
                if entry.name.endswith(".json"):
                    with contextlib.suppress(FileNotFoundError):  # another steward was quicker
                        names.append((entry.stat().st_mtime, entry.name))
        found: list[Sidecar] = []
        for _, name in sorted(names):
            if len(found) >= limit:
                break
            try:
                found.append(read_sidecar(self._arrivals / name))
            except FileNotFoundError:
                continue
            except IntegrityError as error:  # it stays where it is; its neighbours do not wait for it
                log.error("%s", error, extra=about(Event.INSTANCE_UNREADABLE))
        return found

    def oldest_arrival(self) -> float | None:
        """When the oldest instance came that the registry does not know yet (seconds since 1970)."""
        times: list[float] = []
        with os.scandir(self._arrivals) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    times.append(entry.stat().st_mtime)
        return min(times, default=None)

    def registered(self, sidecar: Sidecar) -> None:
        """Says that the registry holds the instance durably."""
        (self._arrivals / f"{sidecar.file}.json").unlink(missing_ok=True)

    def sidecars(self, study_uid: str | None = None) -> Iterator[Sidecar]:
        """All instances, or those of one study, by reading every sidecar: what the registry is rebuilt from."""
        for path in sorted(self.instances.glob("??/*.json")):
            with contextlib.suppress(FileNotFoundError):
                sidecar = read_sidecar(path)
                if study_uid is None or sidecar.study_uid == study_uid:
                    yield sidecar

    def path_of(self, sidecar: Sidecar) -> Path:
        """Where the instance's bytes are."""
        return self.path_named(sidecar.file)

    def path_named(self, name: str) -> Path:
        """Where the bytes of the instance with this spool name are."""
        return self.instances / name[:2] / f"{name}.dcm"

    def repair(self) -> int:
        """After a crash: links instances whose registration may be open, removes stale left-overs; counts the links.

        A file without sidecar, or the reverse, was never acknowledged: the sender still has it. A file is removed only
        once it is a day old. What arrived in the last day before the newest arrival is offered again.
        """
        for number in range(256):
            (self.instances / f"{number:02x}").mkdir(exist_ok=True)
        sync_folder(self.instances)
        for path in self.instances.glob("??/*.dcm"):
            if not path.with_suffix(".json").exists() and _age(path) > _STALE_INCOMING_SECONDS:
                path.unlink(missing_ok=True)
        for path in self.incoming.iterdir():
            if path.is_file() and _age(path) > _STALE_INCOMING_SECONDS:
                path.unlink(missing_ok=True)
        ages = {path: _age(path) for path in self.instances.glob("??/*.json")}
        youngest = min(ages.values(), default=0.0)
        linked = 0
        for path, age in ages.items():
            if not path.with_suffix(".dcm").exists():
                self.remove(path.stem)
            elif age < youngest + _STALE_INCOMING_SECONDS:
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    os.link(path, self._arrivals / path.name)
                    linked += 1
        return linked

    def let_go(self, name: str) -> bool:
        """Removes one instance for good (retention). False where it has just arrived again: then it stays.

        Twice is once. Under the lock of `receive`: what comes later finds nothing here, and is taken as new.
        """
        path = self.path_named(name)
        if not path.parent.is_dir():
            return True
        with _locked(path.parent):
            if (self._arrivals / f"{name}.json").exists():
                return False
            path.with_suffix(".json").unlink(missing_ok=True)  # first: a file without sidecar was never here
            path.unlink(missing_ok=True)
            sync_folder(path.parent)
        return True

    def remove(self, name: str) -> None:
        """Forgets what is left of an instance whose file is gone."""
        path = self.path_named(name)
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        (self._arrivals / f"{name}.json").unlink(missing_ok=True)


def read_sidecar(path: Path) -> Sidecar:
    """One sidecar file. Raises IntegrityError where it is not ours."""
    try:
        return Sidecar(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{path}: not a sidecar of this version") from error


def _is_readable(sidecar: Path) -> bool:
    """Whether an instance's header could be read; one of which we cannot know counts as sound."""
    try:
        return read_sidecar(sidecar).unreadable is None
    except IntegrityError:
        return True


def _zero_preamble(path: Path) -> None:
    """PS3.10 section 7.1 leaves the preamble to the sender: a place for executables of other kinds."""
    with path.open("r+b") as file:
        if file.read(_PREAMBLE) != bytes(_PREAMBLE):
            file.seek(0)
            file.write(bytes(_PREAMBLE))


def _content_digest(path: Path) -> str:
    """SHA-256 of the data set's bytes. The meta header is the sender's wrapping, not content."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        head = file.read(_PREAMBLE + 4 + 12)
        start = _PREAMBLE + 4
        if head[start : start + 8] == b"\x02\x00\x00\x00UL\x04\x00":
            file.seek(start + 12 + int.from_bytes(head[start + 8 : start + 12], "little"))
        else:
            file.seek(0)
        while block := file.read(_BLOCK):
            sha.update(block)
    return sha.hexdigest()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process at a time decides what is new in a folder."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
