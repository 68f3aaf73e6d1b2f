"""What training in half precision saves and costs: peak memory, patches per second and AUPR, against float32.

    python bench/amp.py --data IDRID                          # fundus-lesions, 40 steps of each, on what is there
    python bench/amp.py --data IDRID --device cuda --steps 2000 --batch 16 --size 512

Each run is a process of its own; runs of the two kinds alternate. On a GPU the memory is what torch allocated at most,
on a CPU the process's, with its libraries. AUPR is of fold 0, held out, at working size: with few steps it only says
that both learn alike. --cache DIR keeps the pictures at working size (a run's cache/ has them already). Without --data
(or $MEDPIPE_DATA/idrid_train) nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from medpipe.training.experiment import Experiment, load_experiment
from medpipe.training.per_fold import of_fold
from medpipe.training.trainer import Trainer, pick_device

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
KINDS = {"half precision": True, "float32": False}


def asked(arguments: argparse.Namespace, *, amp: bool) -> Experiment:
    """The experiment with the budget, patches and precision that were asked for."""
    spec = of_fold(load_experiment(EXPERIMENTS / f"{arguments.experiment}.toml"), 0)
    patches = spec.patches.model_copy(
        update={
            key: value
            for key, value in (("batch", arguments.batch), ("size", arguments.size))
            if value is not None
        }
    )
    budget = spec.budget.model_copy(
        update={"minutes": None, "steps": arguments.steps, "validate_minutes": 1e6, "save_minutes": 1e6}
    )
    network = spec.network.model_copy(update={"weights": None})
    optimiser = spec.optimiser.model_copy(update={"amp": amp})
    return spec.model_copy(
        update={
            "patches": patches,
            "budget": budget,
            "network": network,
            "optimiser": optimiser,
            "drawn": None,
        }
    )


def child(arguments: argparse.Namespace) -> None:
    """Trains once and prints what it took, as JSON."""
    device = pick_device(arguments.device)
    with tempfile.TemporaryDirectory(prefix="medpipe-amp-") as scratch:
        run = Path(scratch)
        (run / "cache").symlink_to(arguments.cache.resolve())
        trainer = Trainer(asked(arguments, amp=arguments.child == "amp"), arguments.data, run, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        report = trainer.run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    known = [value for value in report.scores["held_out"].values() if value is not None]
    facts = {"peak": peak, "speed": report.patches_per_second, "aupr": sum(known) / max(1, len(known))}
    print(json.dumps(facts | {"device": device.type}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--experiment", default="fundus-lesions")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--child", choices=("amp", "f32"), help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help="folder of the pictures at working size")
    arguments = parser.parse_args()
    if arguments.data is None and "MEDPIPE_DATA" in os.environ:
        arguments.data = Path(os.environ["MEDPIPE_DATA"]) / "idrid_train"
    if arguments.data is None or not arguments.data.is_dir():
        print("skipped, no data: --data FOLDER, or $MEDPIPE_DATA")
        return
    if arguments.child:
        child(arguments)
        return
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in KINDS}
    with tempfile.TemporaryDirectory(prefix="medpipe-amp-cache-") as scratch:
        cache = str(arguments.cache or scratch)
        for _ in range(arguments.repeats):
            for name, amp in KINDS.items():
                words = [*sys.argv[1:], "--data", str(arguments.data), "--cache", cache]
                words += ["--child", "amp" if amp else "f32"]
                done = subprocess.run(
                    [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
                )
                told[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{arguments.experiment}, {arguments.steps} steps on {told['float32'][0]['device']}\n")
    print("| precision | peak memory, MB | patches per second | mean AUPR |\n| --- | ---: | ---: | ---: |")
    for name, runs in told.items():
        peak, speed, aupr = (statistics.median(run[key] for run in runs) for key in ("peak", "speed", "aupr"))
        print(f"| {name} | {peak / 1e6:.0f} | {speed:.1f} | {aupr:.3f} |")


if __name__ == "__main__":
    main()
