"""Orthanc's REST interface, as far as reconciliation needs it: what has changed, what a series holds, send it to us."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medpipe.config import OrthancRest
from medpipe.errors import PeerRefused, PeerUnreachable
from medpipe.pacs.query import NOT_IMAGES

_PAGE = 1000
_AT_ONCE = 100
"""Instances that one request asks for: an answer comes when all of them have been sent."""
_STORE_SECONDS = 600.0
_SERIES_CHANGES = frozenset({"NewSeries", "StableSeries"})


@dataclass(frozen=True)
class StoredSeries:
    """A series that Orthanc holds. `instances`: Orthanc's id -> SOP Instance UID; `stable`: quiet for StableAge."""

    study_uid: str
    series_uid: str
    modality: str
    manufacturer: str
    stable: bool
    instances: Mapping[str, str]

    def is_wanted(self, only: tuple[str, ...]) -> bool:
        """As autorouting.lua decides: images, no result, nothing of ours; of these modalities where any are named."""
        if self.modality in NOT_IMAGES or self.manufacturer == "medpipe":
            return False
        return not only or self.modality in only


class Orthanc:
    """One Orthanc. Each method raises PeerUnreachable (no answer) or PeerRefused (an answer that is none)."""

    def __init__(self, settings: OrthancRest, timeout: float = 30.0) -> None:
        self._settings, self._timeout = settings, timeout
        self._headers = {"Accept": "application/json"}
        if settings.user:
            pair = ":".join(settings.login())
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"

    def name(self) -> str:
        """What it calls itself; the cheapest question there is."""
        return str(self._get("/system")["Name"])

    def last_change(self) -> int:
        """The number of its newest change."""
        return int(self._get("/changes?last")["Last"])

    def changed_series(self, since: int) -> tuple[set[str], int]:
        """Orthanc's ids of all series that came or became stable after change `since`; the last number looked at."""
        found: set[str] = set()
        while True:
            page = self._get(f"/changes?since={since}&limit={_PAGE}")
            found |= {str(c["ID"]) for c in page["Changes"] if c["ChangeType"] in _SERIES_CHANGES}
            since = int(page["Last"])
            if page["Done"]:
                return found, since

    def series(self, series_id: str) -> StoredSeries | None:
        """One series by Orthanc's id; None when it is no longer there."""
        head = self._get_or_none(f"/series/{series_id}")
        study = self._get_or_none(f"/series/{series_id}/study") if head else None
        instances = self._get_or_none(f"/series/{series_id}/instances") if head else None
        if head is None or study is None or instances is None:
            return None
        tags = head["MainDicomTags"]
        return StoredSeries(
            study_uid=str(study["MainDicomTags"]["StudyInstanceUID"]),
            series_uid=str(tags["SeriesInstanceUID"]),
            modality=str(tags.get("Modality", "")),
            manufacturer=str(tags.get("Manufacturer", "")),
            stable=bool(head["IsStable"]),
            instances={str(one["ID"]): str(one["MainDicomTags"]["SOPInstanceUID"]) for one in instances},
        )

    def check_way_back(self) -> None:
        """Has Orthanc send a C-ECHO to us. Raises PeerUnreachable when our listener does not answer it."""
        try:
            self._call("POST", f"/modalities/{self._settings.modality}/echo", {})
        except _Status as error:
            if error.status == 404 and self._settings.modality not in self._get("/modalities"):
                raise PeerRefused(
                    f"Orthanc at {self._settings.url} knows no modality {self._settings.modality!r}: add our"
                    " listener to its DicomModalities"
                ) from error
            raise PeerUnreachable(
                f"Orthanc at {self._settings.url} does not reach our listener; is `medpipe listen` running?"
            ) from error

    def send(self, instance_ids: Iterable[str]) -> None:
        """Has Orthanc send these instances to our listener, and waits. One that is refused does not stop the others."""
        for part in _parts(list(instance_ids), _AT_ONCE):
            body = {"Resources": part, "Synchronous": True, "Permissive": True}
            self._call("POST", f"/modalities/{self._settings.modality}/store", body, _STORE_SECONDS)

    # --- HTTP ----------------------------------------------------------------------------------------------------

    def _get(self, path: str) -> Any:
        return self._call("GET", path)

    def _get_or_none(self, path: str) -> Any:
        try:
            return self._get(path)
        except _Status as error:
            if error.status == 404:
                return None
            raise

    def _call(self, method: str, path: str, body: object = None, timeout: float | None = None) -> Any:
        where = f"Orthanc at {self._settings.url}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._settings.url + path, data, self._headers, method=method)
        # the hospital's own network: never through a proxy that the environment names
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout or self._timeout) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (401, 403):
                    raise PeerRefused(
                        f"{where} refuses us (HTTP {error.code}): check user and password_file"
                    ) from None
                raise _Status(f"{where} answers {method} {path} with HTTP {error.code}", error.code) from None
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError):
                raise PeerRefused(f"{where} does not answer as an Orthanc does; check orthanc.url") from error
            raise PeerUnreachable(f"{where} does not answer; check orthanc.url and firewall") from error


class _Status(PeerRefused):
    """An HTTP status that says no."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


def _parts(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
