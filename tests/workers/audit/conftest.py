"""A registry to record in, the rules of PS3.15 A.5 for a message, and an audit record repository on a free port."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from local_authority import LocalAuthority

from medpipe.config import Config, parse_config
from medpipe.tls import listening_context
from workers.audit import note
from workers.registry import Registry

# --- A.5.1: elements in their order (how often), attributes (a pattern; a "?" in front of what may be absent) --------

CODED = ({"csd-code": r"\S+", "codeSystemName": r"\S+", "originalText": r".+", "?displayName": r".+"}, {})
PRESENT = r"(?s).+"
ELEMENTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "AuditMessage": ({}, {"EventIdentification": "1", "ActiveParticipant": "+", "AuditSourceIdentification": "1",
                          "ParticipantObjectIdentification": "*"}),
    "EventIdentification": (
        {"?EventActionCode": "[CRUDE]", "EventOutcomeIndicator": "0|4|8|12",
         "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"},
        {"EventID": "1", "EventTypeCode": "*", "EventOutcomeDescription": "?"},
    ),
    "EventID": CODED, "EventTypeCode": CODED, "RoleIDCode": CODED, "ParticipantObjectIDTypeCode": CODED,
    "EventOutcomeDescription": ({}, {}),
    "ActiveParticipant": (
        {"UserID": PRESENT, "UserIsRequestor": "true|false", "?AlternativeUserID": "(?s)AETITLES=.+", "?UserName": ".*",
         "?NetworkAccessPointID": r"\S+", "?NetworkAccessPointTypeCode": "[1-5]"},
        {"RoleIDCode": "*", "MediaIdentifier": "?"},
    ),
    "AuditSourceIdentification": (
        {"AuditSourceID": r"\S+", "?AuditEnterpriseSiteID": ".+"},
        {"AuditSourceTypeCode": "*"},
    ),
    "AuditSourceTypeCode": ({"csd-code": "[1-9]"}, {}),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID": PRESENT, "?ParticipantObjectTypeCode": "[1-4]",
         "?ParticipantObjectTypeCodeRole": r"[1-9]|1\d|2[0-6]", "?ParticipantObjectDataLifeCycle": r"[1-9]|1[0-5]",
         "?ParticipantObjectSensitivity": ".+"},
        {"ParticipantObjectIDTypeCode": "1", "ParticipantObjectName|ParticipantObjectQuery": "1",
         "ParticipantObjectDetail": "*", "ParticipantObjectDescription": "*"},
    ),
    "ParticipantObjectName": ({}, {}), "ParticipantObjectQuery": ({}, {}),
    "ParticipantObjectDetail": ({"type": ".+", "value": r"[A-Za-z0-9+/]+={0,2}"}, {}),
    "ParticipantObjectDescription": ({}, {"MPPS": "*", "Accession": "*", "SOPClass": "*"}),
    "SOPClass": ({"?UID": r"[0-9.]+", "NumberOfInstances": r"\d+"}, {"Instance": "*"}),
}  # fmt: skip
TEXT = {"EventOutcomeDescription", "ParticipantObjectName", "ParticipantObjectQuery"}


def faults_of(element: ET.Element) -> Iterator[str]:
    """What is wrong with an element and those in it, by the schema."""
    attributes, children = ELEMENTS[element.tag]
    for name, pattern in attributes.items():
        value = element.get(name.lstrip("?"))
        if value is None and not name.startswith("?"):
            yield f"{element.tag} lacks {name}"
        elif value is not None and re.fullmatch(pattern, value) is None:
            yield f"{element.tag} {name}={value!r}"
    known = {name.lstrip("?") for name in attributes}
    yield from (f"{element.tag} has {name}" for name in element.attrib if name not in known)
    order = "".join(f"<{child.tag}>" for child in element)
    wanted = "".join(f"(<({tag})>){'' if often == '1' else often}" for tag, often in children.items())
    if re.fullmatch(wanted, order) is None:
        yield f"{element.tag}: {order or 'nothing in it'}"
    if (element.text or "").strip() and element.tag not in TEXT:
        yield f"{element.tag}: text"
    for child in element:
        yield from faults_of(child) if child.tag in ELEMENTS else [f"no element {child.tag}"]


@pytest.fixture
def conforms() -> Callable[[ET.Element], bool]:
    """Whether a message is as the schema of PS3.15 A.5.1 has it; an AssertionError says why not."""

    def check(message: ET.Element) -> bool:
        assert message.tag == "AuditMessage"
        assert list(faults_of(message)) == []
        return True

    return check


# --- a site ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    return lambda **audit: parse_config({"site": {"root": str(tmp_path / "root")}, "audit": audit})


@pytest.fixture
def registry(configure: Callable[..., Config]) -> Iterator[Registry]:
    made = Registry(configure().site.database_url)
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def record(registry: Registry) -> Callable[..., None]:
    """`record("anna", "study opened", "1.2", address="10.0.0.1")`."""

    def write(who: str, what: str, study: str | None = None, at: float | None = None, **detail: Any) -> None:
        with registry.begin() as connection:
            note(connection, who, what, study, detail, at)

    return write


# --- a repository ----------------------------------------------------------------------------------------------------


class Repository:
    """A syslog receiver: `got` are the messages. Over TLS it takes them as RFC 5425 frames them."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.got: list[bytes] = []
        self.hang_up = 0
        """How many of the next connections are closed without a word."""
        self._tls, self._stop = tls, threading.Event()
        kind = socket.SOCK_DGRAM if tls is None else socket.SOCK_STREAM
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.02)
        if tls is not None:
            self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{'udp' if self._tls is None else 'tls'}://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                if self._tls is None:
                    self.got.append(self._socket.recv(65_535))
                else:
                    self._answer(self._socket.accept()[0], self._tls)
            except TimeoutError:
                continue

    def _answer(self, plain: socket.socket, tls: ssl.SSLContext) -> None:
        plain.settimeout(5)
        if self.hang_up:
            self.hang_up -= 1
            plain.close()
            return
        try:
            with tls.wrap_socket(plain, server_side=True) as connection:
                stream = bytearray()
                while block := connection.recv(4096):
                    stream += block
                connection.unwrap().close()
        except OSError:
            plain.close()
            return
        while stream:
            length, _, rest = bytes(stream).partition(b" ")
            self.got.append(rest[: int(length)])
            stream = bytearray(rest[int(length) :])


@pytest.fixture
def start_repository() -> Iterator[Callable[[ssl.SSLContext | None], Repository]]:
    running: list[Repository] = []

    def start(tls: ssl.SSLContext | None) -> Repository:
        running.append(Repository(tls))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def secured(start_repository: Callable[..., Repository], authority: LocalAuthority) -> Repository:
    """A repository that speaks TLS and wants our certificate, too."""
    own = authority.issue("repository")
    return start_repository(listening_context("repository", own.certificate, own.private_key, authority.ca))
