"""`medpipe doctor` beside a real Orthanc: one line per thing, what to do, and an exit code that says which kind."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from local_orthanc import LocalOrthanc

from medpipe.cli.app import run
from medpipe.config import Config
from workers.listener import Listener
from workers.work import prepare

RULE = {"name": "spots", "when": {"Modality": "OP"}, "bundle": "phantom-2d", "send": ["PACS"]}


@pytest.fixture
def healthy(site: Callable[..., Any], orthanc: LocalOrthanc) -> Any:
    """An installation beside its PACS, with its database and folders."""
    made = site(orthanc, rules=[RULE])
    prepare(made.config)
    return made


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """`doctor(path)` -> exit code, and the checks by name."""

    def ask(path: Path, *options: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = run(["--config", str(path), "doctor", "--json", *options])
        return code, {check["name"]: check for check in json.loads(capsys.readouterr().out)}

    return ask


@pytest.fixture
def rewrite(healthy: Any) -> Callable[..., Path]:
    """`rewrite(section={...})` writes the site's settings anew with these keys changed."""

    def write(**sections: dict[str, Any]) -> Path:
        document = healthy.config.model_dump(mode="json", exclude_none=True)
        for name, values in sections.items():
            if isinstance(values, dict):
                document[name].update(values)
            else:
                document[name] = values
        healthy.path.write_text(tomli_w.dumps(document))
        return Path(healthy.path)

    return write


@pytest.fixture
def listening(healthy: Any) -> Iterator[Config]:
    with Listener(healthy.config):
        yield healthy.config


def test_a_healthy_site(healthy: Any, listening: Config, doctor: Any) -> None:
    code, checks = doctor(healthy.path)
    assert code == 0, checks
    assert {name: check["state"] for name, check in checks.items()} == {
        "settings": "ok",
        "rules": "ok",
        "disk": "ok",
        "memory": "ok",
        "database": "ok",
        "workers": "note",  # none runs here
        "listener": "ok",
        "peer PACS": "ok",
        "alerts": "note",  # nobody is told
        "device": "ok",
        "bundle phantom-2d": "ok",
    }
    assert "medpipe work" in checks["workers"]["advice"]
    assert "golden case" in checks["bundle phantom-2d"]["found"]
    assert list(healthy.root.rglob("tmp*")) == []  # nothing is left by looking


def test_lines_for_a_person(healthy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--config", str(healthy.path), "doctor", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"ok    settings: {healthy.path}"
    (listener,) = [line for line in lines if line.startswith("note  listener: ")]
    assert listener.endswith("; run `medpipe serve` or `medpipe listen`")


def test_a_listener_that_anyone_may_call_is_noted(healthy: Any, rewrite: Any, doctor: Any) -> None:
    _, checks = doctor(rewrite(listener={"host": "0.0.0.0", "calling": ["*"]}), "--quick")
    assert (checks["callers"]["state"], "callers" in doctor(rewrite(), "--quick")[1]) == ("note", False)


def test_a_site_that_was_never_set_up(site: Callable[..., Any], doctor: Any) -> None:
    made = site()
    code, checks = doctor(made.path, "--quick")
    assert code == 1
    assert checks["disk"]["advice"].startswith("run `medpipe init`")
    assert checks["database"]["advice"] == "run `medpipe init`"
    assert not made.root.exists()  # looking makes nothing


def test_a_peer_that_does_not_answer_is_exit_code_4(
    healthy: Any, rewrite: Any, doctor: Any, free_port: Callable[[], int]
) -> None:
    peer = {"ae_title": "GONE", "host": "127.0.0.1", "port": free_port(), "timeout": 2}
    code, checks = doctor(rewrite(peers={"GONE": peer}), "--quick")
    assert code == 4
    assert checks["peer GONE"]["state"] == "unreachable" and "firewall" in checks["peer GONE"]["advice"]
    assert checks["peer PACS"]["state"] == "ok"


def test_check_destination_has_the_same_exit_codes(
    healthy: Any, rewrite: Any, free_port: Callable[[], int]
) -> None:
    peer = {"ae_title": "GONE", "host": "127.0.0.1", "port": free_port(), "timeout": 2}
    assert run(["--config", str(rewrite(peers={"GONE": peer})), "check-destination", "GONE"]) == 4
    assert run(["--config", str(healthy.path), "check-destination", "PACS"]) == 0
    path = rewrite(listener={"ae_title": "STRANGER"})
    assert run(["--config", str(path), "check-destination", "PACS"]) == 1


def test_a_peer_that_refuses_us_is_exit_code_1(healthy: Any, rewrite: Any, doctor: Any) -> None:
    code, checks = doctor(rewrite(listener={"ae_title": "STRANGER"}), "--quick")
    assert code == 1
    assert checks["peer PACS"]["state"] == "failed" and "STRANGER" in checks["peer PACS"]["found"]


def test_a_database_server_that_is_away_is_exit_code_4(healthy: Any, rewrite: Any, doctor: Any) -> None:
    with socket.socket() as port:  # bound, and never listening
        port.bind(("127.0.0.1", 0))
        url = f"postgresql+psycopg://medpipe:secret@127.0.0.1:{port.getsockname()[1]}/medpipe"
        code, checks = doctor(rewrite(site={"database": url}), "--quick")
    assert code == 4
    assert checks["database"]["state"] == "unreachable"
    assert "secret" not in json.dumps(checks)


def test_an_empty_database_server(healthy: Any, rewrite: Any, postgres: Any, doctor: Any) -> None:
    code, checks = doctor(rewrite(site={"database": postgres.url}), "--quick")
    assert (code, checks["database"]["advice"]) == (1, "run `medpipe init`")


def test_settings_that_are_wrong_are_exit_code_2(healthy: Any, rewrite: Any, doctor: Any) -> None:
    code, checks = doctor(rewrite(rules=[{**RULE, "when": {"PatientName": "X"}}]), "--quick")
    assert code == 2
    assert "PatientName" in checks["rules" if "rules" in checks else "settings"]["found"]


def test_a_full_disk_a_missing_gpu_and_a_missing_bundle(healthy: Any, rewrite: Any, doctor: Any) -> None:
    code, checks = doctor(
        rewrite(
            site={"minimum_free": "900 TB"},
            worker={"device": "cuda:99", "scratch": str(healthy.root / "nowhere")},
            rules=[{**RULE, "bundle": "nothing-like-it"}],
        )
    )
    assert code == 1
    for name in ("disk", "scratch", "device", "bundle nothing-like-it"):
        assert checks[name]["state"] == "failed", checks[name]
    assert "site.minimum_free" in checks["disk"]["advice"]


def test_a_bundle_that_was_changed_is_found(healthy: Any, rewrite: Any, doctor: Any, tmp_path: Path) -> None:
    from shutil import copytree

    from medpipe.bundle import find_bundle

    folder = copytree(find_bundle("phantom-2d").folder, tmp_path / "bundles" / "mine")
    text = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(text.replace('id = "phantom-2d"', 'id = "mine"'))
    path = rewrite(worker={"bundle_folders": [str(folder.parent)]}, rules=[{**RULE, "bundle": "mine"}])
    code, checks = doctor(path)
    assert code == 1
    assert checks["bundle mine"]["state"] == "failed" and "hash" in checks["bundle mine"]["found"]


def test_orthancs_rest_interface_is_asked(
    healthy: Any, rewrite: Any, doctor: Any, orthanc: LocalOrthanc
) -> None:
    peer = healthy.config.peers["PACS"].model_dump(mode="json", exclude_none=True)
    peer["orthanc"] = {"url": orthanc.url, "user": orthanc.user}  # without a password
    code, checks = doctor(rewrite(peers={"PACS": peer}), "--quick")
    assert code == 1
    assert "password_file" in checks["peer PACS REST"]["found"]
    secret = healthy.path.with_name("secret")
    secret.write_text(orthanc.password)
    peer["orthanc"]["password_file"] = str(secret)
    code, checks = doctor(rewrite(peers={"PACS": peer}), "--quick")
    assert (code, checks["peer PACS REST"]["state"]) == (0, "ok")


def test_a_test_alert_is_sent_where_it_is_asked_for(
    healthy: Any, rewrite: Any, doctor: Any, free_port: Callable[[], int]
) -> None:
    came: list[Any] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        urls = [f"http://127.0.0.1:{server.server_address[1]}/here", f"http://127.0.0.1:{free_port()}/nobody"]
        path = rewrite(alerts={"webhook": {"urls": urls}})
        _, quiet = doctor(path, "--quick")
        assert quiet["alerts"]["state"] == "ok" and came == []
        code, checks = doctor(path, "--quick", "--send-test-alert")
        server.shutdown()
        thread.join()
    tried = {name: check["state"] for name, check in checks.items() if name.startswith("alert ")}
    assert (code, sorted(tried.values())) == (4, ["ok", "unreachable"])
    assert [one["alerts"][0]["alert"] for one in came] == ["test"]
