"""Dockerfiles and compose files, as far as they can be tried without a Docker engine: their linters, and their words.

docker-compose is asked where it is installed (package docker-compose, or Docker's plugin).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import local_orthanc
import pytest
import yaml

from medpipe.cli.reference import reference
from medpipe.config import load_config, secrets_of
from medpipe.review.passwords import is_password
from medpipe.review.users import Users

DEPLOY = Path(local_orthanc.__file__).parent
ROOT = DEPLOY.parent
DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "orthanc" / "Dockerfile"]
FILES = ["compose.yaml"], ["compose.yaml", "compose.cuda.yaml"]


def instructions(path):
    """(instruction, arguments) of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return [
        tuple(line.split(None, 1)) for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines() if line
    ]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def ours(compose):
    """The services that run our image."""
    return {name: one for name, one in compose["services"].items() if one["image"].startswith("medpipe:")}


@pytest.mark.parametrize("path", DOCKERFILES, ids=str)
def test_the_linter_has_nothing_to_say(path):
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compiler_stays_behind_and_nobody_is_root():
    stages = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")
    assert len(stages) == 3
    assert "g++" in stages[1] and "g++" not in stages[2] and "apt-get" not in stages[2]
    (user,) = [words for name, words in instructions(DEPLOY / "Dockerfile") if name == "USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    uid, gid = user.split(":")
    assert f"--uid {uid}" in stages[2] and f"--gid {gid}" in stages[2]


def test_exact_versions_are_installed():
    text = " ".join(words for name, words in instructions(DEPLOY / "Dockerfile") if name == "RUN")
    installs = re.findall(r"pip install(.*?)(?:&&|$)", text)
    assert installs and all("--constraint constraints.txt" in one for one in installs)
    assert "--build-constraint deploy/build-constraints.txt" in installs[-1]


def test_what_the_images_copy_is_let_through_to_the_builder():
    """.dockerignore leaves everything out but what it names."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in kept:
        assert (ROOT / path).exists(), path
    needed = ["constraints.txt", "pyproject.toml", "README.md", "LICENSE", "medpipe", "nets", "workers"]
    for path in [*needed, "deploy/build-constraints.txt", "deploy/sbom.py", "deploy/orthanc"]:
        assert path in kept, path


def test_every_service_is_closed(compose):
    assert len(ours(compose)) >= 5
    for name, service in ours(compose).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"], name
        assert service["user"] != "0:0" and service["init"] is True, name
    for name, service in compose["services"].items():
        assert not service.get("privileged") and service.get("network_mode") != "host", name
        for port in service.get("ports", []):
            assert ":-127.0.0.1:" in port, f"{name}: {port} is open to others unless somebody says so"


def test_every_service_runs_a_command_that_there_is(compose):
    known = set(re.findall(r"(?m)^## medpipe (\S+)", reference()))
    for name, service in ours(compose).items():
        assert service["command"][0] in known, name


def test_orthanc_gets_its_password_and_nobody_sees_it(compose, tmp_path):
    """The very words, run by a shell with an `Orthanc` that says what it is given."""
    program, secret = tmp_path / "Orthanc", tmp_path / "orthanc"
    program.write_text('#!/bin/sh\necho "$ORTHANC_PASSWORD|$@"\n')
    program.chmod(0o755)
    secret.write_text("a $b 'c'")
    service = compose["services"]["orthanc"]
    shell, option, words = service["entrypoint"]
    script = words.replace("$$", "$").replace("/run/secrets/orthanc", str(secret))
    command = [str(program), *service["command"][1:]]

    def start():
        return subprocess.run([shell, option, script, *command], capture_output=True, text=True, timeout=20)

    assert start().stdout == f"a $b 'c'|{command[1]}\n"
    assert service["command"][-1] in (DEPLOY / "orthanc" / "Dockerfile").read_text()
    secret.unlink()
    assert (start().stdout, start().returncode != 0) == ("", True)  # without a password it does not start


def test_each_secret_is_made_once_and_is_where_the_services_look(compose, tmp_path):
    """The documented command, run in a copy of the folder."""
    script = shutil.copy(DEPLOY / "secrets.sh", tmp_path)
    first = subprocess.run([script], capture_output=True, text=True, timeout=20, check=True).stdout
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(compose["secrets"]) == {"database", "orthanc"}
    assert all(len(password) >= 32 for password in made.values()) and len(set(made.values())) == 2
    assert not any(password in first for password in made.values())
    assert (
        tmp_path / "secrets"
    ).stat().st_mode & 0o077 == 0  # whoever may read the files must get there first
    assert subprocess.run([script], capture_output=True, text=True, timeout=20, check=True).stdout == ""
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made
    for name, one in compose["secrets"].items():
        assert one["file"] == f"./secrets/{name}"
    used = {name for service in compose["services"].values() for name in service.get("secrets", [])}
    assert used == set(made)
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_no_password_is_in_the_environment_or_in_the_settings(compose):
    text = (DEPLOY / "compose.yaml").read_text() + (DEPLOY / "compose.env.example").read_text()
    assert not re.search(r"PASSWORD: |PASSWORD=\S*\$\{|PGPASSWORD", text.replace('PASSWORD="$$(cat', ""))
    config = load_config(DEPLOY / "medpipe.compose.toml")
    named = {path.name for _, table, key in secrets_of(config) if (path := getattr(table, f"{key}_file"))}
    assert named == set(compose["secrets"])


def test_the_review_comes_up_without_a_line_of_configuration(compose, tmp_path):
    """Its settings, the mounted folders elsewhere: it wants a name, knows its PACS's password, takes a user."""
    text = (DEPLOY / "medpipe.compose.toml").read_text()
    (tmp_path / "orthanc").write_text("of the pacs")
    text = text.replace("/run/secrets", str(tmp_path)).replace("/var/lib/medpipe", str(tmp_path / "site"))
    path = tmp_path / "medpipe.toml"
    path.write_text(text)
    config = load_config(path)
    assert config.review is not None and config.review.has_sign_in
    assert "profiles" not in compose["services"]["review"]
    _, pacs = config.viewed_peer()
    assert pacs.dicomweb_login("peers.PACS") == ("medpipe", "of the pacs")
    users = Users(config.review)
    assert "anna" not in users
    command = [sys.executable, "-m", "medpipe.cli", "--config", path, "users", "add", "anna"]
    subprocess.run(command, input="correct horse\n", text=True, capture_output=True, timeout=60, check=True)
    assert is_password(users.hash_of("anna"), "correct horse")
    assert "correct" not in (tmp_path / "site" / "users").read_text()


def test_the_services_find_each_other(compose):
    """Host names in the settings are services, and ports are those that they listen on."""
    config = load_config(DEPLOY / "medpipe.compose.toml")
    orthanc = json.loads((DEPLOY / "orthanc" / "compose.json").read_text())
    pacs = config.peers["PACS"]
    assert (pacs.host, pacs.port, pacs.ae_title) == ("orthanc", orthanc["DicomPort"], orthanc["DicomAet"])
    assert pacs.orthanc is not None and pacs.orthanc.url == f"http://orthanc:{orthanc['HttpPort']}"
    assert pacs.orthanc.user in orthanc["RegisteredUsers"]
    entry = orthanc["DicomModalities"][pacs.orthanc.modality]
    assert (entry["Host"], entry["Port"], entry["AET"]) == (
        "listener",
        config.listener.port,
        config.listener.ae_title,
    )
    assert config.site.database == "postgresql+psycopg://medpipe@db:5432/medpipe"
    assert {"orthanc", "listener", "db"} <= set(compose["services"])
    assert set(orthanc["RegisteredUsers"].values()) == {"${ORTHANC_PASSWORD}"}


def test_orthancs_settings_are_those_that_are_installed_by_hand():
    by_hand = json.loads((DEPLOY / "orthanc" / "orthanc.json").read_text())
    composed = json.loads((DEPLOY / "orthanc" / "compose.json").read_text())
    differ = {key for key in by_hand.keys() | composed.keys() if by_hand.get(key) != composed.get(key)}
    assert differ == {"LuaScripts", "RemoteAccessAllowed", "RegisteredUsers", "DicomModalities"}


def test_every_variable_is_in_the_example_environment():
    used = {
        name
        for path in DEPLOY.glob("compose*.yaml")
        for name in re.findall(r"(?<!\$)\$\{([A-Z_]+)", path.read_text())
    }
    shown = set(re.findall(r"(?m)^([A-Z_]+)=", (DEPLOY / "compose.env.example").read_text()))
    assert used == shown


@pytest.fixture(scope="module")
def composer():
    """The compose command of this machine, and the environment that it is given."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    plugin = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True)
    if plugin and plugin.returncode == 0:
        return ["docker", "compose"]
    pytest.skip("docker-compose (package docker-compose) is not installed")


@pytest.mark.parametrize("files", FILES, ids=len)
def test_compose_understands_the_files(composer, files):
    named = [word for name in files for word in ("-f", DEPLOY / name)]
    done = subprocess.run([*composer, *named, "config"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    whole = yaml.safe_load(done.stdout)
    services = whole["services"]
    assert {"db", "orthanc", "listener", "worker", "review", "reconcile"} <= set(services)
    assert ("deploy" in services["worker"]) == (len(files) == 2)
    mounted = {one if isinstance(one, str) else one["source"] for one in services["listener"]["secrets"]}
    assert mounted == set(whole["secrets"])
    assert whole["secrets"]["orthanc"]["file"] == str(DEPLOY / "secrets" / "orthanc")
