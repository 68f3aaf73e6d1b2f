"""Whose study it is: names and ids as the PACS has them, asked over DICOMweb, kept for some minutes in memory.

The registry has no patient data, and headers from outside are parsed in the guarded child alone: so the PACS is asked.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import httpx2
from pydantic import BaseModel

from medpipe.logs import Event, about
from medpipe.review.dicomweb import Proxy

log = logging.getLogger(__name__)

_KEPT_SECONDS = 300.0
_KEPT_UNKNOWN_SECONDS = 15.0
_MOST = 5000
_AT_ONCE = 40
"""Study UIDs in one question: an address of some 3000 characters."""


class Person(BaseModel):
    """What the worklist shows of a patient and of the order; empty where the PACS does not say."""

    name: str = ""
    patient_id: str = ""
    birth_date: str = ""
    study_date: str = ""
    accession_number: str = ""
    modalities: str = ""

    def matches(self, text: str) -> bool:
        """Whether each word of `text` occurs in one of the values, whatever its case."""
        whole = " ".join(self.model_dump().values()).casefold()
        return all(word in whole for word in text.casefold().split())


class People:
    """`of` gives those of some studies. Without DICOMweb, or while the PACS is away, all are empty."""

    def __init__(self, proxy: Proxy | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._proxy = proxy
        self._clock = clock
        self._kept: OrderedDict[str, tuple[Person, float]] = OrderedDict()

    async def of(self, study_uids: Iterable[str]) -> dict[str, Person]:
        """Study UID -> person, for each of them."""
        wanted = list(study_uids)
        now = self._clock()
        unknown = [uid for uid in wanted if uid not in self._kept or self._kept[uid][1] < now]
        if self._proxy is not None:
            for start in range(0, len(unknown), _AT_ONCE):
                if not await self._ask(self._proxy, unknown[start : start + _AT_ONCE]):
                    break
        people = {uid: self._kept[uid][0] if uid in self._kept else Person() for uid in wanted}
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return people

    async def _ask(self, proxy: Proxy, study_uids: Sequence[str]) -> bool:
        """Asks for some studies and keeps the answer; whether the PACS answered."""
        try:
            found = await proxy.search(
                StudyInstanceUID=",".join(study_uids), includefield="00080061", limit=str(len(study_uids))
            )
            people = {_text(item, "0020000D"): _person(item) for item in found}
        except (httpx2.HTTPError, ValueError, AttributeError, TypeError) as error:
            log.warning(
                "the PACS does not say whose studies these are (%s)",
                type(error).__name__,
                extra=about(Event.PEER_AWAY),
            )
            return False
        for uid in study_uids:
            seconds = _KEPT_SECONDS if uid in people else _KEPT_UNKNOWN_SECONDS
            self._kept[uid] = (people.get(uid, Person()), self._clock() + seconds)
        return True


def _person(item: Mapping[str, Any]) -> Person:
    return Person(
        name=_name(item),
        patient_id=_text(item, "00100020"),
        birth_date=_date(_text(item, "00100030")),
        study_date=_date(_text(item, "00080020")),
        accession_number=_text(item, "00080050"),
        modalities=" ".join(str(value) for value in item.get("00080061", {}).get("Value") or ()),
    )


def _text(item: Mapping[str, Any], tag: str) -> str:
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0] or "")


def _name(item: Mapping[str, Any]) -> str:
    """Family^Given^... -> Family, Given (PS3.5 section 6.2.1); the alphabetic group, else any."""
    values = item.get("00100010", {}).get("Value") or [{}]
    groups = values[0] or {}
    written = groups.get("Alphabetic") or next(iter(groups.values()), "")
    return ", ".join(part for part in str(written).split("^")[:2] if part)


def _date(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdecimal() else text
