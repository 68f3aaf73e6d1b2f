"""`medpipe review` over HTTPS with an encrypted key, a user from a file, and what the audit trail has of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from local_authority import LocalAuthority
from local_process import LocalProcess, free_port

from medpipe.review.passwords import hash_password
from medpipe.review.users import UsersFile
from medpipe.tls import calling_context
from workers.audit import is_whole, records
from workers.registry import Registry


def test_a_visit_over_https(site: Callable[..., Any], authority: LocalAuthority, tmp_path: Path) -> None:
    identity, port = authority.issue("review"), free_port()
    (tmp_path / "word").write_text("a secret\n")
    locked = authority.locked(identity, "a secret").private_key
    UsersFile(tmp_path / "users").put("anna", hash_password("correct horse"))
    review = {
        "port": port,
        "users_file": str(tmp_path / "users"),
        "certificate": str(identity.certificate),
        "private_key": str(locked),
        "passphrase_file": str(tmp_path / "word"),
    }
    made = site(review=review)
    arguments = [sys.executable, "-m", "medpipe.cli", "--config", made.path, "review"]
    process = LocalProcess("medpipe review", arguments, tmp_path / "review.log")
    process.start()
    try:
        process.wait_ready(lambda: "review on https://" in process.tail(100), 120)
        context = calling_context("tls", authority.ca)
        with httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=context, trust_env=False) as client:
            assert client.get("/healthz").text == "ok\n"
            assert client.get("/api/me").status_code == 401
            answer = client.post("/app/sign-in", data={"name": "anna", "password": "correct horse"})
            assert "secure" in answer.headers["set-cookie"].lower()
            assert client.get("/api/me").json() == {"user": "anna"}
            UsersFile(tmp_path / "users").remove("anna")
            assert client.get("/api/me").status_code == 401
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
        process.stop(30)
    finally:
        process.kill()
    assert "a secret" not in process.tail(1000)
    registry = Registry(made.config.site.database_url)
    with registry.read() as connection:
        told = [(one.who, one.what, one.detail.get("address")) for one in records(connection)]
        assert is_whole(connection)
    registry.close()
    assert told == [
        ("medpipe", "application started", None),
        ("anna", "signed in", "127.0.0.1"),
        ("medpipe", "application stopped", None),
    ]
