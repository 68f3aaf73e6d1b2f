"""Who looked at what is on record before it is shown; what cannot be recorded is not shown."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from medpipe.review.trail import NOBODY, UNKNOWN_NAME, Trail
from workers.audit import Record, is_whole, records
from workers.registry import Registry
from workers.tables import audit

SALT = b"sixteen bytes of"
ANNA = ":".join(  # a hash that costs next to nothing
    ["scrypt:4:1:1", *(base64.urlsafe_b64encode(raw).rstrip(b"=").decode() for raw in (
        SALT, hashlib.scrypt(b"correct horse", salt=SALT, n=16, r=1, p=1, dklen=32)
    ))]
)  # fmt: skip
METADATA = "studies/1.2.3/series/1.2.3.1/metadata"
OURS = ("application started", "worklist searched")


@pytest.fixture
def told(registry: Registry) -> Callable[..., list[Record]]:
    """`told()`: the records by now, without those of starting and of lists of studies."""

    def read(*leave_out: str) -> list[Record]:
        with registry.read() as connection:
            assert is_whole(connection)
            return [one for one in records(connection) if one.what not in (leave_out or OURS)]

    return read


@pytest.fixture
def reader(browser, case, pacs):
    """Anna, signed in, and a study that was received."""
    case(study="1.2.3").save()
    pacs.says(METADATA, [])
    pacs.says("studies/1.2.3/series", [])
    client = browser(users={"anna": ANNA})
    client.post("/app/sign-in", data={"name": "anna", "password": "correct horse"})
    return client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/app/studies/1.2.3"),
        ("POST", "/app/studies/1.2.3/details"),
        ("GET", "/api/studies/1.2.3"),
        ("GET", f"/dicom-web/{METADATA}"),
        ("GET", "/dicom-web/studies?StudyInstanceUID=1.2.3"),
    ],
)
def test_an_opened_study_is_on_record(reader, told, method, path):
    reader.request(method, path)
    opened = [one for one in told() if one.what == "study opened"]
    assert [(one.who, one.study_uid, one.detail["address"]) for one in opened] == [
        ("anna", "1.2.3", "testclient")
    ]


def test_many_requests_for_one_study_are_one_record(reader, told):
    for _ in range(3):
        reader.get("/app/studies/1.2.3")
        reader.get(f"/dicom-web/{METADATA}")
    assert [one.what for one in told()][-2:] == ["signed in", "study opened"]


def test_who_comes_back_is_recorded_again(reader, told):
    reader.get("/app/studies/1.2.3")
    reader.post("/app/sign-out")
    reader.post("/app/sign-in", data={"name": "anna", "password": "correct horse"})
    reader.get("/app/studies/1.2.3")
    assert [one.what for one in told()][-5:] == [
        "signed in", "study opened", "signed out", "signed in", "study opened",
    ]  # fmt: skip


def test_what_does_not_exist_or_is_no_reading_request_is_not_recorded(reader, told):
    for path in (
        "/app/studies/9.9.9",
        "/app/studies/x",
        "/dicom-web/studies/1.2.3/../x",
        "/dicom-web/patients",
    ):
        assert reader.get(path).status_code == 404
    assert "study opened" not in [one.what for one in told()]


def test_sign_ins_good_and_bad(browser, told):
    client = browser(users={"anna": ANNA})
    client.post("/app/sign-in", data={"name": "anna", "password": "wrong horse"})
    client.post("/app/sign-in", data={"name": "my password by mistake", "password": "x"})
    client.post("/app/sign-in", data={"name": "anna", "password": "correct horse"})
    said = told()
    assert [(one.who, one.what) for one in said] == [
        ("anna", "sign-in refused"),
        (UNKNOWN_NAME, "sign-in refused"),
        ("anna", "signed in"),
    ]
    assert "mistake" not in str(said) and "horse" not in str(said)


def test_guessing_on_is_one_record(browser, told):
    client = browser(users={"anna": ANNA})
    for _ in range(8):
        client.post("/app/sign-in", data={"name": "anna", "password": "guess"})
    reasons = [one.detail["reason"] for one in told()]
    assert len(reasons) == 6 and reasons[-1] == "too many wrong passwords just now"


def test_a_search_is_recorded_without_its_words(reader, told):
    for _ in range(2):
        reader.post("/api/search", json={"text": "Schmidt 1950"})
    reader.post("/app/rows", data={"text": "Meier"})
    searched = [one.detail for one in told("signed in") if one.what == "worklist searched"]
    assert [one["words"] for one in searched] == [2, 1]
    assert "Schmidt" not in str(searched) and "Meier" not in str(searched)


def test_a_search_of_the_archive_is_recorded_once_for_each_question(reader, told, pacs):
    """Another page of the same answer is no other question; one that is not passed on is none at all."""
    pacs.says("studies", [])
    for query in (
        "Modality=OP&limit=5",
        "limit=5&offset=5&Modality=OP",
        "Modality=CT",
        "PatientName=Schmidt",
    ):
        reader.get(f"/dicom-web/studies?{query}")
    queried = [one for one in told() if one.what == "archive queried"]
    assert [(one.who, one.study_uid, one.detail["question"]) for one in queried] == [
        ("anna", None, {"Modality": "OP"}),
        ("anna", None, {"Modality": "CT"}),
    ]
    assert "Schmidt" not in str(told())


def test_the_worklists_own_questions_are_part_of_its_search(reader, told):
    """A page that looks again, and the names that the PACS is asked for with it, are no queries of a person."""
    for _ in range(3):
        reader.get("/app")
    assert not [one for one in told() if one.what == "archive queried"]


def test_without_users_it_is_whoever_sits_here(browser, case, told):
    case(study="1.2.3").save()
    browser().get("/app/studies/1.2.3")
    assert [(one.who, one.what) for one in told()][-1] == (NOBODY, "study opened")


def test_what_cannot_be_recorded_is_not_shown(reader, registry, pacs):
    """The database takes no record: no page, and no picture from the PACS either."""
    with registry.begin() as connection:
        connection.execute(sa.text("ALTER TABLE audit RENAME TO away"))
    pacs.asked.clear()
    assert reader.get("/app/studies/1.2.3").status_code == 503
    assert reader.get(f"/dicom-web/{METADATA}").status_code == 503
    assert not any(path.endswith("metadata") for path, *_ in pacs.asked)


def test_the_review_itself_begins_and_ends(browser, told):
    client = browser()
    client.__exit__(None, None, None)
    assert [one.what for one in told("none")] == ["application started", "application stopped"]
    client.__enter__()


@pytest.mark.anyio
async def test_after_an_hour_it_is_recorded_again(registry: Registry) -> None:
    from starlette.requests import Request

    now = [0.0]
    trail = Trail(registry, clock=lambda: now[0])
    scope: dict[str, Any] = {"type": "http", "user": "anna", "client": ("10.0.0.1", 5)}
    for now[0] in (0.0, 3599.0, 3600.0):
        await trail.opened(Request(scope), "1.2.3")
    with registry.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(audit)).scalar() == 2
