"""`reprocess`: studies by their UID, from the PACS through the engine and back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from medpipe.cli.app import EXIT_FAILED, app, invocation, who
from medpipe.config import Config
from medpipe.errors import MedpipeError, UsageError
from medpipe.identity import is_uid


@app.command()
def reprocess(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY_UID...]", help="These studies (or their names in the log)."),
    ] = None,
    accession: Annotated[
        str | None, typer.Option("--accession", help="All studies with this number.")
    ] = None,
    listed: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", exists=True, dir_okay=False, help="Study UIDs, one a line."),
    ] = None,
    source: Annotated[str | None, typer.Option("--from", metavar="PEER", help="Else the only peer.")] = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", metavar="ID", help="Else as the rules say.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compute and send even what the PACS holds.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Say how each result differs from the one before.")
    ] = False,
) -> None:
    """Retrieve studies from the PACS, process, send.

    What the PACS holds already is not computed again, unless --force. Where no worker is alive, one runs until done.
    """
    from workers import audit
    from workers.named import study_named
    from workers.queue import JobQueue
    from workers.registry import Registry
    from workers.reprocess import Reprocessor, Request, wait_for_jobs
    from workers.work import prepare

    config, _ = invocation.site_config()
    request = Request(_source(source, config), bundle, force, dry_run)
    prepare(config)
    registry, queue = Registry(config.site.database_url), JobQueue(config.site.database_url)
    failures: list[MedpipeError] = []
    try:
        reprocessor = Reprocessor(config, registry, queue, _say, who())
        wanted = [study_named(registry, name) for name in _wanted(studies or [], listed)]
        for uid in wanted:
            if not is_uid(uid):
                raise UsageError(f"{uid!r} is not a UID")
        if accession:
            wanted += reprocessor.studies_with(accession, request.source)
        if not wanted:
            raise UsageError("name at least one study: STUDY_UID, --accession or --list")
        queued: list[str] = []
        before: dict[str, Any] = {}
        for study_uid in dict.fromkeys(wanted):
            try:
                before[study_uid] = _findings(registry, study_uid)
                if not dry_run:
                    with registry.begin() as connection:
                        detail = {"from": request.source, "bundle": bundle, "force": force}
                        audit.note(connection, who(), "study reprocessed", study_uid, detail)
                done = reprocessor.run(study_uid, request)
            except MedpipeError as error:
                failures.append(error)
                typer.echo(f"error: {error.code}: {error}", err=True)
                continue
            for job_id in done.present:
                typer.echo(f"{study_uid}: nothing to do, {request.source} holds the results ({job_id})")
            for job_id in done.queued:
                typer.echo(f"{study_uid}: {'would be' if dry_run else 'is'} processed ({job_id})")
            if done.reason:
                typer.echo(f"{study_uid}: {done.reason}")
            queued += done.queued
        good = True
        if queued and not dry_run:
            worker = None if _worker_is_alive(registry) else _own_worker()
            try:
                good = wait_for_jobs(
                    registry, queued, _say, at_work=lambda: worker is None or worker.poll() is None
                )
            finally:
                if worker is not None:
                    worker.terminate()
                    worker.wait()
            if diff:
                for study_uid, old in before.items():
                    _print_difference(study_uid, old, _findings(registry, study_uid))
    finally:
        queue.close()
        registry.close()
    if failures:
        raise typer.Exit(failures[0].exit_code)
    if not good:
        raise typer.Exit(EXIT_FAILED)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _source(name: str | None, config: Config) -> str:
    if name is not None:
        return name
    if len(config.peers) != 1:
        raise UsageError(f"name the peer with --from (peers: {', '.join(sorted(config.peers)) or 'none'})")
    return next(iter(config.peers))


def _wanted(studies: list[str], listed: Path | None) -> list[str]:
    wanted = list(studies)
    if listed is not None:
        wanted += [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    return wanted


def _worker_is_alive(registry: Any) -> bool:
    """Whether any worker has beaten within the last seconds (by the database's clock)."""
    import sqlalchemy as sa

    from workers.database import clock
    from workers.lease import TTL_SECONDS
    from workers.tables import executor

    with registry.read() as connection:
        newest = connection.execute(sa.select(clock(connection) - sa.func.max(executor.c.beat_at))).scalar()
    return newest is not None and float(newest) < TTL_SECONDS


def _own_worker() -> subprocess.Popen[bytes]:
    """A worker for the time of this command: the very command that `serve` would start."""
    path = invocation.config_path()
    command = [sys.executable, "-P", "-m", "medpipe.cli", *(["--config", str(path)] if path else []), "work"]
    return subprocess.Popen(command)


def _findings(registry: Any, study_uid: str) -> dict[str, Any]:
    from workers.status import status_rows

    newest: dict[str, Any] = {}
    for row in reversed(status_rows(registry, study_uid)):
        if row["bundle"]:
            newest[row["bundle"]] = {
                "lesions": {image["name"]: image["lesions"] for image in row["images"]},
                "results": sorted(
                    {r["sop_instance_uid"] for r in row["results"] if r["state"] != "superseded"}
                ),
            }
    return newest


def _print_difference(study_uid: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    for bundle, after in new.items():
        before = old.get(bundle)
        if before == after:
            typer.echo(f"{study_uid}: {bundle}: the same objects, byte for byte")
        else:
            was = json.dumps(before["lesions"]) if before else "nothing"
            typer.echo(f"{study_uid}: {bundle}: was {was}, is {json.dumps(after['lesions'])}")
