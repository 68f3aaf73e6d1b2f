"""A site of which a test can make anything go wrong, and somebody who can be told: real servers on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from local_authority import Identity, LocalAuthority, openssl_program
from local_process import free_port
from local_webhook import LocalWebhook

from medpipe.config import Config, parse_config
from workers.alerts.conditions import Look, look
from workers.registry import ROUTINE, JobPlan, Registry
from workers.spool import Spool
from workers.tables import job


@dataclass
class AlertSite:
    """Settings, tables and spool of one site."""

    config: Config
    registry: Registry
    spool: Spool

    def look(self, now: float) -> Look:
        return look(self.config, self.registry, self.spool, now)

    def keys(self, now: float) -> set[str]:
        return {one.key for one in self.look(now).conditions}

    def job(self, name: str, state: str, at: float, reason: str | None = None) -> str:
        """A job that came into this state at that time."""
        plan = JobPlan(name, "phantom-2d", "1", "b" * 64, name, (), "spots", ROUTINE, (), at)
        with self.registry.begin() as connection:
            self.registry.plan(connection, plan, lambda *_: None, at)
            values = {"state": state, "reason": reason, "updated_at": at}
            connection.execute(sa.update(job).where(job.c.id == plan.id).values(**values))
        return plan.id


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, made once."""
    path = tmp_path_factory.mktemp("tables") / "medpipe.sqlite"
    registry = Registry(f"sqlite:///{path}")
    registry.migrate()
    registry.close()
    return path


@pytest.fixture
def make_site(tmp_path: Path, tables: Path) -> Iterator[Callable[..., AlertSite]]:
    """`make_site(alerts={...}, listener={...})`."""
    made: list[AlertSite] = []

    def make(**sections: Any) -> AlertSite:
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        shutil.copy(tables, root / "medpipe.sqlite")
        site = {"root": str(root), "minimum_free": 1}
        alerts = {"disk": 1} | sections.pop("alerts", {})
        config = parse_config({"site": site, "alerts": alerts, **sections})
        made.append(AlertSite(config, Registry(config.site.database_url), Spool(root)))
        return made[-1]

    yield make
    for site in made:
        site.registry.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    if openssl_program() is None:
        pytest.skip("openssl is not installed")
    return LocalAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def server_identity(authority: LocalAuthority) -> Identity:
    return authority.issue("alerts-server")


@pytest.fixture
def webhook() -> Iterator[LocalWebhook]:
    """A real HTTP server."""
    with LocalWebhook() as server:
        yield server


@dataclass
class MailServer:
    """What came: who signed in, envelope recipients, the letter."""

    port: int
    letters: list[tuple[str | None, list[str], EmailMessage | Message]]


@pytest.fixture
def mail_server(server_identity: Identity) -> Iterator[MailServer]:
    """A real SMTP server that takes mail only within TLS, from the user medpipe with the password s3cret."""
    import ssl

    letters: list[tuple[str | None, list[str], EmailMessage | Message]] = []

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
            letter = BytesParser(policy=default).parsebytes(envelope.content)
            letters.append(
                (session.auth_data and session.auth_data.login.decode(), envelope.rcpt_tos, letter)
            )
            return "250 taken"

    def authenticator(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"medpipe", b"s3cret")
        return AuthResult(success=good, handled=False, auth_data=data if good else None)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_identity.certificate, server_identity.private_key)
    controller = Controller(
        Handler(), hostname="127.0.0.1", port=free_port(), tls_context=context, require_starttls=True,
        authenticator=authenticator, auth_required=True,
    )  # fmt: skip
    controller.start()
    yield MailServer(controller.port, letters)
    controller.stop()
