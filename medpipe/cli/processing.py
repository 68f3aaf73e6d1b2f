"""`process`: files in, results out, no queue and no daemon."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from medpipe.cli.app import EXIT_DONE, EXIT_FAILED, EXIT_QUARANTINED, app, invocation
from medpipe.cli.inputs import InputKind, Source, collect
from medpipe.config import Config
from medpipe.errors import MedpipeError, Refused, UsageError

FORMATS = ("seg", "png", "nifti")


@dataclass
class Report:
    """What `process` says of one input: a study (or loose picture) under one bundle, or a file that was refused."""

    input: str
    state: str
    reason: str | None = None
    bundle: str | None = None
    study: str | None = None
    outputs: list[str] = field(default_factory=list)
    lesions: dict[str, int] = field(default_factory=dict)
    uncertainty: dict[str, float] = field(default_factory=dict)
    """Mean per class over its lesions, where the network was asked more than once."""
    summary: str | None = None
    """What the bundle's rules say of the study as a whole."""
    seconds: dict[str, float] = field(default_factory=dict)
    noun: str = "finding"
    """What one of the bundle's findings is called."""

    def as_json(self) -> str:
        plain: dict[str, Any] = {
            "input": self.input,
            "state": self.state,
            "reason": self.reason,
            "bundle": self.bundle,
            "study": self.study,
            "outputs": self.outputs,
            "lesions": self.lesions,
            "uncertainty": {class_id: round(value, 4) for class_id, value in self.uncertainty.items()},
            "summary": self.summary,
            "seconds": {step: round(value, 3) for step, value in self.seconds.items()},
        }
        return json.dumps(plain, ensure_ascii=False)

    def as_line(self) -> str:
        if self.state != "done":
            return f"{self.input}: {self.state}: {self.reason}"
        found = (
            ", ".join(f"{count} {class_id}" for class_id, count in self.lesions.items() if count)
            or f"no {self.noun} found"
        )
        extra = f" (also: {self.reason})" if self.reason else ""
        total = sum(self.seconds.values())
        return "\n".join(
            [
                f"{self.input}: {self.bundle}: {found}, {total:.1f} s{extra}",
                *([f"  {self.summary}"] if self.summary else []),
                *(f"  {path}" for path in self.outputs),
            ]
        )


@app.command()
def process(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="DICOM, JPEG, PNG, TIFF, NIfTI files or folders.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")],
    bundle: Annotated[
        str | None,
        typer.Option(
            "--bundle", metavar="ID", help="Else the rules decide, else the bundle for the modality."
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write <name>.<bundle>.npz.")
    ] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Also write a contact sheet PNG.")] = False,
    formats: Annotated[
        str | None,
        typer.Option("--format", help="Any of seg,png,nifti (default: seg for DICOM, the input's own else)."),
    ] = None,
    tta: Annotated[
        bool,
        typer.Option("--tta", help="Average over mirrored views: slower; tells how uncertain lesions are."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per input.")] = False,
) -> None:
    """Find lesions in files: SEG, SR or masks.

    No queue and no PACS. A folder may hold several studies; files named one by one belong together.
    """
    from medpipe.cli.runs import Run

    wanted = _formats(formats)
    config = invocation.config()
    if tta:
        config = config.model_copy(update={"worker": config.worker.model_copy(update={"tta": True})})
    sources = collect(paths)
    out.mkdir(parents=True, exist_ok=True)
    states: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="medpipe-") as scratch,
        Run(config, out, Path(scratch), bundle, wanted, probabilities=probabilities, preview=preview) as run,
    ):
        for report in _reports(run, sources, config, len(sources)):
            states.append(report.state)
            typer.echo(report.as_json() if as_json else report.as_line())
            sys.stdout.flush()
    code = _exit_code(states)
    if code != EXIT_DONE:
        raise typer.Exit(code)


def _formats(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    chosen = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [part for part in chosen if part not in FORMATS]
    if unknown or not chosen:
        raise UsageError(f"--format {text!r}: known are {', '.join(FORMATS)}")
    return chosen


def _exit_code(states: Sequence[str]) -> int:
    if "failed" in states:
        return EXIT_FAILED
    if "quarantined" in states:
        return EXIT_QUARANTINED
    return EXIT_DONE


def _reports(run: Any, sources: Sequence[Source], config: Config, total: int) -> Iterator[Report]:
    """Every source's reports; an error of one source never stops the next."""
    from medpipe.cli.progress import bar

    with bar(total) as advance:
        for source in sources:
            try:
                if source.kind is InputKind.DICOM:
                    yield from run.dicom(source, progress=advance)
                else:
                    yield from run.loose(source, progress=advance)
            except UsageError:
                raise
            except Refused as refusal:
                yield Report(str(source.given), "quarantined", f"{refusal.code}: {refusal}")
            except MedpipeError as error:
                yield Report(str(source.given), "failed", f"{error.code}: {error}")
            advance.done()
