"""`backup` and `restore`: the whole site in one file, while it runs; and back into an empty place."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medpipe.cli.app import app, invocation, who
from medpipe.cli.service import settings_text
from medpipe.errors import UsageError

if TYPE_CHECKING:
    from workers.backup import Manifest


@app.command()
def backup(
    destination: Annotated[
        Path, typer.Argument(metavar="FILE.tar|FOLDER", help="A new file, or a folder to put one in.")
    ],
    everything: Annotated[
        bool, typer.Option("--everything", help="Also the files of studies whose results are confirmed.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check a backup that is there: every digest.")
    ] = False,
) -> None:
    """Back up the whole site while it runs.

    The database with the queue, and the received instances and results of all studies that are not over; the settings
    without secrets. The file holds patients' pictures: keep it as you keep the PACS.
    """
    from workers.backup import take
    from workers.backup import verify as verify_backup

    if verify:
        found = verify_backup(destination)
        typer.echo(f"{destination}: whole; {_summary(found.manifest)}")
        return
    config, _ = invocation.site_config()
    _check_user(config.site.root)
    taken = take(config, destination, settings_text(config), everything=everything)
    typer.echo(f"{taken.path}: {_summary(taken.manifest)}")
    if taken.manifest.missing:
        typer.echo(
            f"note: {len(taken.manifest.missing)} files that the database names are not on the disk; "
            "manifest.json in the backup lists them",
            err=True,
        )


@app.command()
def restore(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE.tar", exists=True, dir_okay=False, help="What `medpipe backup` made."),
    ],
) -> None:
    """Restore a site from a backup.

    Into the empty site.root and database that the settings name; every digest is verified before anything is written.
    The next `medpipe serve` goes on where the backup was taken.
    """
    from workers.backup import restore as restore_backup

    config, _ = invocation.site_config()
    _check_user(config.site.root)
    done = restore_backup(config, source, who())
    typer.echo(f"{config.site.root}: restored; {_summary(done.manifest)}")
    for bundle, version in sorted(done.manifest.bundles.items()):
        if (present := _version_of(bundle)) != version:
            typer.echo(f"note: bundle {bundle} is {present} here and was {version}", err=True)


def _summary(manifest: Manifest) -> str:
    extent = (
        "with the files of all studies"
        if manifest.everything
        else "with the files of studies that are not over"
    )
    return (
        f"medpipe {manifest.medpipe}, {manifest.database}, taken at {manifest.taken_at}, {extent}: "
        f"{manifest.files} files, {manifest.size} bytes"
    )


def _version_of(bundle: str) -> str:
    from medpipe.bundle import find_bundle
    from medpipe.errors import MedpipeError

    try:
        return find_bundle(bundle, invocation.config().worker.bundle_folders).version
    except MedpipeError:
        return "missing"


def _check_user(root: Path) -> None:
    """Files that root makes are not the line's: its processes run as the user that owns the place."""
    if os.geteuid() != 0 or not root.exists() or (owner := root.stat().st_uid) == 0:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"'#{owner}'"
    raise UsageError(f"{root} belongs to {name}: run this as that user (sudo -u {name} ...)")
