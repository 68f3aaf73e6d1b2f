"""How fast patches are cut and varied: patches per second by recipe, and by the number of threads or processes.

`python bench/sampling.py [--seconds 4] [--workers 1 2 4]` prints one Markdown table. Drawn fundus photographs of 1344
working pixels with patches of 384, and volumes of noise with patches of 40 x 56 x 40, cut by the recipes of
`experiments/`. The first column counts processor time, so that it can be read on a busy machine.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from medpipe.training.ahead import Key, cut_ahead
from medpipe.training.cases import TrainingCase
from medpipe.training.drawn import draw_pictures
from medpipe.training.experiment import Drawn, Experiment, Paste, load_experiment
from medpipe.training.patches import PatchSampler

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
CPU = torch.device("cpu")


def keys() -> Iterator[Key]:
    return ((number, 0.0, 0) for number in itertools.count())


def volumes(count: int) -> list[TrainingCase]:
    """Noise the size of a hippocampus crop, with a ball of either class."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (36, 50, 35)), indexing="ij"), -1)
    masks = np.stack([((grid - centre) ** 2).sum(-1) < 64 for centre in ((18, 15, 17), (18, 35, 17))])
    image = rng.normal(size=(1, 36, 50, 35)).astype(np.float16)
    inside = np.ones(image.shape[1:], np.bool_)
    places = tuple(np.argwhere(mask) for mask in masks)
    return [TrainingCase(str(n), image, masks.astype(np.uint8) * 255, inside, places) for n in range(count)]


def recipes(scratch: Path) -> Iterator[tuple[str, Experiment, list[TrainingCase]]]:
    fundus = load_experiment(EXPERIMENTS / "fundus-lesions.toml")
    drawn = Drawn(seeds=(1000, 1001, 1002, 1003), rows=1424, columns=2144)
    pictures = draw_pictures(drawn, fundus.data.classes, fundus.input, scratch)
    bent = {"rotation": 15.0, "elastic": 4.0}
    varied = {"noise": 0.05, "jpeg": 0.3}
    for name, more in (
        ("fundus 384, flips, turns, zoom, light, blur", {}),
        ("and rotation, elastic deformation", bent),
        ("and noise, JPEG", {**bent, **varied}),
        ("and pasted lesions", {**bent, **varied, "paste": Paste()}),
    ):
        yield name, fundus.model_copy(update={"patches": fundus.patches.model_copy(update=more)}), pictures
    yield "hippocampus 40 x 56 x 40", load_experiment(EXPERIMENTS / "hippocampus.toml"), volumes(8)


def alone(sampler: PatchSampler, seconds: float) -> float:
    """Patches per second of processor time, one after the other."""
    sampler.batch(0)
    began, cut = time.process_time(), 0
    while time.process_time() - began < seconds:
        cut += len(sampler.batch(cut).image)
    return cut / (time.process_time() - began)


def by_processes(sampler: PatchSampler, processes: int, seconds: float) -> float:
    """Patches per second, as the trainer takes them beside a GPU."""
    batches = cut_ahead(sampler.batch, keys(), CPU, processes)
    for _ in range(3 * processes):
        next(batches)  # what was cut while nobody asked
    began, cut = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        cut += len(next(batches).image)
    taken = cut / (time.perf_counter() - began)
    batches.close()
    return taken


def by_threads(sampler: PatchSampler, threads: int, seconds: float) -> float:
    """Patches per second of a pool of threads in one process."""
    began = time.perf_counter()

    def cut(first: int) -> int:
        patches, number = 0, first
        while time.perf_counter() - began < seconds:
            patches += len(sampler.batch(number).image)
            number += threads
        return patches

    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(cut, range(threads)))
    return total / (time.perf_counter() - began)


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=sorted({1, cores, *(n for n in (4, 8) if n < cores)})
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heads = [f"{n} {kind}" for n in arguments.workers for kind in ("threads", "processes")]
    print(f"Patches per second; {cores} cores.\n")
    print(f"| recipe | alone, per second of CPU | {' | '.join(heads)} |")
    print(f"| --- {'| ---: ' * (len(heads) + 1)}|")
    with tempfile.TemporaryDirectory() as scratch:
        for name, spec, cases in recipes(Path(scratch)):
            sampler = PatchSampler(cases, spec.patches, spec.input, seed=0, classes=spec.data.classes)
            speeds = [alone(sampler, arguments.seconds)]
            for workers in arguments.workers:
                speeds += [
                    measure(sampler, workers, arguments.seconds) for measure in (by_threads, by_processes)
                ]
            print(f"| {name} | {' | '.join(f'{speed:.0f}' for speed in speeds)} |", flush=True)


if __name__ == "__main__":
    main()
