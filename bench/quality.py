"""What every shipped bundle is worth on the pictures that its training held out, through the whole pipeline.

    python bench/quality.py [--data FOLDER] [--bundle fundus-lesions]

FOLDER (else $MEDPIPE_DATA, else ../shared/data beside the checkout) holds the data sets: idrid_train, busi,
hippocampus. A bundle whose data are not there is skipped. Folds, and the one held out, are those of the experiment
that the bundle names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from held_out import DATA, ROOT, folder_of

from medpipe.bundle import Bundle, available_bundles
from medpipe.inference import load_backend
from medpipe.training.evaluation import EvaluationReport, measure, shown
from medpipe.training.experiment import load_experiment, split
from medpipe.training.lesion_scores import FALSE_ALLOWED


def main() -> None:
    """Prints one Markdown table per bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--bundle", help="this one only")
    options = parser.parse_args()
    for bundle in available_bundles(()):
        if not bundle.id.startswith("phantom") and options.bundle in (None, bundle.id):
            print(f"{quality(bundle, options.data)}\n", flush=True)


def quality(bundle: Bundle, data: Path) -> str:
    """The table of one bundle, or why there is none."""
    if not (ROOT / bundle.provenance.training).is_file():
        return f"{bundle.id} {bundle.version}: skipped, it names no experiment"
    experiment = load_experiment(ROOT / bundle.provenance.training)
    folder, fold = data / folder_of(experiment), experiment.data.fold
    if not folder.is_dir():
        return f"{bundle.id} {bundle.version}: skipped, no data ({folder.name})"
    report = measure(bundle, load_backend(bundle), folder, split(experiment.data).unseen, fold=fold)
    of = "The pictures for thresholds" if fold is None else f"Fold {fold}"
    return "\n".join([report.table(), "", f"{of} of {experiment.data.folds.name}.", *microaneurysms(report)])


def microaneurysms(report: EvaluationReport) -> list[str]:
    """The bar for MA in one sentence, where the bundle has the class."""
    lines = []
    for score in report.classes:
        if score.class_id == "MA":
            recall, threshold = score.froc.at()
            at = "no threshold" if threshold is None else f"threshold {threshold:.2f}"
            lines.append(
                f"MA: recall {shown(recall)} at <= {FALSE_ALLOWED:g} false lesions per picture ({at})."
            )
    return lines


if __name__ == "__main__":
    main()
