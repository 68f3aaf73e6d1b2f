"""A PostgreSQL of our own, as an ordinary process in a temporary folder: for system tests and benchmarks."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from local_process import LocalProcess, StartError, free_port

SYSTEM_USER = "postgres"


def postgres_programs() -> Path | None:
    """The folder with `initdb` and `postgres`, the newest of Debian's; None where there is none."""
    debian = Path("/usr/lib/postgresql")
    versions = sorted(
        (p for p in debian.glob("*/bin") if (p / "initdb").is_file()), key=lambda p: float(p.parent.name)
    )
    if versions:
        return versions[-1]
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


class LocalPostgres:
    """One cluster on a free port of the loopback, with a password. It does not sync to disk: for tests only.

    PostgreSQL refuses to run as root: as root it runs as the system user `postgres`, who owns the folder.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """`settings` as in postgresql.conf, over those that a test wants."""
        programs = postgres_programs()
        if programs is None:
            raise StartError("PostgreSQL: initdb is not installed (package postgresql)")
        self.programs = programs
        self.user = SYSTEM_USER if os.geteuid() == 0 else None
        self.password = secrets.token_urlsafe(12)
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="medpipe-postgres-"))
        self.process: LocalProcess | None = None
        self._settings = {
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            **(settings or {}),
        }
        self._numbers = itertools.count(1)

    def create(self) -> LocalPostgres:
        """Makes the cluster (2 to 3 s)."""
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o600)
        if self.user is not None:
            for path in (self.folder, secret):
                shutil.chown(path, self.user, self.user)
        command = [
            str(self.programs / "initdb"),
            "-D",
            str(self.folder / "data"),
            "-U",
            "medpipe",
            "-E",
            "UTF8",
        ]
        command += ["--locale=C", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync"]
        if self.user is not None:
            command = ["setpriv", "--reuid", self.user, "--regid", self.user, "--clear-groups", *command]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StartError(f"PostgreSQL: initdb failed: {done.stderr.strip()[-500:]}")
        return self

    def start(self, seconds: float = 30) -> LocalPostgres:
        """Starts the server (again) on its port and waits until it answers."""
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        log = self.folder / "postgres.log"
        # SIGINT is PostgreSQL's fast shutdown: it breaks connections off instead of waiting for the clients
        self.process = LocalProcess(
            "PostgreSQL", command, log, user=self.user, folder=self.folder, stop_signal=signal.SIGINT
        )
        self.process.start()
        self.process.wait_ready(self._listens, seconds)
        return self

    def _listens(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.conninfo("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def conninfo(self, database: str) -> str:
        where = f"host=127.0.0.1 port={self.port} dbname={database} sslmode=disable"
        return f"{where} user=medpipe password={self.password}"

    def url(self, database: str) -> str:
        """SQLAlchemy URL, as `site.database` wants it."""
        return f"postgresql+psycopg://medpipe:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Makes an empty database; its name."""
        import psycopg

        name = f"test{next(self._numbers)}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return name

    def drop_database(self, name: str) -> None:
        """Removes a database, connections or not."""
        import psycopg

        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())

    def stop(self) -> None:
        """Fast shutdown; the cluster stays, `start` runs it again."""
        if self.process is not None:
            self.process.stop(20)

    def crash(self) -> None:
        """Immediate shutdown, as when the server's machine goes down; `start` recovers it."""
        if self.process is not None and self.process.process is not None:
            self.process.process.send_signal(signal.SIGQUIT)
            self.process.process.wait(20)

    def remove(self) -> None:
        """Stops it and removes the cluster."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def listens(self) -> bool:
        """Whether something accepts connections on its port."""
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
