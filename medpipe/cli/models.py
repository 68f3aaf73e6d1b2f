"""Bundles and training: bundles, check-bundle, folds, train, prune, evaluate, cross-validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medpipe.cli.app import EXIT_FAILED, app, invocation


@app.command()
def bundles() -> None:
    """List the bundles at hand."""
    from medpipe.bundle import available_bundles

    found = available_bundles(invocation.config().worker.bundle_folders)
    width = max(len(bundle.id) for bundle in found)
    for bundle in found:
        modalities, classes = ", ".join(bundle.input.modality), ", ".join(spec.id for spec in bundle.classes)
        typer.echo(f"{bundle.id:{width}}  {bundle.version}  {bundle.title}")
        licence, weights = bundle.provenance.licence, bundle.weights_sha256[:12]
        typer.echo(f"{'':{width}}  for {modalities}; finds {classes}; weights {weights}; {licence}")


@app.command("check-bundle")
def check_bundle_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A bundle's folder, or the id of a shipped one.")
    ],
    write_golden: Annotated[
        bool, typer.Option("--write-golden", help="Write golden.json anew from what the network says now.")
    ] = False,
) -> None:
    """Verify a bundle's files, codes and golden case."""
    from medpipe.bundle import find_bundle
    from medpipe.check_bundle import check_bundle
    from medpipe.check_bundle import write_golden as write

    if not folder.is_dir():
        folder = find_bundle(str(folder), invocation.config().worker.bundle_folders).folder
    if write_golden:
        write(folder)
    report = check_bundle(folder)
    for line in report.lines:
        typer.echo(line)
    if not report.passed:
        raise typer.Exit(EXIT_FAILED)


@app.command("import-bundle")
def import_bundle_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            exists=True,
            help="A MONAI bundle's folder, an nnU-Net v2 result folder, or a TorchScript or ONNX file.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The bundle folder to write.")],
    bundle_id: Annotated[
        str | None, typer.Option("--id", help="The bundle's id: the name of DIR, and so unless said.")
    ] = None,
    modality: Annotated[
        str | None, typer.Option("--modality", help="DICOM modality, where the metadata do not say it.")
    ] = None,
    orientation: Annotated[
        str | None,
        typer.Option(
            "--orientation", help="Where (i, j, k) of the training data ran to: RAS, LPS, or source."
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Terms of the weights.")] = None,
    description: Annotated[
        Path | None,
        typer.Option(
            "--description", help="TOML of a TorchScript or ONNX file: a bundle.toml without its network."
        ),
    ] = None,
    fold: Annotated[str, typer.Option("--fold", help="Fold of an nnU-Net result: a number or all.")] = "0",
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="TRANSFORM",
            help="Leave out a MONAI bundle's KeepLargestConnectedComponentd, RemoveSmallObjectsd or FillHolesd.",
        ),
    ] = None,
) -> None:
    """Wrap other people's models as a bundle.

    No pickled code is run and no expression evaluated; what needs either is refused.
    """
    from medpipe.imports import Choices, import_bundle

    choices = Choices(bundle_id, modality, orientation, licence, description, fold, tuple(without or ()))
    bundle = import_bundle(source, out, choices)
    typer.echo(f"{out}: {bundle.id} {bundle.version}, classes {', '.join(bundle.class_ids)}")


@app.command()
def folds(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", exists=True, file_okay=False, help="Folder of training data.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.toml", help="The list to write.")],
    count: Annotated[int, typer.Option("--folds", min=2, help="How many.")] = 5,
    experiment: Annotated[
        Path | None,
        typer.Option(
            "--experiment",
            metavar="EXPERIMENT.toml",
            exists=True,
            dir_okay=False,
            help="Leave out images whose SEGs say nothing of this experiment's classes.",
        ),
    ] = None,
) -> None:
    """Deal a folder's images into folds.

    Only images with a truth; those of one patient, where the folder says whose they are, stay together.
    """
    from medpipe.training import write_folds
    from medpipe.training.experiment import load_experiment

    labels = load_experiment(experiment).labels if experiment else ()
    dealt = write_folds(data, out, count, labels)
    typer.echo(f"{out}: {', '.join(str(len(fold)) for fold in dealt)} images")


@app.command()
def train(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", exists=True, dir_okay=False)],
    data: Annotated[
        Path | None, typer.Option("--data", help="Overrides the experiment's data folder.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Runs are written to OUT/<name>/.")] = Path("runs"),
    fold: Annotated[
        int | None,
        typer.Option("--fold", min=0, help="Hold out this fold instead, as run <name>-fold<K>."),
    ] = None,
    max_minutes: Annotated[float | None, typer.Option("--max-minutes")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = True,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            "--unlabelled", metavar="DIR", help="Folder with images/ for the experiment's [unlabelled]."
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="DIR", help="Write a bundle from the run when it is done."),
    ] = None,
) -> None:
    """Train a network as one TOML file says.

    A run that was stopped goes on where it was. In the end OUT/<name>/report/index.html tells how good it is on the
    held-out pictures: at working size, with --export at native resolution through the whole pipeline.
    """
    from medpipe.cli.progress import training_bar
    from medpipe.training import check_describable, export_bundle
    from medpipe.training import train as run_training
    from medpipe.training.report import REPORT

    if export is not None:
        check_describable(experiment, bundle=export, fold=fold)
    with training_bar() as tell:
        report = run_training(
            experiment,
            data=data,
            out=out,
            resume=resume,
            max_minutes=max_minutes,
            unlabelled=unlabelled,
            fold=fold,
            report=export is None,
            to_export=export is not None,
            tell=tell,
        )
    if not report.first:
        return
    typer.echo(report.summary())
    if export is not None:
        export_bundle(report.run, export, data=data, report_into=report.run / REPORT)
        typer.echo(export)


@app.command()
def prune(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", exists=True, dir_okay=False)],
    weights: Annotated[
        Path, typer.Option("--from", metavar="RUN", help="The run's or bundle's folder with its weights.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The experiment's folder to write.")],
    ratio: Annotated[float, typer.Option("--ratio", help="Part of the channels that goes, 0 to 1.")] = 0.3,
    everywhere: Annotated[
        bool, typer.Option("--global", help="Rank channels over the whole network, not layer by layer.")
    ] = False,
) -> None:
    """Prune a trained network's channels.

    Writes the experiment to train on with: DIR/experiment.toml and the weights that are left.
    """
    from medpipe.training.pruning import prune_experiment

    typer.echo(prune_experiment(experiment, weights, out, ratio=ratio, everywhere=everywhere).summary())


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Id of a bundle, or its folder.")],
    data: Annotated[Path, typer.Option("--data", help="Folder with images/ and masks/.")],
    folds: Annotated[Path, typer.Option("--folds", help="TOML file with the folds' pictures by name.")],
    fold: Annotated[int, typer.Option("--fold", help="The fold to measure on.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="DIR",
            help="Also write index.html with figures and worst pictures, and report.json.",
        ),
    ] = None,
) -> None:
    """Measure a bundle on pictures kept out.

    Prints AUPR, Dice, IoU and lesion recall per class.
    """
    from medpipe.training import evaluate_bundle
    from medpipe.training.report import WORST, write_report

    settings = invocation.config()
    worst = WORST if report else 0
    measured = evaluate_bundle(bundle, data=data, folds=folds, fold=fold, settings=settings, worst=worst)
    typer.echo(measured.table())
    if report is not None:
        typer.echo(write_report(report, measured), err=True)


@app.command("cross-validate")
def cross_validate(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Runs' folders, or those of `evaluate --report`.", exists=True),
    ],
) -> None:
    """Print mean and spread over the folds of several runs.

    Reads their reports, one Markdown table; nothing is computed anew.
    """
    from medpipe.training.cross_validation import over_folds

    typer.echo(over_folds(runs))
