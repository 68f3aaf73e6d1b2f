"""Who is signed in: sessions in memory, and patience with those who guess. A restart signs everybody out."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from medpipe.review.passwords import is_password, nobodys

Clock = Callable[[], float]

_GUESSES = 5
_PAUSE_SECONDS = 60.0
_MOST_REMEMBERED = 10_000


class Sessions:
    """`open` gives a token for the browser; only its digest is kept. A session ends `seconds` after it was opened."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._held: OrderedDict[bytes, tuple[str, float]] = OrderedDict()  # oldest first: the first to end

    def open(self, user: str) -> str:
        """A new session; its token."""
        self._forget()
        token = secrets.token_urlsafe(32)
        self._held[_digest(token)] = (user, self._clock() + self._seconds)
        return token

    def user_of(self, token: str) -> str | None:
        """Whose session a token is, None for none."""
        user, end = self._held.get(_digest(token), ("", 0.0))
        return user if user and self._clock() < end else None

    def close(self, token: str) -> None:
        self._held.pop(_digest(token), None)

    def _forget(self) -> None:
        while self._held:
            _, end = next(iter(self._held.values()))
            if self._clock() < end and len(self._held) < _MOST_REMEMBERED:
                return
            self._held.popitem(last=False)


class Doorkeeper:
    """Checks names and passwords; after five wrong ones for a name it takes none for that name for a minute."""

    def __init__(self, users: Mapping[str, str], clock: Clock = time.monotonic) -> None:
        self._users = users
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def must_wait(self, name: str) -> bool:
        """Whether this name has been guessed at too often just now."""
        count, last = self._wrong.get(name, (0, 0.0))
        return count >= _GUESSES and self._clock() - last < _PAUSE_SECONDS

    def admits(self, name: str, password: str) -> bool:
        """Whether name and password belong together. Takes the same time for a name that does not exist."""
        if is_password(self._users.get(name) or nobodys(), password) and name in self._users:
            self._wrong.pop(name, None)
            return True
        count, last = self._wrong.pop(name, (0, 0.0))
        if self._clock() - last >= _PAUSE_SECONDS:
            count = 0
        self._wrong[name] = (count + 1, self._clock())
        if len(self._wrong) > _MOST_REMEMBERED:
            self._wrong.popitem(last=False)
        return False


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
