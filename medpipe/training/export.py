"""From a run to a bundle folder: averaged weights; thresholds and sizes from pictures kept for that; the card."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import tomli_w
import torch
from safetensors.torch import save_file
from torch import Tensor

from medpipe.bundle import DESCRIPTION, Bundle, load_bundle, weight_names
from medpipe.bundle import Network as BundleNetwork
from medpipe.errors import ConfigError
from medpipe.inference import load_backend
from medpipe.training.beforehand import check_pictures
from medpipe.training.card import write_card
from medpipe.training.crf_choice import CrfGain, measure_crf
from medpipe.training.decision import Choice, choose
from medpipe.training.describe import describe
from medpipe.training.evaluation import measure
from medpipe.training.experiment import Experiment, load_run, split
from medpipe.training.members import check_members, together
from medpipe.training.report import WORST, Origin, write_report
from medpipe.training.state import BEST, CHECKPOINT, build_network


def export_bundle(
    run: Path,
    bundle: Path,
    *,
    data: Path | None = None,
    members: Sequence[Path] = (),
    report_into: Path | None = None,
    cross_validated: str = "",
) -> Bundle:
    """Writes a bundle folder from a run: model.safetensors, bundle.toml, CARD.md.

    With `data`, thresholds and smallest sizes (and with `decision.crf = "measure"` who uses the CRF) are chosen on the
    experiment's threshold pictures, through the whole pipeline at native resolution, and the card tells the figures of
    the held-out fold (where none is held out, of the threshold pictures); without it the thresholds are 0.5 and the
    card says that nothing was measured. `members` are other runs, also of other folds, whose networks are averaged with
    this one's.
    `report_into` is a folder for the report of those figures, `cross_validated` a table over folds for the card. Raises
    ConfigError where a run has no checkpoint, or the runs do not go together.
    """
    experiment = together(load_run(run), members)
    if experiment.task != "segment":
        raise ConfigError(f"{run}: restores patches; begin another run with its weights, and export that one")
    if data is not None:
        check_pictures(experiment, to_export=True)
    check_members(experiment, members)
    with _put_in_place(bundle) as folder:
        _fill(folder, experiment, (run, *members), data, report_into, cross_validated)
    return load_bundle(bundle)


@contextlib.contextmanager
def _put_in_place(bundle: Path) -> Iterator[Path]:
    """A folder that becomes `bundle` when all in it is written; what stops before leaves the bundle that was there.

    Files that only the earlier bundle has stay with the new one.
    """
    if bundle.exists() and not bundle.is_dir():
        raise ConfigError(f"{bundle}: is a file; name a folder for the bundle")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{bundle.name}-", dir=bundle.parent) as scratch:
        folder, before = Path(scratch) / bundle.name, Path(scratch) / "before"
        folder.mkdir()
        yield folder
        if bundle.exists():
            for path in bundle.iterdir():
                if path.is_file() and not (folder / path.name).exists():
                    shutil.copy2(path, folder / path.name)
            bundle.rename(before)
        folder.rename(bundle)


def _fill(
    bundle: Path,
    experiment: Experiment,
    runs: Sequence[Path],
    data: Path | None,
    report_into: Path | None,
    cross_validated: str,
) -> None:
    """Writes weights, description and card into the folder; see export_bundle."""
    run, *members = runs
    write = partial(_write_description, bundle, experiment, members=1 + len(members))
    network = BundleNetwork(name=experiment.network.name, members=1 + len(members))
    for one, name in zip((run, *members), weight_names(network), strict=True):
        _write_weights(experiment, one, bundle / name)
    written = write({class_id: Choice() for class_id in experiment.data.classes})
    report = None
    gains: tuple[CrfGain, ...] = ()
    if data is not None:
        backend = load_backend(written)
        parts = split(experiment.data)
        choices = choose(written, backend, data, parts.thresholds, experiment.decision)
        written = write(choices)
        if experiment.decision.crf == "measure":
            gains = measure_crf(written, backend, data, parts.thresholds)
            written = write(choices, gains)
        report = measure(
            written,
            backend,
            data,
            parts.unseen,
            fold=experiment.data.fold,
            worst=WORST if report_into else 0,
        )
        if report_into is not None:
            write_report(report_into, report, Origin.of(experiment, run))
    write_card(bundle, written, experiment, report, gains=gains, cross_validated=cross_validated)


def averaged_weights(run: Path) -> dict[str, Tensor]:
    """Of the run's averaged network: of its best measurement where the run ends by patience, else the last."""
    try:
        best = load_run(run).budget.patience is not None and (run / BEST).is_file()
        saved = torch.load(run / (BEST if best else CHECKPOINT), map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{run}: no {CHECKPOINT} to export; train first") from error
    weights: dict[str, Tensor] = saved["average"]
    return weights


def _write_weights(experiment: Experiment, run: Path, path: Path) -> None:
    """The averaged weights; kernels in float16, what normalises in float32, where a small variance must stay exact."""
    network = build_network(experiment)
    network.load_state_dict(averaged_weights(run))
    half = path.with_name(f".{path.name}.half")
    save_file(
        {
            name: (value.half() if value.dim() > 1 else value).contiguous()
            for name, value in network.state_dict().items()
        },
        half,
    )
    half.chmod(0o644)
    half.replace(path)


def _write_description(
    folder: Path,
    experiment: Experiment,
    choices: Mapping[str, Choice],
    gains: Sequence[CrfGain] = (),
    *,
    members: int,
) -> Bundle:
    content = describe(experiment, choices, gains, members=members)
    (folder / DESCRIPTION).write_text(tomli_w.dumps(content), encoding="utf-8")
    return load_bundle(folder)
