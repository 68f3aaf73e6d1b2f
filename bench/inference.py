"""Seconds and peak memory of predicting one large fundus photograph: torch against OpenVINO, in one run.

    python bench/inference.py                         # the drawn sample, 4288 x 2848
    python bench/inference.py --picture eye.jpg       # a picture of your own
    python bench/inference.py --bundle fundus-lesions --repeats 5 --tta
    python bench/inference.py --cuda                  # a GPU in f32 and fp16, and nothing else

Each row is a process of its own (peak memory is the process's, with its libraries, or what torch took of a GPU);
rounds alternate between the rows, so that a busy machine disturbs all alike. Medians over the rounds after a first,
warming one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VARIANTS = {
    "torch f32": ("cpu", "torch", "f32"),
    "OpenVINO f32": ("cpu", "openvino", "f32"),
    "OpenVINO bf16": ("cpu", "openvino", "bf16"),
    "torch f32, CUDA": ("cuda", "torch", "f32"),
    "torch fp16, CUDA": ("cuda", "torch", "fp16"),
}
STEPS = ("preprocess", "network", "crf", "lesions")


def read_picture(path: Path | None) -> Any:
    """RGB (3, 1, J, I) uint8 of a file, or of the drawn sample."""
    import numpy as np

    if path is None:
        from medpipe.check_bundle import draw

        return draw({"kind": "fundus", "seed": 7, "rows": 2848, "columns": 4288}).array
    from PIL import Image as Picture

    with Picture.open(path) as file:
        return np.ascontiguousarray(np.asarray(file.convert("RGB")).transpose(2, 0, 1)[:, None])


def answer(arguments: argparse.Namespace) -> None:
    """Child: loads one variant, then predicts once for each line it is told, printing JSON."""
    import resource

    import numpy as np

    from medpipe.bundle import find_bundle
    from medpipe.inference import load_backend, predict, with_crf
    from medpipe.types import Grid, Image, SourceFrame

    array = np.load(arguments.array, mmap_mode="r")
    bundle = find_bundle(arguments.bundle, arguments.folder)
    if arguments.crf:
        bundle = with_crf(bundle, arguments.crf)
    source = SourceFrame(
        "1.2.3", bundle.input.sop_classes[0] if bundle.input.sop_classes else "1.2", None, Path("none")
    )
    image = Image(
        array, Grid(array.shape[1:], np.eye(4), spatial=False), (source,), "1.2", "1.2.3", "1.2.3.4", "OP", "RGB", False
    )  # fmt: skip
    started = time.perf_counter()
    backend = load_backend(bundle, *VARIANTS[arguments.only], threads=arguments.threads)
    start = time.perf_counter() - started
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            done = predict(image, bundle, backend, Path(scratch), tta=arguments.tta)
            total = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if VARIANTS[arguments.only][0] == "cuda":
            import torch

            peak = torch.cuda.max_memory_allocated() / 1024**2
        told = {"round": line.strip(), "start": start, "total": total, "peak": peak, "counts": done.counts()}
        print(json.dumps({**told, **done.seconds}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="fundus-lesions")
    parser.add_argument(
        "--folder", type=Path, action="append", default=[], help="where to look for the bundle as well"
    )
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tta", action="store_true")
    parser.add_argument(
        "--crf", choices=("off", "guarded", "seed"), help="for all classes, instead of the bundle's choice"
    )
    parser.add_argument("--bf16", action="store_true", help="a row for OpenVINO in bf16 as well")
    parser.add_argument("--cuda", action="store_true", help="rows for the GPU in place of the CPU's")
    parser.add_argument("--only", choices=tuple(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--array", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        answer(arguments)
        return
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        array = Path(folder) / "picture.npy"
        np.save(array, read_picture(arguments.picture))
        names = [
            n for n in VARIANTS if ("CUDA" in n) == arguments.cuda and (arguments.bf16 or "bf16" not in n)
        ]
        children = {name: start_child(name, array) for name in names}
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(arguments.repeats + 1):
            for name, child in children.items():
                assert child.stdin is not None and child.stdout is not None
                child.stdin.write(f"{number}\n")
                child.stdin.flush()
                rounds[name].append(json.loads(child.stdout.readline()))
        for child in children.values():
            child.communicate()
        rows, columns = np.load(array, mmap_mode="r").shape[2:]
    print(f"One picture of {columns} x {rows}, bundle {arguments.bundle}, {os.cpu_count()} cores")
    print(
        f"TTA {'on' if arguments.tta else 'off'}, median of {arguments.repeats}, load {os.getloadavg()[0]:.1f}\n"
    )
    print(f"| backend | load s | {' | '.join(f'{step} s' for step in STEPS)} | total s | peak MB | lesions |")
    print("|---|" + "---:|" * (len(STEPS) + 3) + "---|")
    for name, results in rounds.items():
        warm = results[1:]
        cells = [f"{results[0]['start']:.2f}"]
        cells += [f"{statistics.median(r[step] for r in warm):.2f}" for step in (*STEPS, "total")]
        lesions = ", ".join(f"{k} {v}" for k, v in warm[-1]["counts"].items())
        print(f"| {name} | {' | '.join(cells)} | {warm[-1]['peak']:.0f} | {lesions} |")


def start_child(name: str, array: Path) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name, "--array", str(array)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    main()
