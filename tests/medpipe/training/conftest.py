"""A folder of small drawn photographs with masks as bits, and an experiment that trains on them in seconds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image as Pillow

from medpipe.samples.fundus import draw_fundus
from medpipe.training import train

CLASSES = ["MA", "HE", "EX", "SE"]
FUNDUS: dict[str, object] = {
    "modality": ["OP"],
    "channels": 3,
    "spatial_dims": 2,
    "working_size": [320, 320],
    "scale": "fit",
    "field": "fundus",
    "minimum_size": [128, 128],
    "normalise": {"kind": "mean-std", "mean": [0.45, 0.25, 0.12], "std": [0.25, 0.15, 0.10]},
}
NAMES = [f"drawn_{n}" for n in range(5)]


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def drawn_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images/` and `masks/` of five drawn photographs of 768 x 512 pixels, seeds 20 to 24."""
    folder = tmp_path_factory.mktemp("drawn")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for n, name in enumerate(NAMES):
        sample = draw_fundus(20 + n, 768, 512)
        Pillow.fromarray(sample.picture).save(folder / "images" / f"{name}.png")
        bits = sum(sample.truth[c].astype(np.uint8) << c for c in range(4))
        Pillow.fromarray(np.asarray(bits, np.uint8)).save(folder / "masks" / f"{name}.png")
    return folder


@pytest.fixture(scope="package")
def trained(drawn_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run of `experiment`, made once: to be read, never changed."""
    folder = tmp_path_factory.mktemp("trained")
    return train(write_experiment(folder), data=drawn_data, out=folder / "runs", device="cpu").run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A finished run that is the test's own."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / trained.name))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """An experiment of 12 steps: three pictures train, one chooses thresholds, one is held out."""
    return write_experiment(tmp_path)


def write_experiment(folder: Path, **sections: dict[str, object]) -> Path:
    folds = [{"pictures": [NAMES[0]]}, {"pictures": NAMES[1:3]}, {"pictures": NAMES[3:]}]
    (folder / "folds.toml").write_text(tomli_w.dumps({"fold": folds}))
    lesion = ["52988006", "SCT", "Lesion"]
    category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
    rows = [
        {"id": c, "name": c, "category": category, "type": lesion, "colour_cielab": [50.0, 60.0, 0.0]}
        for c in CLASSES
    ]
    content: dict[str, object] = {
        "name": "tiny",
        "seed": 3,
        "network": {
            "name": "attention-unet",
            "hyper": {"aspp": 16, "decoder": [16, 12, 8, 8, 8], "full_stem": 4},
        },
        "data": {
            "classes": CLASSES,
            "folds": "folds.toml",
            "held_out": 0,
            "thresholds": [NAMES[1]],
        },
        "input": FUNDUS,
        "patches": {"size": 64, "batch": 2},
        "optimiser": {"warm_up_steps": 4},
        "budget": {"steps": 12},
        "bundle": {
            "version": "0.0.1",
            "title": "A tiny network",
            "classes": rows,
            "window": {"patch": [128, 128], "overlap": 0.25},
            "provenance": {"data": "drawn", "licence": "Apache-2.0"},
            "card": {"use": "None: a test."},
        },
    }
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps({**content, **sections}))
    return path
