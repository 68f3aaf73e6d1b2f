"""`explain`: which rule fired for each series, or for each rule why it did not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from medpipe.cli.app import app, invocation
from medpipe.config import Config
from medpipe.errors import NotFound, UsageError
from medpipe.identity import is_uid
from medpipe.refusals import advice_for, codes_in

if TYPE_CHECKING:
    from workers.registry import Registry

Answer = TypeVar("Answer")


@app.command()
def explain(
    study: Annotated[
        str,
        typer.Argument(metavar="STUDY_UID|PATH", help="A received study (or its name in the log), or files."),
    ],
) -> None:
    """Say which rule fired, or why none did.

    One block per series: each rule, whether it fires, and if not, which condition failed. Of a received study also
    what became of it, and what to do where it was refused.
    """
    from medpipe.routing import check_rules

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
    _print_rules(config, callers)
    if not gone:
        for line in _became(study):
            typer.echo(line)


def _print_rules(config: Config, callers: Mapping[Path, str]) -> None:
    from medpipe.dicom import GuardedReader
    from medpipe.routing import explain as verdicts
    from medpipe.routing import facts_of

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
    from workers.removal import account_of

    return _asked(lambda registry: account_of(registry, study), []) if is_uid(study) else []


def _became(study: str) -> list[str]:
    """A line for each job of a received study, with its reason, and what to do about it."""
    from workers.status import status_rows

    lines: list[str] = []
    rows: list[dict[str, Any]] = []
    if is_uid(study):
        rows = _asked(lambda registry: status_rows(registry, study), rows)
    for row in rows:
        if row["state"] == "ignored":
            continue
        reason = f": {row['reason']}" if row["reason"] else ""
        lines.append(f"{row['bundle'] or 'no job'}: {row['state']}{reason}")
        advices = {code: advice_for(code) for code in codes_in(row["reason"])}
        lines += [f"  {code}, what to do: {advice}" for code, advice in advices.items() if advice]
    return lines


def _asked(question: Callable[[Registry], Answer], otherwise: Answer) -> Answer:
    """What the site's registry answers; `otherwise` where there is none: rules can be explained without."""
    from sqlalchemy.exc import DBAPIError

    from medpipe.cli.jobs import open_registry

    if invocation.config_path() is None:
        return otherwise
    try:
        with open_registry() as (_, registry, _queue):
            return question(registry)
    except DBAPIError:
        return otherwise


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
