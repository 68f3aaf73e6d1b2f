"""What the benches of a bundle share: the bundle, the data it was trained on, and pictures that it has not seen."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medpipe.bundle import Bundle, find_bundle, load_bundle
from medpipe.training.experiment import Experiment, load_experiment, read_folds, split

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MEDPIPE_DATA") or ROOT.parent / "shared" / "data")
"""Where the folders of the data sets lie, if nothing else is said."""
FOLDER_OF = {"idrid": "idrid_train", "busi": "busi", "hippocampus": "hippocampus"}
"""The folder of the data set that a list of folds (experiments/folds/<name>.toml) is of."""


@dataclass(frozen=True)
class HeldOut:
    """`names` of pictures in `data` on which the bundle may be measured; of a fold, or (None) chosen for thresholds."""

    bundle: Bundle
    data: Path
    names: Sequence[str]
    fold: int | None

    def __str__(self) -> str:
        of = "the pictures for thresholds" if self.fold is None else f"fold {self.fold}"
        return f"{self.bundle.id} {self.bundle.version}, {len(self.names)} pictures ({of})"


def parser_for(doc: str, bundle: str) -> argparse.ArgumentParser:
    """Knows --bundle (by default `bundle`), --data, --fold and --pictures; the bench adds its own."""
    parser = argparse.ArgumentParser(
        description=doc.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default=bundle, help="id, or folder")
    parser.add_argument("--data", type=Path, help="the data set's folder")
    parser.add_argument("--fold", type=int, help="on this fold's pictures, not those chosen for thresholds")
    parser.add_argument("--pictures", type=int, help="only so many of them")
    return parser


def asked_for(options: argparse.Namespace) -> HeldOut:
    """The bundle, and pictures of the experiment that it names. Ends the bench where the data are not there."""
    bundle = bundle_of(options)
    data, names, fold = unseen(bundle, options.data, options.fold)
    if not data.is_dir():
        print(f"skipped, no data ({data.name})")
        raise SystemExit(0)
    return HeldOut(bundle, data, names[: options.pictures], fold)


def bundle_of(options: argparse.Namespace) -> Bundle:
    """The bundle of --bundle."""
    folder = Path(options.bundle)
    return load_bundle(folder) if folder.is_dir() else find_bundle(options.bundle, ())


def unseen(bundle: Bundle, data: Path | None, fold: int | None) -> tuple[Path, Sequence[str], int | None]:
    """Data set, pictures and their fold; without `fold` those that the experiment chooses thresholds on."""
    experiment = load_experiment(ROOT / bundle.provenance.training)
    names = split(experiment.data).thresholds if fold is None else read_folds(experiment.data.folds)[fold]
    return data or DATA / folder_of(experiment), names, fold


def folder_of(experiment: Experiment) -> str:
    """The folder, below DATA, of the data set that an experiment is on."""
    return FOLDER_OF.get(experiment.data.folds.stem, experiment.data.folds.stem)
