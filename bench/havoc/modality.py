"""A modality that keeps sending, and remembers what was acknowledged: that must never be lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from raw_peer import ACCEPTED, EXPLICIT, RELEASE, RawPeer, associate, c_store

from havoc.studies import OPHTHALMIC_8_BIT, Picture, draw_study

_CONTEXTS = ((1, OPHTHALMIC_8_BIT, (EXPLICIT,)),)
_ANSWER_SECONDS = 20.0
_TWO_PICTURES_EVERY, _TWICE_EVERY = 5, 7
_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Acknowledged:
    """An instance for which the listener has answered 0x0000: its study, and what its data set was."""

    study_uid: str
    series_uid: str
    digest: str
    size: int


@dataclass
class Modality:
    """Sends study after study, each instance until it is acknowledged. Every fifth study has two pictures.

    `room()` says whether another study may be sent now. `acknowledged` is by SOP Instance UID.
    """

    port: int
    room: Callable[[], bool]
    acknowledged: dict[str, Acknowledged] = field(default_factory=dict)
    refused: int = 0
    sent_again: int = 0

    def __post_init__(self) -> None:
        self._first: list[Picture] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="modality", daemon=True)

    @property
    def studies(self) -> set[str]:
        """The studies of which something was acknowledged."""
        return {one.study_uid for one in list(self.acknowledged.values())}

    def start_with(self, pictures: list[Picture]) -> None:
        """Begins, with this study."""
        self._first = pictures
        self._thread.start()

    def ask_to_finish(self) -> None:
        """No other study is begun; the one that is being sent is sent to its end."""
        self._stop.set()

    @property
    def is_sending(self) -> bool:
        return self._thread.is_alive()

    def _work(self) -> None:
        self.send(self._first, _PATIENCE_SECONDS)
        number = 0
        while not self._stop.is_set():
            if not self.room():
                self._stop.wait(0.2)
                continue
            number += 1
            pictures = draw_study(str(number), 2 if number % _TWO_PICTURES_EVERY == 0 else 1)
            self.send(pictures, _PATIENCE_SECONDS)
            if number % _TWICE_EVERY == 0:  # as an archive does that has not understood an answer
                self.send(pictures, _PATIENCE_SECONDS)

    def send(self, pictures: Iterable[Picture], seconds: float) -> bool:
        """Sends instances, again and again until all are acknowledged; whether they were."""
        left, until = list(pictures), time.monotonic() + seconds
        while left and time.monotonic() < until:
            try:
                left = self._send_once(left)
            except OSError:
                self.sent_again += 1
            if left:
                time.sleep(0.2)
        return not left

    def _send_once(self, pictures: list[Picture]) -> list[Picture]:
        """One association; what was not acknowledged."""
        left = list(pictures)
        with RawPeer(self.port, seconds=_ANSWER_SECONDS) as peer:
            if peer.ask(associate(_CONTEXTS)) != ACCEPTED:
                return left
            for number, picture in enumerate(pictures, start=1):
                instance = picture.sop_instance_uid.encode()
                peer.send(
                    *c_store(instance, picture.data, message_id=number, context=1, sop_class=OPHTHALMIC_8_BIT)
                )
                status = peer.status()
                if status is None:
                    break
                if status != 0:
                    self.refused += 1
                    continue
                left.remove(picture)
                self.acknowledged[picture.sop_instance_uid] = Acknowledged(
                    picture.study_uid, picture.series_uid, picture.digest, len(picture.data)
                )
            else:
                peer.ask(RELEASE)
        return left
