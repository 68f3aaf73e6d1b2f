"""`audit export` and `audit verify`: the audit trail for who has to look at it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from medpipe.cli.app import app, invocation, who
from medpipe.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from medpipe.config import Config
    from workers.registry import Registry

audit_app = typer.Typer(help="The audit trail: who did what to which study.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")

_Moment = Annotated[
    str | None, typer.Option(metavar="TIME", help="Such as 2026-01-31 or 2026-01-31T12:00Z (UTC).")
]


@audit_app.command("export")
def export(
    destination: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; - for stdout.")],
    since: _Moment = None,
    until: _Moment = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="xml: DICOM audit messages. jsonl: the records, with chain and message.",
        ),
    ] = "xml",
) -> None:
    """Write the audit trail to a file.

    As DICOM audit messages (PS3.15 A.5). That it was done is recorded, too. A file in the format jsonl shows later,
    with `audit verify --against`, whether anything was taken out since.
    """
    from workers import audit
    from workers.audit.export import FORMATS, write_export
    from workers.audit.repository import source_of

    if form not in FORMATS:
        raise UsageError(f"--format: one of {', '.join(FORMATS)}")
    begin, end = _seconds(since, "--since"), _seconds(until, "--until")
    with _trail() as (config, registry), _opened(destination) as file:
        with registry.begin() as connection:
            detail = {"to": str(destination), "format": form, "since": since, "until": until}
            audit.note(connection, who(), "audit trail exported", None, detail)
        with registry.read() as connection:
            found = audit.records(connection, since=begin, until=end)
            count = write_export(file, found, source_of(config), form)
    typer.echo(f"{count} records", err=True)


@audit_app.command("verify")
def verify(
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="FILE", help="An earlier export (jsonl): all of it must still be there."
        ),
    ] = None,
) -> None:
    """Say whether the audit trail is whole.

    Each record is chained to the one before: one that was changed, put in or taken out shows. What was cut off at
    the end shows beside an earlier export, or beside what the repository has got. Exit code 1: it is not whole.
    """
    from workers import audit
    from workers.audit.export import compare
    from workers.audit.repository import delivered
    from workers.audit.trail import chain_at

    with _trail() as (config, registry), registry.read() as connection:
        verdict = audit.examine(connection)
        if verdict.fault is not None:
            raise IntegrityError(f"the audit trail is not whole: {verdict.fault}")
        place = delivered(config.site.root)
        if place.number and chain_at(connection, place.number) != place.chain:
            raise IntegrityError(
                f"the audit trail is not whole: record {place.number} is not what the repository has got"
            )
        typer.echo(f"whole: {verdict.records} records; the last one's digest is {verdict.chain or 'none'}")
        if against is not None:
            typer.echo(f"all {compare(connection, against)} records of {against} are there")


@contextmanager
def _trail() -> Iterator[tuple[Config, Registry]]:
    """The registry, with all in the trail that waited for it."""
    from workers.audit import take_in
    from workers.registry import Registry

    config, _ = invocation.site_config()
    registry = Registry(config.site.database_url)
    try:
        while take_in(config.site.root, registry):
            pass
        yield config, registry
    finally:
        registry.close()


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A new file, readable by its owner alone, that is there when it is complete."""
    if str(path) == "-":
        yield sys.stdout
        return
    if path.exists():
        raise UsageError(f"{path} is there already")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _seconds(text: str | None, option: str) -> float | None:
    """Seconds since 1970. Raises UsageError."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r}: a time such as 2026-01-31 or 2026-01-31T12:00Z") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
