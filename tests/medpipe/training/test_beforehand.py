"""What would cost hours, or tell lies in the end, is refused before the first step."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from medpipe.errors import ConfigError
from medpipe.training import train
from medpipe.training.beforehand import check_fits, multiple_of
from medpipe.training.experiment import load_experiment
from medpipe.training.pruning import PRUNED, prune_experiment
from medpipe.training.state import BEST, CHECKPOINT, build_network
from medpipe.training.trainer import Trainer
from nets import registry

from .conftest import NAMES, write_experiment

CPU = torch.device("cpu")
DATA = {"classes": ["MA", "HE", "EX", "SE"], "folds": "folds.toml"}


@pytest.mark.parametrize(
    "data",
    [
        {**DATA, "held_out": 2, "thresholds": [NAMES[1]]},
        {**DATA, "held_out": 0, "thresholds": [NAMES[2]]},
    ],
    ids=["another fold held out", "other threshold pictures"],
)
def test_a_run_never_measures_on_what_it_learned_from(
    data: dict[str, object], run: Path, drawn_data: Path, tmp_path: Path
) -> None:
    """Its folder stays as it was: what it learned can still be exported."""
    kept = {name: (run / name).read_bytes() for name in ("experiment.toml", "folds.toml", CHECKPOINT)}
    changed = write_experiment(tmp_path, data=data)
    with pytest.raises(ConfigError, match=r"learned from drawn_\d.*kept out of training now; give"):
        train(changed, data=drawn_data, out=run.parent, device="cpu")
    assert {name: (run / name).read_bytes() for name in kept} == kept


@pytest.mark.parametrize("way", ["a run's weights", "the pruned ones", "a run that began with them"])
def test_weights_to_begin_with_have_not_seen_what_is_kept_apart(
    way: str, run: Path, experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    """The run learned from all but drawn_0 and drawn_1; of those it may be measured, also by who goes on with it."""
    begins = tmp_path / "begins"
    begins.mkdir()
    weights = run / CHECKPOINT
    if way == "the pruned ones":
        content = prune_experiment(experiment, run, begins, ratio=0.2).experiment
        weights, network = begins / PRUNED, tomllib.loads(content.read_text())["network"]
    else:
        network = tomllib.loads(experiment.read_text())["network"] | {"weights": str(weights)}
    if way == "a run that began with them":
        data = {**DATA, "held_out": 2, "thresholds": []}  # learns from drawn_0 to drawn_2 alone
        network["weights"] = str(weights)
        path = write_experiment(begins, data=data, network=network)
        with pytest.raises(ConfigError, match="learned from drawn_3, drawn_4, kept out"):
            train(path, data=drawn_data, out=tmp_path / "second", device="cpu")
        path = write_experiment(begins, network=network, budget={"steps": 1})
        weights = train(path, data=drawn_data, out=tmp_path / "second", device="cpu").run / CHECKPOINT
        network["weights"] = str(weights)
    data = {**DATA, "held_out": "none", "thresholds": [NAMES[2]]}
    path = write_experiment(begins, data=data, network=network)
    with pytest.raises(ConfigError, match=rf"{weights.name} learned from drawn_2, kept out of training now"):
        train(path, data=drawn_data, out=tmp_path / "third", device="cpu")
    assert not (tmp_path / "third").exists()


def test_a_run_goes_on_with_another_budget(run: Path, drawn_data: Path, tmp_path: Path) -> None:
    longer = write_experiment(tmp_path, budget={"steps": 13})
    assert train(longer, data=drawn_data, out=run.parent, device="cpu").steps == 13


def test_no_picture_is_left_to_train(drawn_data: Path, tmp_path: Path) -> None:
    data = {**DATA, "held_out": 0, "thresholds": NAMES[1:]}
    with pytest.raises(ConfigError, match="no picture is left to train: 1 are held out, 4 choose thresholds"):
        train(write_experiment(tmp_path, data=data), data=drawn_data, out=tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("patience", "to_export", "by"), [(2, False, "budget.patience"), (None, True, "--export")]
)
def test_what_hangs_on_threshold_pictures_is_not_begun_without_any(
    patience: int | None, to_export: bool, by: str, drawn_data: Path, tmp_path: Path
) -> None:
    budget = {"steps": 1, **({"patience": patience} if patience else {})}
    path = write_experiment(tmp_path, data={**DATA, "held_out": 0}, budget=budget)
    with pytest.raises(ConfigError, match=f"{by} needs threshold pictures"):
        train(path, data=drawn_data, out=tmp_path, device="cpu", to_export=to_export)
    assert not (tmp_path / "tiny").exists()


def test_the_best_weights_and_what_is_known_of_them_are_saved_together(
    drawn_data: Path, tmp_path: Path
) -> None:
    path = write_experiment(tmp_path, budget={"steps": 2, "patience": 9})
    run = train(path, data=drawn_data, out=tmp_path / "runs", device="cpu").run
    best, saved = (torch.load(run / name, weights_only=True) for name in (BEST, CHECKPOINT))
    assert best["score"] == saved["best"] > 0


def test_a_patch_that_the_network_cannot_take_is_refused(drawn_data: Path, tmp_path: Path) -> None:
    hyper = {"features": [4, 8], "kernels": [[3, 3], [3, 3]], "strides": [[1, 1], [2, 2]]}
    hyper |= {"convolutions": [1, 1], "decoder_convolutions": [1]}
    network = {"name": "plain-conv-unet", "hyper": hyper}
    path = write_experiment(tmp_path, network=network, patches={"size": 63, "batch": 1})
    with pytest.raises(ConfigError, match=r"patches\.size: 63 x 63: the network cannot take it"):
        Trainer(load_experiment(path), drawn_data, tmp_path, CPU)


def test_a_deep_network_gets_pictures_of_sides_that_it_can_halve() -> None:
    stages = 7
    network = registry.build(
        "plain-conv-unet",
        in_channels=1,
        classes=1,
        features=[2] * stages,
        kernels=[[3, 3]] * stages,
        strides=[[1, 1]] + [[2, 2]] * (stages - 1),
        convolutions=[1] * stages,
        decoder_convolutions=[1] * (stages - 1),
    ).eval()
    assert multiple_of(network, 2, 1) == 128, "at 64 one pixel is left, which has no variance to divide by"
    check_fits(network, [(128, 256)], 1)
    with pytest.raises(ConfigError, match="64 x 96"):
        check_fits(network, [(64, 96)], 1)


def test_one_patch_that_leaves_one_pixel_is_refused_before_training(drawn_data: Path, tmp_path: Path) -> None:
    path = write_experiment(
        tmp_path, network={"name": "attention-unet", "hyper": {}}, patches={"size": 32, "batch": 1}
    )
    with pytest.raises(ConfigError, match="one patch of 32 x 32 is too little"):
        Trainer(load_experiment(path), drawn_data, tmp_path, CPU)


@pytest.mark.parametrize(
    ("name", "hyper"), [("attention-unet", {"prior": 0}), ("vnet", {"widths": []}), ("unet", {"prior": 1.5})]
)
def test_impossible_settings_of_a_network_are_one_line(
    name: str, hyper: dict[str, Any], tmp_path: Path
) -> None:
    path = write_experiment(tmp_path, network={"name": name, "hyper": hyper})
    with pytest.raises(ConfigError, match=name):
        build_network(load_experiment(path))


def test_what_a_network_leaves_to_chance_hangs_on_the_seed_and_the_step(
    drawn_data: Path, tmp_path: Path
) -> None:
    """Swin drops whole branches: four steps at once, and two and two after other random numbers were drawn."""
    hyper = {"width": 32, "depths": [1, 1, 1, 1], "window": 4, "drop": 0.5}
    path = write_experiment(tmp_path, network={"name": "swin-unet", "hyper": hyper})
    whole = Trainer(load_experiment(path), drawn_data, tmp_path / "whole", CPU)
    torch.manual_seed(7)
    for n in range(4):
        whole.step(whole.sampler.batch(n), n / 4)
    (tmp_path / "halves").mkdir()
    for part in (range(2), range(2, 4)):
        torch.manual_seed(8)
        half = Trainer(load_experiment(path), drawn_data, tmp_path / "halves", CPU)
        for n in part:
            half.step(half.sampler.batch(n), n / 4)
        half.state.save(tmp_path / "halves")
    for one, two in zip(whole.state.network.parameters(), half.state.network.parameters(), strict=True):
        assert torch.equal(one, two)
