"""The operator's commands: status, retry, cancel, check-destination."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from medpipe.cli.app import EXIT_FAILED, EXIT_PEER, app, invocation, who
from medpipe.errors import NotFound, UsageError

if TYPE_CHECKING:
    from medpipe.config import Config
    from workers.queue import JobQueue
    from workers.registry import Registry


@app.command()
def status(
    study: Annotated[
        str | None,
        typer.Argument(metavar="[STUDY_UID]", help="One study (or its name in the log); else all."),
    ] = None,
    states: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="Only these; may be given several times."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="The newest N only; 0: all. Not with --json.")
    ] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="The whole list as JSON.")] = False,
) -> None:
    """Show the jobs, and why something was refused.

    The newest first: when its state was reached, state, bundle, Study UID; below it what was found, or why not. Of one
    study also its results, and what to do.
    """
    from medpipe.cli.listing import listed, summed
    from workers.named import study_named
    from workers.settle import register_arrivals
    from workers.spool import Spool
    from workers.status import KEPT_ASIDE, state_counts, status_rows

    _check_states(states or [])
    with open_registry() as (config, registry, _):
        spool = Spool(config.site.root)
        register_arrivals(spool, registry)
        uid = study_named(registry, study) if study is not None else None
        least = None if as_json or study is not None else limit or None
        rows = status_rows(registry, uid, states=states or [], limit=least)
        odd = registry.odd_instances() if study is None else []
        counts = state_counts(registry)
    if study is not None and not rows and not states:
        raise NotFound(f"study {study}: nothing received under this UID")
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    for line in listed(rows, detailed=study is not None):
        typer.echo(line)
    if study is None:
        chosen = {state: count for state, count in counts.items() if not states or state in states}
        typer.echo(summed(chosen, len(rows)) if counts else "nothing received yet")
    for row in odd:
        typer.echo(f"instance {row.file}: {row.reason or KEPT_ASIDE}", err=True)


def _check_states(states: list[str]) -> None:
    from workers.tables import JobState

    known = [state.value for state in JobState]
    for state in states:
        if state not in known:
            raise UsageError(f"--state {state!r}: one of {', '.join(known)}")


@app.command()
def retry(
    study_or_job: Annotated[
        str, typer.Argument(metavar="STUDY_UID|JOB", help="A study (or its name in the log), or one job.")
    ],
) -> None:
    """Run failed, refused or cancelled jobs again."""
    from workers.status import retry as run_again

    with open_registry() as (_, registry, queue):
        for job_id in run_again(registry, queue, study_or_job, who()):
            typer.echo(f"queued again: {job_id}")


@app.command()
def cancel(
    study_or_job: Annotated[
        str, typer.Argument(metavar="STUDY_UID|JOB", help="A study (or its name in the log), or one job.")
    ],
) -> None:
    """Stop jobs that wait, run or send."""
    from workers.status import cancel as stop

    with open_registry() as (_, registry, queue):
        for job_id in stop(registry, queue, study_or_job, who()):
            typer.echo(f"cancelled: {job_id}")


@app.command("check-destination")
def check_destination_command(
    name: Annotated[str, typer.Argument(metavar="PEER", help="A name under [peers] in the settings.")],
) -> None:
    """Say what a peer answers and takes."""
    from medpipe.pacs import check_destination

    config = invocation.config()
    if name not in config.peers:
        raise UsageError(f"no peer {name!r}; known: {', '.join(sorted(config.peers)) or 'none'}")
    report = check_destination(config.peers[name], config.listener.ae_title)
    for finding in report.findings:
        mark = "yes" if finding.offered else "NO " if finding.needed else "no "
        typer.echo(f"{mark}  {finding.name}: {finding.sentence}")
    if not report.usable:
        raise typer.Exit(EXIT_PEER if report.away else EXIT_FAILED)


@contextmanager
def open_registry() -> Iterator[tuple[Config, Registry, JobQueue]]:
    """The site's registry and queue, where their tables are those of this version."""
    from workers.database import check_revision
    from workers.queue import JobQueue
    from workers.registry import Registry

    config, _ = invocation.site_config()
    registry = Registry(config.site.database_url)
    queue = JobQueue(config.site.database_url)
    try:
        check_revision(registry.engine)
        yield config, registry, queue
    finally:
        queue.close()
        registry.close()
