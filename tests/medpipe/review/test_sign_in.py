"""Sign-in: needed wherever users are configured, for everything; without users only this machine is answered."""

from __future__ import annotations

import logging

import pytest

from medpipe.config import parse_config
from medpipe.errors import ConfigError
from medpipe.review.passwords import hash_password, is_password
from medpipe.review.sessions import Doorkeeper, Sessions

ANNA = hash_password("correct horse")


def sign_in(client, password="correct horse", target="/app", name="anna"):
    return client.post("/app/sign-in", data={"name": name, "password": password, "next": target})


@pytest.fixture
def guarded(browser):
    return browser(users={"anna": ANNA})


@pytest.mark.parametrize(
    "path", ["/app", "/app/studies/1.2.3", "/viewer?StudyInstanceUIDs=1.2.3", "/", "/app/"]
)
def test_pages_lead_to_the_sign_in(guarded, path):
    answer = guarded.get(path)
    assert answer.status_code == 303 and answer.headers["location"].startswith("/app/sign-in?next=/")


@pytest.mark.parametrize("path", ["/api/me", "/api/studies/1.2.3", "/api/events", "/api/openapi.json",
                                  "/dicom-web/studies/1.2.3/series"])  # fmt: skip
def test_data_are_refused(guarded, pacs, path):
    assert guarded.get(path).status_code == 401
    assert pacs.asked == []


@pytest.mark.parametrize("path", ["/api/search", "/app/rows", "/app/studies/1.2.3/details"])
def test_posted_questions_are_refused(guarded, path):
    assert guarded.post(path).status_code in (303, 401)


@pytest.mark.parametrize("path", ["/healthz", "/app/sign-in", "/app/static/review.css"])
def test_what_everybody_may_see(guarded, path):
    assert guarded.get(path).status_code == 200


def test_the_whole_visit(guarded):
    answer = sign_in(guarded, target="/viewer?StudyInstanceUIDs=1.2.3")
    assert answer.headers["location"] == "/viewer?StudyInstanceUIDs=1.2.3"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "secure" not in cookie
    assert guarded.get("/api/me").json() == {"user": "anna"}
    assert "anna" in guarded.get("/app").text
    stolen = guarded.cookies["medpipe_session"]
    assert guarded.post("/app/sign-out").status_code == 303
    assert guarded.get("/api/me", headers={"cookie": f"medpipe_session={stolen}"}).status_code == 401


def test_the_cookie_is_secure_where_the_way_is(browser):
    assert "secure" in sign_in(browser("https", users={"anna": ANNA})).headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:1", ""]
)
def test_sign_in_leads_nowhere_else(guarded, target):
    assert sign_in(guarded, target=target).headers["location"] == "/app"


def test_a_wrong_password_is_refused_and_written_nowhere(guarded, caplog):
    caplog.set_level(logging.INFO)
    answer = sign_in(guarded, "correct house")
    assert answer.status_code == 403 and "set-cookie" not in answer.headers
    assert "sign-in refused for 'anna'" in caplog.text
    sign_in(guarded, "correct house", name="my password by mistake")
    assert "house" not in caplog.text and "mistake" not in caplog.text


def test_guessing_has_to_wait(guarded):
    for _ in range(5):
        assert sign_in(guarded, "guess").status_code == 403
    assert sign_in(guarded).status_code == 429  # the right one too: a guesser learns nothing


def test_a_form_of_another_site_is_not_taken(guarded):
    answer = guarded.post("/app/sign-in", data={"name": "anna"}, headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:8080", "localhost:9"])
def test_without_users_this_machine_is_answered(browser, host):
    assert browser().get("/app", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.5", ""]
)
def test_without_users_no_other_name_is(browser, host):
    assert browser().get("/dicom-web/studies", headers={"host": host}).status_code == 421


def test_without_users_nobody_behind_a_proxy_is_answered(browser):
    assert browser().get("/app", headers={"x-forwarded-for": "10.0.0.5"}).status_code == 421


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "review.example"])
def test_another_address_needs_users(host):
    with pytest.raises(ConfigError, match="users is empty: add users") as caught:
        parse_config({"review": {"host": host}})
    assert len(str(caught.value).splitlines()) == 1
    parse_config({"review": {"host": host, "users": {"anna": ANNA}}})


def test_a_plain_password_in_the_settings_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="not a password hash") as caught:
        parse_config({"review": {"users": {"anna": "hunter2-secret"}}})
    assert "hunter2" not in str(caught.value)


def test_hashes():
    assert is_password(ANNA, "correct horse") and not is_password(ANNA, "correct horse ")
    assert hash_password("correct horse") != ANNA  # salted
    assert not is_password("scrypt:62:8:1:AAAAAAAAAAAAAAAAAAAAAA:" + "A" * 43, "x")  # nobody can afford it


def test_sessions_end():
    now = [0.0]
    sessions = Sessions(60, clock=lambda: now[0])
    token = sessions.open("anna")
    now[0] = 59
    assert sessions.user_of(token) == "anna"
    now[0] = 60
    assert sessions.user_of(token) is None


def test_patience_comes_back():
    now = [0.0]
    keeper = Doorkeeper({"anna": ANNA}.get, clock=lambda: now[0])
    for _ in range(5):
        assert not keeper.admits("anna", "guess")
    assert keeper.must_wait("anna") and not keeper.must_wait("bert")
    now[0] = 60
    assert not keeper.must_wait("anna") and keeper.admits("anna", "correct horse")
