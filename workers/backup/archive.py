"""The backup's file: a tar that is written and read in one go, with the SHA-256 of every member.

The sums stand at the end, since nothing is read twice while it is written, and the sum of the sums is the very last
member: cut off or changed anywhere, the file is no backup.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from medpipe.errors import IntegrityError

FORMAT = 1
MANIFEST, SUMS, SEAL = "manifest.json", "SHA256SUMS", "SHA256SUMS.sha256"
DATABASES = {"sqlite": "database/medpipe.sqlite", "postgresql": "database/medpipe.pgdump"}
FOLDERS = ("spool", "outbox", "commitments", "reconcile", "audit")
"""What is put back under `site.root`."""
_BLOCK = 1 << 20
_SUM = re.compile(r"([0-9a-f]{64})  (.+)\n?")


@dataclass(frozen=True)
class Manifest:
    """What a backup says of itself; no patient data.

    `arrivals`: spool names that the database of the backup does not know yet. `surplus`: members that were copied and
    removed before the database was; they are not put back. `missing`: files that the database names and that were not
    on the disk.
    """

    medpipe: str
    taken_at: str
    database: str
    schema: str
    engine: int
    everything: bool
    bundles: dict[str, str]
    arrivals: list[str]
    surplus: list[str]
    missing: list[str]
    files: int
    size: int
    format: int = FORMAT


@dataclass(frozen=True)
class Backup:
    """A file that was read to its end and is whole."""

    path: Path
    manifest: Manifest
    sums: dict[str, str]

    @property
    def seal(self) -> str:
        """Which backup it is."""
        return self.sums[SUMS]


class ArchiveWriter:
    """Appends members; `seal` ends it. Nothing but names and digests is held in memory."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        self.sums: dict[str, str] = {}
        self.size = 0

    def close(self) -> None:
        self._file.close()

    def add(self, name: str, path: Path) -> None:
        """A file of the disk. Raises FileNotFoundError where it is gone; nothing is written then."""
        with path.open("rb") as source:
            status = os.fstat(source.fileno())
            self._put(name, source, status.st_size, int(status.st_mtime))

    def add_text(self, name: str, text: str, at: int) -> None:
        raw = text.encode()
        self._put(name, io.BytesIO(raw), len(raw), at)

    def seal(self, manifest: Manifest, at: int) -> None:
        """Manifest, sums, and the sum of the sums; then the file is complete and on the disk."""
        self.add_text(MANIFEST, json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n", at)
        self.add_text(SUMS, "".join(f"{digest}  {name}\n" for name, digest in self.sums.items()), at)
        self.add_text(SEAL, f"{self.sums[SUMS]}  {SUMS}\n", at)
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _put(self, name: str, source: IO[bytes], size: int, at: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = size, at, 0o600
        digesting = _Digesting(source)
        self._tar.addfile(member, digesting)
        self._tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all of them
        self.sums[name] = digesting.hexdigest()
        self.size += size


def read_archive(path: Path, use: Callable[[str, IO[bytes]], None]) -> dict[str, str]:
    """Hands each member to `use`, in the file's order; the digest of each. Raises IntegrityError.

    Whoever uses the bytes compares the digests afterwards.
    """
    sums: dict[str, str] = {}
    try:
        with tarfile.open(path, "r|") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                _check_member(path, member, sums)
                content = tar.extractfile(member)
                assert content is not None
                digesting = _Digesting(content)
                use(member.name, digesting)  # type: ignore[arg-type]
                while digesting.read(_BLOCK):
                    pass
                sums[member.name] = digesting.hexdigest()
    except tarfile.TarError as error:
        raise IntegrityError(f"{path}: not a backup, or damaged: {error}") from error
    return sums


def verify(path: Path) -> Backup:
    """Reads a whole backup and compares all digests. Raises IntegrityError where anything is missing or was changed."""
    kept: dict[str, bytes] = {}

    def keep(name: str, content: IO[bytes]) -> None:
        if name in (MANIFEST, SUMS, SEAL):
            kept[name] = content.read()

    sums = read_archive(path, keep)
    if not sums or list(sums)[-1] != SEAL:
        raise IntegrityError(f"{path}: not a finished backup: it ends too early")
    if _listed(path, kept[SEAL]) != {SUMS: sums.get(SUMS)}:
        raise IntegrityError(f"{path}: damaged: {SUMS} is not what was written")
    listed = _listed(path, kept[SUMS])
    members = {name: digest for name, digest in sums.items() if name not in (SUMS, SEAL)}
    for name in sorted(listed.keys() | members.keys()):
        if listed.get(name) != members.get(name):
            raise IntegrityError(f"{path}: damaged: {name} is not what was written")
    return Backup(path, _manifest(path, kept[MANIFEST]), sums)


def _check_member(path: Path, member: tarfile.TarInfo, seen: dict[str, str]) -> None:
    """Nothing but plain files with plain names: what comes back is written under `site.root` alone."""
    parts = PurePosixPath(member.name).parts
    plain = member.isreg() and parts and not member.name.startswith("/") and ".." not in parts
    if not plain or "\n" in member.name or member.name in seen:
        raise IntegrityError(f"{path}: not a backup: a member is no plain file, or there twice")


def _listed(path: Path, raw: bytes) -> dict[str, str | None]:
    listed: dict[str, str | None] = {}
    for line in raw.decode(errors="replace").splitlines():
        match = _SUM.fullmatch(line)
        if match is None:
            raise IntegrityError(f"{path}: damaged: {SUMS} cannot be read")
        listed[match[2]] = match[1]
    return listed


def _manifest(path: Path, raw: bytes) -> Manifest:
    try:
        plain: dict[str, Any] = json.loads(raw)
        if plain["format"] > FORMAT:
            raise IntegrityError(
                f"{path}: made by medpipe {plain['medpipe']}; use that version, or a newer one"
            )
        return Manifest(**plain)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: its manifest cannot be read") from error


class _Digesting:
    """A reader that digests what passes."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self._sha = source, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._source.read(size)
        self._sha.update(block)
        return block

    def hexdigest(self) -> str:
        return self._sha.hexdigest()
