"""What each part of the design is worth, by the screening protocol (docs/ablation.md).

    python bench/ablation.py --row attention-gates --folds 0 1 2 3 4 --data IDRID --minutes 10
    python bench/ablation.py --row all --data IDRID --unlabelled MORE --device cuda --steps 600 --jobs 8
    python bench/ablation.py                          # the table of what there is; also --table

A row trains what it needs (side runs too), is measured on the fold kept out, and its figures lie in runs/ablation/.
What is finished is not computed again, what was stopped goes on, and one machine may train (--train-only) what another
measures, of the same --out. Rows are experiments/ablation/rows.toml over experiments/screening.toml. IDRID holds
images/ and masks/; pictures and masks are halved once, and everything is measured on these.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow

from medpipe.errors import ConfigError, MedpipeError
from medpipe.training.ablation import Ablation, Plan, levels, paired, spread
from medpipe.training.screening import Place, fill_cache, measured, trained
from medpipe.training.sources import PICTURES

ROOT = Path(__file__).resolve().parents[1]
SCREENING = ROOT / "experiments" / "screening.toml"
ROWS = ROOT / "experiments" / "ablation" / "rows.toml"


def halved(data: Path, out: Path, jobs: int) -> Path:
    """The folder's pictures and masks at half their size: means of 2 x 2 pixels, a class where it has half of them."""
    target = out / "half"
    for part in ("images", "masks"):
        (target / part).mkdir(parents=True, exist_ok=True)
    paths = sorted(p for p in (data / "images").glob("*") if p.suffix.lower() in PICTURES)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_halve, paths, [target] * len(paths)))
    return target


def _halve(path: Path, target: Path) -> None:
    picture, mask = (target / part / f"{path.stem}.png" for part in ("images", "masks"))
    if picture.exists() and mask.exists():
        return
    with Pillow.open(path.parents[1] / "masks" / mask.name) as whole:
        bits = np.asarray(whole).astype(np.uint8)
    rows, columns = bits.shape[0] // 2, bits.shape[1] // 2
    bits = bits[: 2 * rows, : 2 * columns]
    small = np.zeros((rows, columns), np.uint8)
    for bit in (1 << n for n in range(8)):
        if (bits & bit).any():
            small[((bits & bit) > 0).reshape(rows, 2, columns, 2).sum(axis=(1, 3)) >= 2] |= bit
    _save(small, mask)
    with Pillow.open(path) as whole:
        _save(np.asarray(whole.convert("RGB").crop((0, 0, 2 * columns, 2 * rows)).reduce(2)), picture)


def _save(pixels: Any, path: Path) -> None:
    half = path.with_name(f".{path.name}")
    Pillow.fromarray(np.asarray(pixels, np.uint8)).save(half, "PNG", compress_level=1)
    half.replace(path)


@dataclass(frozen=True)
class Piece:
    """A run to train, or a row to measure with a run's weights."""

    work: Callable[[Plan, Place], str]
    plan: Plan
    after: frozenset[str]
    """Runs that must be trained before."""


def pieces(plans: Sequence[Plan], train_only: bool) -> list[Piece]:
    """All the work that rows are: runs that others wait for first. Measuring can be left for another time."""
    runs = [run for level in levels(plans) for run in level]
    asked = {need.run_name for run in runs for need in run.needs}
    runs.sort(key=lambda run: run.run_name not in asked)
    training = [Piece(trained, run, frozenset(need.run_name for need in run.needs)) for run in runs]
    if train_only:
        return training
    return [*training, *(Piece(measured, plan, frozenset({plan.run_name})) for plan in plans)]


def one(piece: Piece, place: Place) -> tuple[bool, str]:
    """A piece of work in a process of the pool."""
    try:
        return True, piece.work(piece.plan, place)
    except MedpipeError as error:
        return False, f"{piece.plan.name}-{piece.plan.fold}: {error.code}: {error}"


def as_one_of(jobs: int) -> None:
    """A process of the pool takes its share of the cores, as torchrun's would."""
    os.environ["LOCAL_WORLD_SIZE"] = str(jobs)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def compute(plans: Sequence[Plan], place: Place, jobs: int, *, train_only: bool) -> bool:
    """Trains and measures; whether all went well. What fails is said, what waits for it is left, the rest goes on."""
    left, there, failed = pieces(plans, train_only), set[str](), set[str]()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=as_one_of, initargs=(jobs,)) as pool:
        running: dict[Future[tuple[bool, str]], Piece] = {}
        while True:
            # what is measured comes before what is trained: figures first, should this be stopped
            ready = sorted((p for p in left if p.after <= there), key=lambda p: p.work is trained)
            for piece in ready[: jobs - len(running)]:
                left.remove(piece)
                running[pool.submit(one, piece, place)] = piece
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                piece, (good, said) = running.pop(future), future.result()
                print(said, file=sys.stderr, flush=True)
                if piece.work is trained and good:
                    there.add(piece.plan.run_name)
                elif not good:
                    failed.add(piece.plan.run_name)
    for piece in left:
        print(f"{piece.plan.name}-{piece.plan.fold}: not computed, what it needs failed", file=sys.stderr)
    return not failed and not left


def table(ablation: Ablation, out: Path) -> str:
    """Markdown: a table for each budget that figures are there of; minutes are worth more on some devices."""
    results = [json.loads(path.read_text()) for path in sorted(out.glob("results/*.json"))]
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if result["stamp"] == ablation.plan(result["row"], result["fold"], result["budget"]).stamp:
            budget = " and ".join(f"{value:g} {key}" for key, value in result["budget"].items())
            where = f", {result['device']}" if "minutes" in result["budget"] else ""
            groups.setdefault(f"{budget} a run{where}", []).append(result)
    parts = [f"### {title}\n\n{_of_group(ablation, some)}" for title, some in groups.items()]
    return "\n\n".join(parts) or f"{out}: no row is finished"


def _of_group(ablation: Ablation, results: Sequence[dict[str, Any]]) -> str:
    patch = results[0]["patch"]
    classes = list(results[0]["classes"])
    lines = [
        f"| row | folds | {' | '.join(f'AUPR {c}' for c in classes)} | mean AUPR (sd over folds) | to the row before "
        f"(95 %) | mean Dice | to the row before (95 %) | weights, M | multiply-adds of {patch} x {patch}, G "
        "| trained on | in the bundle |",
        f"|{' --- |' * (len(classes) + 10)}",
    ]
    before: tuple[dict[int, float], dict[int, float]] | None = None
    for row in ablation.rows:
        found = {r["fold"]: r for r in results if r["row"] == row.name}
        if not found:
            before = None
            continue
        mean = {fold: _mean(r, "aupr") for fold, r in found.items()}
        dice = {fold: _mean(r, "dice") for fold, r in found.items()}
        one = next(iter(found.values()))
        deviation = spread(list(mean.values()))
        cells = [
            f"{row.name}: {row.says}",
            ", ".join(map(str, sorted(found))),
            *(_shown([r["classes"][c]["aupr"] for r in found.values()]) for c in classes),
            _shown(list(mean.values())) + ("" if deviation is None else f" ({deviation:.3f})"),
            "-" if before is None else str(paired(before[0], mean) or "-"),
            _shown(list(dice.values())),
            "-" if before is None else str(paired(before[1], dice) or "-"),
            f"{one['weights'] / 1e6:.2f}",
            f"{one['multiply_adds'] / 1e9:.2f}",
            ", ".join(sorted({r["device"] for r in found.values()})),
            row.shipped,
        ]
        lines.append(f"| {' | '.join(cells)} |")
        before = mean, dice
    return "\n".join(lines)


def _mean(result: dict[str, Any], key: str) -> float:
    """Over the classes that the fold has."""
    values = [c[key] for c in result["classes"].values() if c[key] is not None]
    return statistics.fmean(values)


def _shown(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.3f}" if known else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", nargs="+", default=[], help="rows to compute, or all")
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--data", type=Path, help="folder with images/ and masks/")
    parser.add_argument("--unlabelled", type=Path, help="folder with images/ for the rows that learn from it")
    parser.add_argument("--device", default="cpu", help="what is there already may be of another")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="training of a run (10)")
    length.add_argument("--steps", type=int, help="in place of minutes")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other")
    parser.add_argument(
        "--train-only", action="store_true", help="leave the measuring for the same call without it"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--table", action="store_true", help="only print the table of what there is")
    asked = parser.parse_args()
    ablation, well = Ablation(SCREENING, ROWS), True
    if asked.row and not asked.table:
        if asked.data is None:
            raise ConfigError("rows need --data, the folder with images/ and masks/")
        names = [row.name for row in ablation.rows] if asked.row == ["all"] else asked.row
        budget = {"steps": asked.steps} if asked.steps else {"minutes": asked.minutes or 10.0}
        plans = [ablation.plan(name, fold, budget) for name in names for fold in asked.folds]
        out, unlabelled = asked.out.resolve(), asked.unlabelled and asked.unlabelled.resolve()
        place = Place(
            out=out,
            cache=out / "cache",
            data=halved(asked.data, out, asked.jobs),
            folds=ablation.folds_file.resolve(),
            unlabelled=unlabelled,
            device=asked.device,
        )
        fill_cache([plan for level in levels(plans) for plan in level], place)
        well = compute(plans, place, asked.jobs, train_only=asked.train_only)
    print(table(ablation, asked.out))
    if not well:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except MedpipeError as error:
        sys.exit(f"error: {error.code}: {error}")
