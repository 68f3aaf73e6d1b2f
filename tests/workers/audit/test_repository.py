"""The trail on its way to an audit record repository: real sockets, UDP and TLS; in order, and nothing is left out."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import sqlalchemy as sa
from local_authority import LocalAuthority
from local_process import free_port, wait_until

from medpipe.config import Config
from medpipe.errors import ConfigError, PeerInsecure, PeerUnreachable
from medpipe.tls import listening_context
from workers.audit import Notices
from workers.audit.repository import Clerk, delivered
from workers.audit.syslog import _part, _unacknowledged
from workers.registry import Registry
from workers.selftest import State
from workers.selftest.network import check_repository
from workers.tables import audit

HEAD = re.compile(
    rb"<(?P<priority>\d+)>1 (?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<host>[!-~]+) medpipe (?P<number>\d+)"
    rb" DICOM\+RFC3881 - \xef\xbb\xbf(?P<xml><\?xml.*)",
    re.DOTALL,
)


def parsed(one: bytes) -> re.Match[bytes]:
    found = HEAD.fullmatch(one)
    assert found is not None, one
    return found


def numbers(got: list[bytes]) -> list[int]:
    return [int(parsed(one)["number"]) for one in got]


@pytest.fixture
def clerk(configure: Callable[..., Config], registry: Registry) -> Callable[..., Clerk]:
    """`clerk(url, tls={...})`: what a worker runs."""
    return lambda url, **audit: Clerk(configure(repository=url, **audit), registry)


@pytest.fixture
def ours(authority: LocalAuthority) -> dict[str, str]:
    """Our side of TLS with the repository."""
    return {"ca": str(authority.ca), **authority.issue("worker").settings()}


def test_by_udp(
    clerk: Callable[..., Clerk],
    start_repository: Any,
    record: Callable[..., None],
    conforms: Callable[[ET.Element], bool],
) -> None:
    """RFC 5426: one datagram a message. RFC 5424 and PS3.15 A.6: facility 10, its own message id, a byte order mark."""
    repository = start_repository(None)
    record("anna", "study opened", "1.2.3", at=1_700_000_000.25, address="10.0.0.1")
    record("medpipe", "TLS refused", address="10.0.0.9", reason="it shows no certificate")
    assert clerk(repository.url).round() == 2
    assert wait_until(lambda: len(repository.got) == 2, 5)
    opened, refused = map(parsed, repository.got)
    assert (opened["priority"], refused["priority"]) == (b"85", b"84")  # notice; warning
    assert opened["time"] == b"2023-11-14T22:13:20.250Z"
    message = ET.fromstring(opened["xml"])
    assert conforms(message) and conforms(ET.fromstring(refused["xml"]))
    assert message.find("ParticipantObjectIdentification").get("ParticipantObjectID") == "1.2.3"  # type: ignore[union-attr]


def test_over_tls_with_certificates_of_both_sides(
    clerk: Callable[..., Clerk], secured: Any, ours: dict[str, str], record: Callable[..., None]
) -> None:
    made = clerk(secured.url, tls=ours)
    for number in range(1, 8):
        record("anna", "study opened", f"1.2.{number}")
    assert (made.round(), made.round()) == (7, 0)
    record("anna", "signed out")
    assert made.round() == 1
    assert numbers(secured.got) == list(range(1, 9))


def test_notices_come_into_the_trail_on_the_way(
    clerk: Callable[..., Clerk], secured: Any, ours: dict[str, str], configure: Callable[..., Config]
) -> None:
    Notices(configure().site.root).leave(
        "medpipe", "association refused", address="10.0.0.9", source="STRANGER"
    )
    assert clerk(secured.url, tls=ours).round() == 1
    assert b"STRANGER" in secured.got[0]


def test_more_than_fit_into_one_connection(
    clerk: Callable[..., Clerk], secured: Any, ours: dict[str, str], registry: Registry
) -> None:
    from workers.audit import note

    with registry.begin() as connection:
        for number in range(1, 603):
            note(connection, "anna", "study opened", f"1.2.{number}", {})
    assert clerk(secured.url, tls=ours).round() == 602
    assert numbers(secured.got) == list(range(1, 603))


def test_a_repository_that_is_away_gets_all_of_it_later(
    clerk: Callable[..., Clerk], start_repository: Any, secured: Any, ours: dict[str, str], record: Callable[..., None],
    configure: Callable[..., Config],
) -> None:  # fmt: skip
    record("anna", "study opened", "1.2.1")
    with pytest.raises(PeerUnreachable, match="does not answer"):
        clerk(f"tls://127.0.0.1:{free_port()}", tls=ours).round()
    assert delivered(configure().site.root).number == 0
    secured.hang_up = 1
    made = clerk(secured.url, tls=ours)
    with pytest.raises(PeerUnreachable):
        made.round()
    assert made.round() == 1 and numbers(secured.got) == [1]


def test_one_that_closes_without_a_word_has_what_its_tcp_acknowledged() -> None:
    class Closed(socket.socket):
        """A connection whose other side has closed it without TLS's farewell."""

        def unwrap(self) -> None:
            raise ssl.SSLEOFError

    with socket.create_server(("127.0.0.1", 0)) as server, Closed() as ours:
        ours.connect(server.getsockname())
        theirs = server.accept()[0]
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(100_000))  # more than it has room for, as long as it reads nothing
        with pytest.raises(ConnectionResetError, match="before all was read"):
            _part(ours)  # type: ignore[arg-type]
        theirs.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while theirs.recv(1_000_000):
                pass
        assert wait_until(lambda: _unacknowledged(ours) == 0, 10)
        _part(ours)  # type: ignore[arg-type]
        theirs.close()


def test_a_repository_that_we_do_not_trust_gets_nothing(
    clerk: Callable[..., Clerk], start_repository: Any, authority: LocalAuthority, ours: dict[str, str],
    record: Callable[..., None], tmp_path: Path,
) -> None:  # fmt: skip
    false = LocalAuthority(tmp_path / "false").issue("repository")
    impostor = start_repository(listening_context("x", false.certificate, false.private_key, None))
    record("anna", "study opened", "1.2.1")
    with pytest.raises(PeerInsecure, match="shows a certificate that is not trusted"):
        clerk(impostor.url, tls=ours).round()
    assert impostor.got == []


def test_a_repository_that_does_not_know_us_is_no_reason_to_forget(
    clerk: Callable[..., Clerk], secured: Any, authority: LocalAuthority, record: Callable[..., None],
    configure: Callable[..., Config],
) -> None:  # fmt: skip
    record("anna", "study opened", "1.2.1")
    with pytest.raises((PeerInsecure, PeerUnreachable)):
        clerk(secured.url, tls={"ca": str(authority.ca)}).round()  # without a certificate of ours
    assert delivered(configure().site.root).number == 0 and secured.got == []


def test_two_workers_do_not_send_the_same(
    clerk: Callable[..., Clerk], secured: Any, ours: dict[str, str], record: Callable[..., None],
    configure: Callable[..., Config],
) -> None:  # fmt: skip
    from workers.audit.notices import alone, folder

    record("anna", "study opened", "1.2.1")
    folder(configure().site.root).mkdir(parents=True)
    with alone(folder(configure().site.root) / ".delivering"):
        assert clerk(secured.url, tls=ours).round() == 0
    assert clerk(secured.url, tls=ours).round() == 1


def test_a_trail_that_is_another_one_is_delivered_anew(
    clerk: Callable[..., Clerk], secured: Any, ours: dict[str, str], record: Callable[..., None], registry: Registry,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The database was set back to an older copy."""
    made = clerk(secured.url, tls=ours)
    for number in (1, 2):
        record("anna", "study opened", f"1.2.{number}")
    made.round()
    with registry.begin() as connection:
        connection.execute(sa.delete(audit).where(audit.c.number == 2))
    record("bert", "study opened", "1.2.9")
    assert made.round() == 2
    assert numbers(secured.got) == [1, 2, 1, 2]
    assert "record 2 is not what was delivered" in caplog.text


def test_the_doctor_tries_it(
    configure: Callable[..., Config],
    start_repository: Any,
    secured: Any,
    ours: dict[str, str],
    authority: LocalAuthority,
) -> None:
    def state(**audit: Any) -> list[State]:
        return [check.state for check in check_repository(configure(**audit))]

    assert state() == []
    assert state(repository=start_repository(None).url) == [State.OK]
    assert state(repository=secured.url, tls=ours) == [State.OK]
    assert state(repository=f"tls://127.0.0.1:{free_port()}", tls=ours) == [State.AWAY]
    stranger = str(authority.self_signed("stranger").certificate)
    assert state(repository=secured.url, tls={"ca": stranger}) == [State.FAILED]
    assert secured.got == []


@pytest.mark.parametrize(
    "url",
    ["tcp://arr:514", "tls://arr", "udp://arr:0", "tls://me:secret@arr:6514", "udp://arr:514/x", "arr:514"],
)
def test_a_repository_is_an_address(configure: Callable[..., Config], url: str) -> None:
    with pytest.raises(ConfigError, match=r"audit.repository: tls://host:6514") as caught:
        configure(repository=url)
    assert "secret" not in str(caught.value)


def test_tls_without_trust_is_refused(configure: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"needs a table \[audit.tls\]"):
        configure(repository="tls://arr:6514")


def test_udp_over_ipv6(clerk: Callable[..., Clerk], record: Callable[..., None]) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("::1", 0))
        receiver.settimeout(5)
        record("anna", "signed in")
        assert clerk(f"udp://[::1]:{receiver.getsockname()[1]}").round() == 1
        assert b'"110114"' in receiver.recv(65_535)
