"""The systemd units: understood by systemd, closed as far as they can be, and starting commands that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import local_orthanc
import pytest

from medpipe.cli.reference import reference

UNITS = sorted((Path(local_orthanc.__file__).parent / "systemd").glob("*.service"))
INSTALLED = "/opt/medpipe/bin/medpipe"


def setting(path, key):
    return re.findall(rf"(?m)^{key}=(.*)$", path.read_text())


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    """The units in a folder, with a program that exists here; the worker's as instance 1."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze (package systemd) is not installed")
    folder = tmp_path_factory.mktemp("units")
    for path in UNITS:
        text = path.read_text().replace(INSTALLED, sys.executable)
        (folder / path.name.replace("@.", "@1.")).write_text(text)
    shutil.copy(UNITS[0].with_name("medpipe.target"), folder)
    return sorted(folder.glob("*.service"))


def test_systemd_understands_them(units):
    files = [*units, units[0].with_name("medpipe.target")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "medpipe" in line]
    assert (done.returncode, ours) == (0, [])


def test_they_are_hardened(units):
    """systemd's own measure, 0 (closed) to 10 (open); a service without any setting has 9.6."""
    for path in units:
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", path],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{path.name}: {done.stdout[-200:]}"


def test_they_start_commands_that_there_are():
    known = set(re.findall(r"(?m)^## medpipe (\S+)", reference()))
    started = {path.name: setting(path, "ExecStart")[0].split() for path in UNITS}
    assert len(started) == 5
    for name, (program, command, *_) in started.items():
        assert program == INSTALLED and command in known, name


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_what_a_unit_must_say(path):
    for key, value in {
        "User": "medpipe",
        "ProtectSystem": "strict",
        "StateDirectory": "medpipe",
        "NoNewPrivileges": "yes",
        "Restart": "always",
        "UMask": "0077",
        "PartOf": "medpipe.target",
    }.items():
        assert setting(path, key) == [value], key
    assert re.fullmatch(r"\d+G", setting(path, "MemoryMax")[0])
    # the guarded child limits itself (setrlimit) and OpenVINO binds threads: both are in @resources
    assert not any("@resources" in line for line in setting(path, "SystemCallFilter"))


def test_only_the_worker_may_write_machine_code_and_sees_a_gpu():
    for path in UNITS:
        is_worker = path.name.startswith("medpipe-work")
        assert (setting(path, "MemoryDenyWriteExecute") == []) == is_worker, path.name
        assert (setting(path, "PrivateDevices") == []) == is_worker, path.name


def test_they_are_started_again_for_as_long_as_it_takes():
    """systemd gives up after five starts in ten seconds, by default: a database may be away for longer."""
    for path in UNITS:
        assert setting(path, "Restart") == ["always"]
        assert setting(path, "StartLimitIntervalSec") == ["0"], path.name
        assert path.read_text().index("StartLimitIntervalSec") < path.read_text().index("[Service]")
