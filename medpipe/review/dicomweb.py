"""`/dicom-web`: the PACS's own DICOMweb, read only, with the credentials that the browser never sees.

Only requests of the studies service that read (QIDO-RS and WADO-RS, PS3.18 sections 10.4 and 10.6) pass, and only with
UIDs in them: a search by name or birth date would write patient data into the logs of every proxy on the way.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio.to_thread
import httpx2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from medpipe.config import Peer
from medpipe.logs import Event, about
from medpipe.review.metadata import placed, rerouted, without_patient_id

log = logging.getLogger(__name__)

_UID = r"[0-9]+(?:\.[0-9]+)*"
_PATHS = re.compile(
    rf"studies(?:/{_UID}(?:/(?:metadata|series|instances|rendered|thumbnail)|/bulk/[0-9A-Za-z/._-]+)?)?"
    rf"|studies/{_UID}/series/{_UID}(?:/(?:metadata|instances|rendered|thumbnail))?"
    rf"|studies/{_UID}/series/{_UID}/instances/{_UID}"
    rf"(?:/(?:metadata|rendered|thumbnail|frames/[0-9]+(?:,[0-9]+)*|bulk/[0-9A-Za-z/._-]+))?"
)
_UID_KEYS = {"StudyInstanceUID", "0020000D", "SeriesInstanceUID", "0020000E", "SOPInstanceUID", "00080018"}
_ANSWER_KEYS = {"includefield", "limit", "offset", "fuzzymatching", "viewport", "quality"}
_WORD_KEYS = {*_ANSWER_KEYS, "Modality", "00080060", "ModalitiesInStudy"}
_UIDS = re.compile(rf"{_UID}(?:[,\\]{_UID})*")
_WORD = re.compile(r"[0-9A-Za-z,._-]{1,4000}")
_REQUEST_HEADERS = ("accept", "if-none-match", "range")
_ANSWER_HEADERS = ("content-type", "content-length", "content-range", "accept-ranges", "etag")
_LARGEST_JSON = 512 * 10**6


class Proxy:
    """Forwards to one configured PACS, and to nothing else. `aclose` gives its connections back.

    `place` is the peer's table in the settings, for messages. Raises ConfigError where its password cannot be read.
    """

    def __init__(self, peer: Peer, place: str = "peer") -> None:
        parts = urlsplit(peer.dicomweb)
        self.base = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        login = peer.dicomweb_login(place)
        self.client = httpx2.AsyncClient(
            auth=httpx2.BasicAuth(*login) if login is not None else None,
            timeout=httpx2.Timeout(peer.timeout, pool=60),
            limits=httpx2.Limits(max_connections=16),
            follow_redirects=False,
            trust_env=False,  # pictures do not go through a proxy of the environment
        )

    async def aclose(self) -> None:
        await self.client.aclose()

    async def answers(self) -> bool:
        """Whether the PACS answers a search with our credentials."""
        try:
            answer = await self.client.get(f"{self.base}/studies", params={"limit": 1}, headers=_JSON)
        except httpx2.HTTPError:
            return False
        return answer.status_code in (200, 204)

    async def search(self, **matches: str) -> list[dict[str, Any]]:
        """QIDO-RS for studies, as DICOM JSON. Raises httpx2.HTTPError or ValueError for any other answer."""
        answer = await self.client.get(f"{self.base}/studies", params=matches, headers=_JSON)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json() if answer.status_code == 200 else []
        return found

    async def __call__(self, request: Request) -> Response:
        """One request of the browser. Raises HTTPException 404 (not a reading request), 502 or 504 (the PACS)."""
        path = request.path_params["path"]
        if _PATHS.fullmatch(path) is None or not _plain(request):
            raise HTTPException(404, "not a reading DICOMweb request by UIDs")
        answer = await self._ask(path, request)
        if answer.status_code == 200 and path == "studies":
            return await _changed(answer, without_patient_id)
        if answer.status_code == 200 and path.endswith("/metadata"):
            ours = f"{request.base_url}dicom-web"
            return await _changed(answer, lambda body: placed(rerouted(body, ours)))
        kept = {name: answer.headers[name] for name in _ANSWER_HEADERS if name in answer.headers}
        return StreamingResponse(_body(answer), answer.status_code, kept | _NOT_STORED)

    async def _ask(self, path: str, request: Request) -> httpx2.Response:
        """The PACS's answer, its body not read yet. Raises HTTPException 502 or 504."""
        headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
        headers["accept-encoding"] = "identity"  # the body is passed on as it comes
        query = httpx2.QueryParams(tuple(request.query_params.multi_items()))
        asked = self.client.build_request("GET", f"{self.base}/{path}", params=query, headers=headers)
        with _pacs_errors():
            answer = await self.client.send(asked, stream=True)
        if answer.status_code in (401, 403):  # ours to mend, nothing that a reader could sign in to
            await answer.aclose()
            log.error(
                "DICOMweb of the PACS refuses our credentials (HTTP %d)",
                answer.status_code,
                extra=about(Event.PEER_AWAY, status=answer.status_code),
            )
            raise HTTPException(502, "the PACS refuses our credentials")
        return answer


def studies_of(request: Request) -> list[str] | None:
    """The studies that a request names in its path, or a search in its query; None for what is not passed on."""
    path = request.path_params["path"]
    if _PATHS.fullmatch(path) is None or not _plain(request):
        return None
    if path != "studies":
        return [path.split("/")[1]]
    named = [value for key in ("StudyInstanceUID", "0020000D") for value in request.query_params.getlist(key)]
    return [uid for value in named for uid in re.split(r"[,\\]", value)]


def question_of(request: Request) -> dict[str, str]:
    """What a search asks for, without how the answer is to be given (which page of it, which attributes)."""
    asked: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if key not in _ANSWER_KEYS:
            asked[key] = f"{asked[key]},{value}" if key in asked else value
    return asked


_JSON = {"accept": "application/dicom+json"}
_NOT_STORED = {"cache-control": "no-store"}


def _plain(request: Request) -> bool:
    """Whether the query holds nothing but UIDs and words that cannot be patient data."""
    for key, value in request.query_params.multi_items():
        if key in _UID_KEYS:
            if _UIDS.fullmatch(value) is None:
                return False
        elif key not in _WORD_KEYS or _WORD.fullmatch(value) is None:
            return False
    return True


async def _body(answer: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for block in answer.aiter_raw():
            yield block
    finally:
        await answer.aclose()


async def _changed(answer: httpx2.Response, change: Callable[[bytes], bytes]) -> Response:
    """A JSON answer, read whole and changed. Raises HTTPException 502 where it is too large or no DICOM JSON."""
    body = bytearray()
    with _pacs_errors():
        async for block in _body(answer):
            body += block
            if len(body) > _LARGEST_JSON:
                raise HTTPException(502, "the PACS's answer is too large")
    kind = answer.headers.get("content-type", "application/dicom+json")
    if "json" not in kind:
        raise HTTPException(502, "the PACS's answer is no DICOM JSON")
    try:
        changed = await anyio.to_thread.run_sync(change, bytes(body))
    except (ValueError, AttributeError, TypeError) as error:
        raise HTTPException(502, "the PACS's answer is no DICOM JSON") from error
    return Response(changed, 200, _NOT_STORED, kind)


@contextmanager
def _pacs_errors() -> Iterator[None]:
    try:
        yield
    except httpx2.TimeoutException as error:
        raise HTTPException(504, "the PACS did not answer in time") from error
    except httpx2.HTTPError as error:
        log.warning("DICOMweb of the PACS: %s", type(error).__name__, extra=about(Event.PEER_AWAY))
        raise HTTPException(502, "the PACS does not answer") from error
