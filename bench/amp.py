"""What a training step in half precision saves and costs: peak memory and patches per second, against float32.

    python bench/amp.py                                         # fundus-lesions on what is there
    python bench/amp.py --experiment fundus-lesions-small --device cpu --batch 2 --steps 3
    python bench/amp.py --experiment hippocampus --device cpu --batch 4 --steps 2
    python bench/amp.py --device cuda --rounds 5 --steps 20

The trainer's own step on batches that lie ready, cut from two drawn pictures or volumes: nothing waits for the disk.
Each precision is a process of its own, and rounds alternate between them. On a GPU the memory is what torch allocated
at most, on a CPU the process's, with its libraries. What half precision does to AUPR is the row `amp` of the ablation
(docs/ablation.md).
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
import time
from pathlib import Path
from typing import Any

import torch
from sampling import volumes

from medpipe.training.drawn import draw_pictures
from medpipe.training.experiment import Drawn, Experiment, load_experiment
from medpipe.training.trainer import Cases, Trainer, pick_device

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
KINDS = {"half precision": True, "float32": False}
BATCHES = 4


class OnDrawn(Trainer):
    """The trainer, with drawn pictures in place of a folder's."""

    @staticmethod
    def prepare(spec: Experiment, data: Path, run: Path) -> Cases:
        if spec.input.spatial_dims == 3:
            return Cases(training=volumes(2), measured={"held_out": [], "thresholds": []})
        drawn = Drawn(seeds=(1000, 1001), share=0.0)
        cases = draw_pictures(drawn, spec.data.classes, spec.input, run)
        return Cases(training=cases, measured={"held_out": [], "thresholds": []})


def asked(arguments: argparse.Namespace, *, amp: bool) -> Experiment:
    """The experiment with the patches and the precision that were asked for."""
    spec = load_experiment(EXPERIMENTS / f"{arguments.experiment}.toml")
    patches = {
        key: value
        for key, value in (("batch", arguments.batch), ("size", arguments.size), ("stages", ()))
        if value is not None
    }
    return spec.model_copy(
        update={
            "patches": spec.patches.model_copy(update=patches),
            "network": spec.network.model_copy(update={"weights": None}),
            "optimiser": spec.optimiser.model_copy(update={"amp": amp}),
            "drawn": None,
            "distil": None,
            "unlabelled": None,
        }
    )


def child(arguments: argparse.Namespace) -> None:
    """Takes the steps of a round for each line it is told, and prints what they took, as JSON."""
    device = pick_device(arguments.device)
    with tempfile.TemporaryDirectory(prefix="medpipe-amp-") as scratch:
        spec = asked(arguments, amp=KINDS[arguments.child])
        trainer = OnDrawn(spec, Path(scratch), Path(scratch), device)
        batches = [trainer.sampler.batch(number, 1.0) for number in range(BATCHES)]
        if device.type == "cuda":
            batches = [batch.pin_memory() for batch in batches]
        for line in sys.stdin:
            started, loss = time.perf_counter(), 0.0
            for number in range(arguments.steps):
                loss = trainer.step(batches[number % BATCHES], 0.0)
            spent = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            if device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(device)
            patches = arguments.steps * len(batches[0].image)
            facts = {"round": int(line), "speed": patches / spent, "peak": peak, "loss": loss}
            print(
                json.dumps(facts | {"device": device.type, "patch": list(batches[0].image.shape)}), flush=True
            )


def start_child(kind: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--experiment", default="fundus-lesions", help="of fundus photographs, or hippocampus"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=5, help="of a round")
    parser.add_argument("--rounds", type=int, default=3, help="after a first, warming one")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--child", choices=tuple(KINDS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    told: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    children = {kind: start_child(kind) for kind in KINDS}
    for number in range(arguments.rounds + 1):
        for kind, process in children.items():
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            told[kind].append(json.loads(process.stdout.readline()))
    for process in children.values():
        process.communicate()
    first = told["float32"][0]
    print(f"{arguments.experiment}, batches of {first['patch']} on {first['device']}, {os.cpu_count()} cores")
    print(f"medians of {arguments.rounds} rounds of {arguments.steps} steps, load {os.getloadavg()[0]:.1f}\n")
    print("| precision | peak memory, MB | patches per second | loss after as many steps |")
    print("| --- | ---: | ---: | ---: |")
    for kind, rounds in told.items():
        speed = statistics.median(r["speed"] for r in rounds[1:])
        print(f"| {kind} | {rounds[-1]['peak'] / 1e6:.0f} | {speed:.1f} | {rounds[-1]['loss']:.4f} |")
    ratios = [h["speed"] / f["speed"] for h, f in zip(*(told[kind][1:] for kind in KINDS), strict=True)]
    print(f"\nhalf precision / float32, median of the rounds: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
