"""Drawn studies and camera pictures as DICOM: sample, wrap-photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medpipe.cli.app import app


@app.command()
def sample(
    kind: Annotated[str, typer.Argument(help="fundus, fundus-healthy, ultrasound, ct or mr", metavar="KIND")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write the study to.")],
    seed: Annotated[int, typer.Option(help="Another seed draws another study.")] = 0,
) -> None:
    """Draw a synthetic study with its truth."""
    from medpipe.errors import UsageError
    from medpipe.samples import KINDS, write_study

    if kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    study = write_study(kind, out, seed=seed)
    for path in study.files:
        typer.echo(path)


@app.command("wrap-photo")
def wrap_photo_command(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.dcm")],
    patient_id: Annotated[str, typer.Option("--patient-id")] = "",
    patient_name: Annotated[str, typer.Option("--patient-name")] = "",
    laterality: Annotated[str, typer.Option("--laterality", help="L, R or B")] = "",
    field_of_view: Annotated[
        float | None, typer.Option("--field-of-view", help="The camera's, horizontally, in degrees.")
    ] = None,
    accession: Annotated[str, typer.Option("--accession")] = "",
    study_uid: Annotated[
        str | None, typer.Option("--study-uid", help="Else derived from the picture.")
    ] = None,
) -> None:
    """Make a DICOM file of a camera picture.

    Ophthalmic Photography; the JPEG's coded picture is kept as it is.
    """
    from medpipe.samples import wrap_photo

    typer.echo(
        wrap_photo(
            picture,
            out,
            patient_id=patient_id,
            patient_name=patient_name,
            laterality=laterality,
            accession_number=accession,
            study_uid=study_uid,
            field_degrees=field_of_view,
        )
    )
