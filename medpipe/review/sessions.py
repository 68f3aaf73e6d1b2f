"""Who is signed in: sessions in memory, and patience with those who guess. A restart signs everybody out."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from medpipe.review.passwords import is_password, nobodys

Clock = Callable[[], float]

_GUESSES = 5
_PAUSE_SECONDS = 60.0
_MOST_REMEMBERED = 10_000


class Sessions:
    """`open` gives a token for the browser; only its digest is kept. A session ends `seconds` after it was opened.

    `still_one(name)`: whether there still is such a user; the session of one who is no more ends at once.
    """

    def __init__(
        self,
        seconds: float,
        clock: Clock = time.monotonic,
        still_one: Callable[[str], bool] = lambda name: True,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._still_one = still_one
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
        return user if user and self._clock() < end and self._still_one(user) else None

    def close(self, token: str) -> None:
        self._held.pop(_digest(token), None)

    def _forget(self) -> None:
        while self._held:
            _, end = next(iter(self._held.values()))
            if self._clock() < end and len(self._held) < _MOST_REMEMBERED:
                return
            self._held.popitem(last=False)


class Doorkeeper:
    """Checks names and passwords; after five wrong ones for a name it takes none for that name for a minute.

    `hash_of` a name is its password's hash, None where nobody has it.
    """

    def __init__(self, hash_of: Callable[[str], str | None], clock: Clock = time.monotonic) -> None:
        self._hash_of = hash_of
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def must_wait(self, name: str) -> bool:
        """Whether this name has been guessed at too often just now."""
        count, last = self._wrong.get(name, (0, 0.0))
        return count >= _GUESSES and self._clock() - last < _PAUSE_SECONDS

    def admits(self, name: str, password: str) -> bool:
        """Whether name and password belong together. Takes the same time for a name that does not exist."""
        stored = self._hash_of(name)
        if is_password(stored or nobodys(), password) and stored is not None:
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
