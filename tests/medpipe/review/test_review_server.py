"""The server around the pages: headers, health, live updates, its address, the description of /api."""

from __future__ import annotations

import socket

import anyio
import pytest
from starlette.routing import Route

from medpipe.config import Review
from medpipe.errors import ConfigError
from medpipe.review.api import description
from medpipe.review.changes import Changes
from medpipe.review.server import address, run_review


@pytest.mark.parametrize(
    "path", ["/app", "/viewer", "/api/me", "/app/static/live.js", "/dicom-web/nothing", "/healthz"]
)
def test_every_answer_is_confined(browser, path):
    headers = browser().get(path).headers
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer" and "access-control-allow-origin" not in headers


def test_our_own_pages_have_no_inline_script_or_style(browser, case):
    case().save()
    client = browser()
    for path in ("/app", "/app/studies/1.2.3"):
        answer = client.get(path)
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "<script>" not in answer.text and "style=" not in answer.text and "onclick" not in answer.text
        assert answer.headers["cache-control"] == "no-store"


def test_health(browser, pacs):
    pacs.says("studies", [])
    client = browser()
    assert client.get("/healthz").text == "ok\n"
    assert client.get("/readyz").json() == {"ready": True}


def test_a_database_that_is_away(browser, tmp_path, pacs):
    client = browser()
    client.app.state.site.registry.engine.dispose()
    for path in (tmp_path / "site").glob("medpipe.sqlite*"):
        path.unlink()
    answer = client.get("/app")
    assert answer.status_code == 503 and "database does not answer" in answer.text
    assert client.get("/readyz").status_code == 503 and client.get("/healthz").status_code == 200


def test_the_description_names_every_address_of_the_api(browser):
    client = browser()
    served = {
        route.path
        for route in client.app.routes
        if isinstance(route, Route) and route.path.startswith("/api/")
    }
    said = client.get("/api/openapi.json").json()
    assert set(said["paths"]) == served - {"/api/openapi.json"}


def test_the_description_describes_the_answers(browser, case):
    case().save()
    line = browser().get("/api/studies/1.2.3").json()
    schemas = description()["components"]["schemas"]
    assert set(line["study"]) == set(schemas["Study"]["properties"])
    assert set(line["study"]["jobs"][0]) == set(schemas["Job"]["properties"])
    assert set(line["person"]) == set(schemas["Person"]["properties"])


async def first(stream, count):
    found = []
    async for text in stream:
        found.append(text)
        if len(found) == count:
            break
    await stream.aclose()
    return found


def test_a_change_wakes_every_open_page(monkeypatch):
    monkeypatch.setattr("medpipe.review.changes._LOOK_SECONDS", 0.01)
    pulses = iter(range(10**6))

    async def run():
        changes = Changes(lambda: (next(pulses),))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(changes.watch)
            with anyio.fail_after(20):
                texts = await first(changes.stream(), 3)
            changes.end()
        return texts

    texts = anyio.run(run)
    assert all("event: changed" in text for text in texts)


def test_nothing_new_says_nothing_but_that_it_is_there(monkeypatch):
    monkeypatch.setattr("medpipe.review.changes._LOOK_SECONDS", 0.01)
    monkeypatch.setattr("medpipe.review.changes._BREATH_SECONDS", 0.1)

    async def run():
        changes = Changes(lambda: (1,))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(changes.watch)
            texts = await first(changes.stream(), 4)
            changes.end()
        return texts

    told = anyio.run(run)
    assert "changed" in told[1]  # the first look cannot know what came between the page and itself
    assert told[2:] == [": still here\n\n"] * 2


def test_the_pulse_follows_the_registry(browser, case, registry):
    worklist = browser().app.state.site.worklist
    before = worklist.pulse()
    assert worklist.pulse() == before
    case().save()
    assert worklist.pulse() != before


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:8080"),
    ],
)
def test_the_address_to_open(host, shown):
    assert address(Review.model_construct(host=host, port=8080, certificate=None)) == shown


def test_a_port_that_is_taken_is_one_clear_line(configure):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"review.port {port}: cannot be bound"):
            run_review(configure(port=port))


def test_a_certificate_that_is_not_there_is_one_clear_line(configure, tmp_path):
    files = {"certificate": str(tmp_path / "no.pem"), "private_key": str(tmp_path / "no.key")}
    with pytest.raises(ConfigError, match=r"review\.certificate"):
        run_review(configure(**files))
