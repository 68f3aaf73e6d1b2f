"""What all tests share: the real data beside the repository, a migrated database, no limit of time for an example."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from local_authority import LocalAuthority, openssl_program

from workers.database import migrate


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run beside each other (`-n`) share the cores; it is set before their processes start."""
    processes = getattr(config.option, "numprocesses", None)
    if processes:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // processes)))


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: pytest.TestReport) -> None:
    """How a process that runs tests ended, which xdist does not say: by -9 it was the system, for want of memory."""
    status = report.node.gateway._io.popen.wait(10)
    report.longrepr = f"{report.longrepr}; its process ended with {status}"


# of the profile that is loaded already (another one in CI) all but its 200 ms an example: a busy machine takes longer
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures and series; without it the test is skipped, or fails where CI should have it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if folder.is_dir():
        return folder
    reason = f"no real data: {folder} is not there"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with the registry's tables, migrated once: tests copy it."""
    path = tmp_path_factory.mktemp("migrated") / "medpipe.sqlite"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    """A certificate authority; `authority.issue("name")` signs a certificate for 127.0.0.1."""
    if openssl_program() is None:
        reason = "the openssl command (package openssl) is not installed"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return LocalAuthority(tmp_path_factory.mktemp("authority"))
