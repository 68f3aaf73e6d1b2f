"""`explain`: which rule fired for each series, or for each rule why it did not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from medpipe.cli.app import app, invocation
from medpipe.config import Config
from medpipe.errors import NotFound, UsageError
from medpipe.identity import is_uid


@app.command()
def explain(
    study: Annotated[
        str,
        typer.Argument(metavar="STUDY_UID|PATH", help="A received study (or its name in the log), or files."),
    ],
) -> None:
    """Say which rule fired, or why none did.

    One block per series: each rule, whether it fires, and if not, which condition failed.
    """
    from medpipe.dicom import GuardedReader
    from medpipe.routing import check_rules, facts_of
    from medpipe.routing import explain as verdicts

    config = invocation.config()
    check_rules(config.rules)
    if not config.rules:
        raise UsageError("the settings hold no rules")
    study = _named(study)
    gone = [] if Path(study).exists() else _removed(study)
    for line in gone:
        typer.echo(line)
    callers = _files(study, config, may_be_gone=bool(gone))
    if not callers:
        return
    with GuardedReader(config.reading, uid_root=config.site.uid_root) as reader:
        scan = reader.scan(list(callers))
        for refusal in scan.unreadable:
            typer.echo(f"unreadable: {refusal.code.value}: {refusal.sentence}")
        own = [header for header in scan.instances if header.own_output]
        if own:
            typer.echo(f"{len(own)} instances are results of medpipe: never processed again")
        headers = [header for header in scan.instances if not header.own_output]
        for facts in facts_of(headers, callers):
            modality = facts.tags.get("Modality", "?")
            typer.echo(f"series {facts.series_uid} ({modality}, {facts.instances} instances)")
            for verdict in verdicts(config.rules, facts):
                outcome = "fires" if verdict.fired else "does not fire"
                typer.echo(f"  rule {verdict.rule.name!r} -> {verdict.rule.bundle}: {outcome}: {verdict.why}")


def _named(study: str) -> str:
    """The study that the log has this name for; what is no such name, or a path, as it is."""
    from medpipe.cli.jobs import open_registry
    from workers.named import study_named
    from workers.settle import register_arrivals
    from workers.spool import Spool

    if not study.startswith("uid-") or Path(study).exists():
        return study
    with open_registry() as (config, registry, _):
        register_arrivals(Spool(config.site.root), registry)
        return study_named(registry, study)


def _removed(study: str) -> list[str]:
    """What there is to say of a received study whose files were removed, or some of them."""
    from sqlalchemy.exc import DBAPIError

    from medpipe.cli.jobs import open_registry
    from workers.removal import account_of

    if not is_uid(study) or invocation.config_path() is None:
        return []
    try:
        with open_registry() as (_, registry, _queue):
            return account_of(registry, study)
    except DBAPIError:
        return []  # the rules can be explained without the database


def _files(study: str, config: Config, *, may_be_gone: bool = False) -> Mapping[Path, str]:
    """Files of a path, or of a received study with the AE title that sent each."""
    path = Path(study)
    if path.exists():
        from medpipe.cli.inputs import InputKind, collect

        return {
            file: "" for source in collect([path]) if source.kind is InputKind.DICOM for file in source.files
        }
    if not is_uid(study):
        raise UsageError(f"{study!r} is neither a file or folder nor a UID")
    from workers.spool import Spool

    spool = Spool(config.site.root)
    found = {
        spool.path_of(sidecar): sidecar.calling_ae for sidecar in spool.sidecars(study) if not sidecar.aside
    }
    if not found and not may_be_gone:
        raise NotFound(f"study {study}: nothing received under this UID")
    return found
