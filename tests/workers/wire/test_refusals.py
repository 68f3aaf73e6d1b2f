"""Who is not let in is on record: as notices beside the spool, for the database may be away."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from local_authority import LocalAuthority
from local_process import wait_until
from raw_peer import associate

from medpipe.config import Peer
from medpipe.errors import MedpipeError
from medpipe.pacs import echo


def notices(listening: Any) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((listening.root / "audit").glob("*.json"))]


def left(listening: Any, what: str) -> dict[str, Any]:
    assert wait_until(lambda: bool(notices(listening)), 5)
    (one,) = notices(listening)
    assert (one["who"], one["what"], one["study_uid"]) == ("medpipe", what, None)
    assert one["detail"]["address"] == "127.0.0.1"
    detail: dict[str, Any] = one["detail"]
    return detail


@pytest.mark.parametrize(
    ("titles", "reason"),
    [
        ({"calling": b"STRANGER"}, "its AE title may not call"),
        ({"called": b"ANOTHER"}, "it called another AE title"),
    ],
)
def test_a_title_that_is_refused(listen: Callable[..., Any], titles: dict[str, bytes], reason: str) -> None:
    listening = listen()
    with listening.peer() as peer:
        peer.ask(associate(**titles))
    detail = left(listening, "association refused")
    assert detail["reason"] == reason
    assert detail["source"] == titles.get("calling", b"MODALITY").decode()


def test_no_room_for_an_association(listen: Callable[..., Any]) -> None:
    listening = listen(maximum_associations=1)
    with listening.peer() as first, listening.peer() as second:
        first.ask(associate())
        second.ask(associate())
        assert left(listening, "association refused")["reason"] == "there was no room for its association"


def test_tls_that_is_refused(listen: Callable[..., Any], authority: LocalAuthority) -> None:
    listening = listen(tls={**authority.issue("listener").settings(), "ca": str(authority.ca)})
    nobody = Peer(
        ae_title="MEDPIPE", host="127.0.0.1", port=listening.port, timeout=5, tls={"ca": authority.ca}
    )
    with pytest.raises(MedpipeError):
        echo(nobody, "MODALITY")
    assert left(listening, "TLS refused")["reason"] == "it shows no certificate"


def test_who_is_let_in_leaves_no_notice(listen: Callable[..., Any]) -> None:
    listening = listen()
    assert listening.serves() and notices(listening) == []
