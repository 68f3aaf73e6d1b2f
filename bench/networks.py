"""Every network that can be trained: its weights, its multiply-adds, and what one picture or volume costs on this CPU.

    python bench/networks.py                       # pictures of 1024 x 1024, volumes of 96 x 96 x 96
    python bench/networks.py --side 512 --only unet,vnet --repeats 3
    python bench/networks.py --count               # the first two tables only, in seconds

"75 % fewer operations" by separable convolutions is true of the decoder: the second table counts it, part by part,
against the full-convolution twin. The third runs each network with first weights in both backends, as bundles are run:
a process each (peak memory is the process's, with its libraries), rounds in turn, medians after a warming round.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SMALL = {"encoder": "small", "aspp": 64, "decoder": [48, 24, 16, 12, 8], "full_stem": 4}
NNUNET = {
    "features": [32, 64, 128, 256, 512, 512, 512, 512],
    "kernels": [[3, 3]] * 8,
    "strides": [[1, 1]] + [[2, 2]] * 7,
    "convolutions": [2] * 8,
    "decoder_convolutions": [2] * 7,
}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "attention-unet": ("attention-unet", {}),
    "attention-unet full": ("attention-unet", {"separable": False}),
    "attention-unet small": ("attention-unet", SMALL),
    "attention-unet small full": ("attention-unet", {**SMALL, "separable": False}),
    "unet": ("unet", {}),
    "swin-unet": ("swin-unet", {}),
    "plain-conv-unet": ("plain-conv-unet", NNUNET),
    "vnet": ("vnet", {}),
}
"""All of nets.registry but the phantom of the self-tests; the plain one as nnU-Net plans it for large pictures."""
BACKENDS = ("torch", "openvino")
BUNDLE = """
id = "measured"
version = "1.0.0"
title = "Measured"
network = {{ name = "{name}", hyper = {hyper} }}
window = {{ patch = {patch} }}
provenance = {{ data = "none", licence = "Apache-2.0" }}
[input]
modality = ["{modality}"]
channels = {channels}
spatial_dims = {dims}
normalise = {{ kind = "z-score" }}
[[classes]]
id = "A"
name = "Spot"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["52988006", "SCT", "Lesion"]
colour_cielab = [53, 80, 67]
threshold = 0.5
"""


def shape(network: str, side: int, edge: int) -> tuple[int, ...]:
    """(channels, *spatial) of what it is fed."""
    return (1, edge, edge, edge) if network == "vnet" else (3, side, side)


def build(network: str, channels: int) -> Any:
    from nets import registry

    name, hyper = NETWORKS[network]
    return registry.build(name, in_channels=channels, classes=1, **hyper).eval()


def multiply_adds(network: str, fed: tuple[int, ...]) -> dict[str, int]:
    """Of one picture, in `all` and of each part; counted on shapes alone."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        built = build(network, fed[0])
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            built(torch.zeros(1, *fed))
    totals = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    top = type(built).__name__
    parts: dict[str, int] = {}
    for part, module in built.named_children():
        # a list of modules is never called itself: its members are counted
        listed = isinstance(module, torch.nn.ModuleList)
        names = [f"{top}.{part}.{n}" for n in range(len(module))] if listed else [f"{top}.{part}"]
        parts[part] = sum(totals.get(name, 0) for name in names)
    return {"all": totals["Global"], **parts}


def counts(networks: list[str], side: int, edge: int) -> Iterator[str]:
    """The table of sizes."""
    yield "| network | fed | weights, M | multiply-adds, G |\n| --- | --- | ---: | ---: |"
    for network in networks:
        fed = shape(network, side, edge)
        weights = sum(p.numel() for p in build(network, fed[0]).parameters())
        done = multiply_adds(network, fed)["all"]
        yield f"| {network} | {' x '.join(map(str, fed))} | {weights / 1e6:.2f} | {done / 1e9:.2f} |"


def savings(side: int) -> Iterator[str]:
    """The table of what separable convolutions save."""
    yield "| network | part | separable, G | full 3 x 3, G | fewer |\n| --- | --- | ---: | ---: | ---: |"
    for network in ("attention-unet", "attention-unet small"):
        ours, twin = (multiply_adds(name, (3, side, side)) for name in (network, f"{network} full"))
        for part in ("encoder", "aspp", "decoder", "all"):
            fewer = 100 * (1 - ours[part] / twin[part])
            yield f"| {network} | {part} | {ours[part] / 1e9:.2f} | {twin[part] / 1e9:.2f} | {fewer:.0f} % |"


def write_bundle(network: str, fed: tuple[int, ...], folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    name, hyper = NETWORKS[network]
    described = ", ".join(f"{key} = {json.dumps(value)}" for key, value in hyper.items())
    channels, *patch = fed
    text = BUNDLE.format(
        name=name,
        hyper=f"{{ {described} }}",
        modality="OP" if len(patch) == 2 else "MR",
        channels=channels,
        dims=len(patch),
        patch=patch,
    )
    (folder / "bundle.toml").write_text(text)
    torch.manual_seed(0)
    weights = build(network, channels).state_dict()
    save_file(
        {key: value.contiguous().clone() for key, value in weights.items()}, folder / "model.safetensors"
    )


def answer(folder: Path, backend: str, threads: int) -> None:
    """Child: loads the bundle, then predicts once for each line it is told, printing JSON."""
    import resource

    import numpy as np

    from medpipe.bundle import load_bundle
    from medpipe.inference import load_backend

    bundle = load_bundle(folder)
    network = load_backend(bundle, "cpu", backend, "f32", threads, cache=folder / "cache")
    image = np.random.default_rng(0).normal(0, 1, (1, bundle.input.channels, *bundle.window.patch))
    fed = image.astype(np.float32)
    for _ in sys.stdin:
        started = time.perf_counter()
        network(fed)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)


def measure(network: str, fed: tuple[int, ...], repeats: int, threads: int) -> str:
    """One row: both backends in turn. OpenVINO's conversion is done before, by another process, and cached."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_bundle(network, fed, folder)
        start_child(folder, "openvino", threads).communicate()
        children = {backend: start_child(folder, backend, threads) for backend in BACKENDS}
        rounds: dict[str, list[dict[str, float]]] = {backend: [] for backend in BACKENDS}
        for _ in range(repeats + 1):
            for backend, child in children.items():
                assert child.stdin is not None and child.stdout is not None
                child.stdin.write("\n")
                child.stdin.flush()
                rounds[backend].append(json.loads(child.stdout.readline()))
        for child in children.values():
            child.communicate()
    seconds = {backend: [r["seconds"] for r in done[1:]] for backend, done in rounds.items()}
    ratio = statistics.median(t / o for t, o in zip(seconds["torch"], seconds["openvino"], strict=True))
    cells = [f"{statistics.median(seconds[backend]):.2f}" for backend in BACKENDS]
    cells += [f"{ratio:.2f}", *(f"{rounds[backend][-1]['peak']:.0f}" for backend in BACKENDS)]
    return f"| {network} | {' | '.join(cells)} |"


def start_child(folder: Path, backend: str, threads: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", str(folder), backend, "--threads", str(threads)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=1024, help="of pictures, in pixels")
    parser.add_argument("--edge", type=int, default=96, help="of volumes, in voxels")
    parser.add_argument("--only", default=",".join(NETWORKS), help="names from the first column, by commas")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--count", action="store_true", help="count, run nothing")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        answer(Path(arguments.child[0]), arguments.child[1], arguments.threads)
        return
    networks = [name.strip() for name in arguments.only.split(",")]
    unknown = sorted(set(networks) - set(NETWORKS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(NETWORKS)}")
    print("\n".join(counts(networks, arguments.side, arguments.edge)), flush=True)
    print("\n" + "\n".join(savings(arguments.side)), flush=True)
    if arguments.count:
        return
    print(f"\nf32, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, median of {arguments.repeats}\n")
    print("| network | torch s | OpenVINO s | torch / OpenVINO | torch peak MB | OpenVINO peak MB |")
    print("| --- |" + " ---: |" * 5, flush=True)
    for network in networks:
        fed = shape(network, arguments.side, arguments.edge)
        print(measure(network, fed, arguments.repeats, arguments.threads), flush=True)


if __name__ == "__main__":
    main()
