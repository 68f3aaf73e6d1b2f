"""`python -m medpipe.training RUN BUNDLE --data FOLDER`: write a bundle folder from a run that exists already.

The report of the figures replaces the run's; with --member, where they are not that run's alone, it is BUNDLE-report.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medpipe.errors import MedpipeError
from medpipe.training.cross_validation import over_folds
from medpipe.training.export import export_bundle
from medpipe.training.report import REPORT


def main() -> None:
    """Reads the command line and exports; an expected error is one line and its exit code."""
    parser = argparse.ArgumentParser(prog="python -m medpipe.training", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's folder, runs/<name>")
    parser.add_argument("bundle", type=Path, help="the bundle folder to write")
    parser.add_argument(
        "--data", type=Path, help="images/ and masks/, to choose thresholds on and to measure"
    )
    parser.add_argument(
        "--cross-validated",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="runs of the folds: their table goes on the card",
    )
    parser.add_argument(
        "--member",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="another run whose network is averaged with it; may be given several times",
    )
    arguments = parser.parse_args()
    try:
        together = arguments.bundle.with_name(f"{arguments.bundle.name}-report")
        report = together if arguments.member else arguments.run / REPORT
        export_bundle(
            arguments.run,
            arguments.bundle,
            data=arguments.data,
            members=arguments.member,
            report_into=report if arguments.data else None,
            cross_validated=over_folds(arguments.cross_validated) if arguments.cross_validated else "",
        )
    except MedpipeError as error:
        parser.exit(error.exit_code, f"error: {error}\n")


if __name__ == "__main__":
    main()
