"""The users of the review: those of the settings, and those of a file that `medpipe users` keeps.

A line of the file is a name, a space and a password hash. It is read again when it changes: who is taken out of it is
signed out at once.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from medpipe.config import SCRYPT_FORM, Review
from medpipe.errors import ConfigError, NotFound, UsageError
from medpipe.logs import Event, about

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HASH = re.compile(SCRYPT_FORM)


def check_name(name: str) -> None:
    """Raises UsageError for what cannot be a user's name."""
    if _NAME.fullmatch(name) is None:
        raise UsageError("a name has 1 to 64 letters, digits, dots, dashes and underscores")


class UsersFile:
    """The file as it stands now. What others write meanwhile is seen with the next question."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, int, int], dict[str, str]] | None = None

    def users(self) -> Mapping[str, str]:
        """Name -> hash; none where the file is not there. Raises ConfigError where it is no such file."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(f"review.users_file: {self.path} cannot be read ({error.strerror})") from error
        state = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._read is None or self._read[0] != state:
            self._read = (state, self._parsed())
        return self._read[1]

    def _parsed(self) -> dict[str, str]:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"review.users_file: {self.path} cannot be read ({type(error).__name__})"
            ) from error
        users: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, stored = line.partition(" ")
            if _NAME.fullmatch(name) is None or _HASH.fullmatch(stored.strip()) is None:
                raise ConfigError(
                    f"review.users_file: line {number} of {self.path} is not a name and a hash; see `medpipe users add`"
                )
            users[name] = stored.strip()
        return users

    def put(self, name: str, stored: str) -> bool:
        """Adds a user or gives one a new hash; whether the name is new. Raises UsageError for an impossible name."""
        check_name(name)
        users = dict(self.users())
        is_new = name not in users
        self._write({**users, name: stored})
        return is_new

    def remove(self, name: str) -> None:
        """Takes a user out. Raises NotFound."""
        users = dict(self.users())
        if name not in users:
            raise NotFound(f"no user of this name in {self.path}")
        del users[name]
        self._write(users)

    def _write(self, users: Mapping[str, str]) -> None:
        """Readers see the old file or the new one. Owner and mode stay; a new one is its folder's owner's alone."""
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            was = (self.path if self.path.exists() else self.path.parent).stat()
            if self.path.exists():
                os.fchmod(file.fileno(), was.st_mode & 0o777)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), was.st_uid, was.st_gid)
            file.writelines(f"{name} {stored}\n" for name, stored in sorted(users.items()))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.path)


class Users:
    """Whoever may sign in, as of now. A file that cannot be read lets nobody in that it names."""

    def __init__(self, settings: Review) -> None:
        self._settings = settings.users
        self._file = UsersFile(settings.users_file) if settings.users_file is not None else None
        self._broken = False

    def hash_of(self, name: str) -> str | None:
        """The password hash of a user, None for a name that nobody has."""
        return self._settings.get(name) or self._of_file().get(name)

    def _of_file(self) -> Mapping[str, str]:
        if self._file is None:
            return {}
        try:
            users = self._file.users()
        except ConfigError as error:
            if not self._broken:
                log.error("%s", error, extra=about(Event.USERS_NOT_READ))
            self._broken = True
            return {}
        self._broken = False
        return users

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.hash_of(name) is not None
