"""`remove`: the files of failed and refused studies, when a person decides that they go."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from medpipe.cli.app import app, who
from medpipe.cli.jobs import open_registry
from medpipe.errors import UsageError

if TYPE_CHECKING:
    from workers.removal import Removable

_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}


@app.command()
def remove(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY_UID...]", help="These studies (or their names in the log)."),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All studies with a failed job.")] = False,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="All studies with a quarantined job.")
    ] = False,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="All studies with a cancelled job.")] = False,
    unreadable: Annotated[
        bool, typer.Option("--unreadable", help="All instances whose header cannot be read.")
    ] = False,
    older_than: Annotated[
        str,
        typer.Option("--older-than", metavar="AGE", help="With these: nothing happened for 12h, 30d, 8w."),
    ] = "0d",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove the files of studies that failed or were refused.

    What site.keep_days never removes, because a person has to decide: received instances and unsent results. The rows
    and the audit trail stay, and name who did it. Safe while the line runs.
    """
    from workers.named import study_named
    from workers.removal import (
        before_days,
        check_removable,
        find_removable,
        find_unreadable,
        remove_unreadable,
    )
    from workers.removal import remove as remove_files
    from workers.retention import Janitor
    from workers.spool import Spool
    from workers.tables import JobState

    chosen = {JobState.FAILED: failed, JobState.QUARANTINED: quarantined, JobState.CANCELLED: cancelled}
    states = [state for state, wanted in chosen.items() if wanted]
    if bool(studies) == bool(states or unreadable):
        raise UsageError("name studies, or one or more of --failed, --quarantined, --cancelled, --unreadable")
    before = before_days(_days(older_than))
    with open_registry() as (config, registry, _):
        named = [check_removable(registry, study_named(registry, study)) for study in studies or ()]
        found = named or (find_removable(registry, states, before) if states else [])
        lone = find_unreadable(registry, before) if unreadable else []
        if not found and not lone:
            typer.echo("nothing to remove")
            return
        _ask(found, len(lone), yes)
        janitor = Janitor(config, Spool(config.site.root), registry)
        for one in found:
            try:
                remove_files(registry, janitor, one.study_uid, who(), before=None if studies else before)
            except UsageError as why:  # something has happened to it since the question: it stays
                typer.echo(f"kept: {why}", err=True)
            else:
                typer.echo(f"removed: {one.study_uid}")
        if lone:
            remove_unreadable(registry, janitor, lone, who())
            typer.echo(f"removed: {len(lone)} unreadable instances")


def _ask(found: list[Removable], lone: int, yes: bool) -> None:
    count, size = sum(one.instances for one in found), sum(one.size for one in found)
    what = f"{count} instances ({size / 1e6:.1f} MB) of {len(found)} studies"
    question = f"Remove {what}{f' and {lone} unreadable instances' if lone else ''} for good?"
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Say so with --yes")
    typer.confirm(question, abort=True, err=True)


def _days(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if match is None:
        raise UsageError(f"--older-than {text!r}: a number with h, d or w, such as 30d")
    return float(match[1]) * _DAYS[match[2]]
