"""A run's network is pruned, trained on by the same trainer, exported, and says the same from its bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from medpipe.bundle import load_bundle
from medpipe.errors import ConfigError
from medpipe.inference import load_network
from medpipe.training import export_bundle, train
from medpipe.training.experiment import load_experiment
from medpipe.training.pruning import prune_experiment
from medpipe.training.state import build_network

from .conftest import write_experiment


@pytest.fixture
def weights(experiment: Path, tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    torch.save({"average": build_network(load_experiment(experiment)).state_dict()}, path)
    return path


def test_from_a_run_to_a_pruned_bundle(weights: Path, drawn_data: Path, tmp_path: Path) -> None:
    """What the pruned run learned is what its bundle says, but for kernels rounded to float16."""
    experiment = write_experiment(tmp_path, budget={"steps": 2})
    report = prune_experiment(experiment, weights, tmp_path / "pruned", ratio=0.3)
    assert report.after.weights < 0.7 * report.before.weights
    assert report.after.multiply_adds < report.before.multiply_adds
    assert "train it on" in report.summary()
    run = train(report.experiment, data=drawn_data, out=tmp_path / "runs", device="cpu").run
    assert run.name == "tiny-pruned"
    bundle = export_bundle(run, tmp_path / "bundle")
    network = build_network(load_experiment(report.experiment))
    network.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True)["average"])
    loaded = load_network(load_bundle(bundle.folder))
    assert sum(p.numel() for p in loaded.parameters()) == report.after.weights
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded(image), network.eval()(image), atol=0.02)
    with pytest.raises(ConfigError, match="pruned already"):
        prune_experiment(report.experiment, run, tmp_path / "twice", ratio=0.3)


def test_it_begins_with_the_weights_that_are_left(weights: Path, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    report = prune_experiment(experiment, weights, tmp_path / "deep" / "pruned", ratio=0.3)
    spec = load_experiment(report.experiment)
    assert spec.network.weights == report.experiment.parent / "pruned.safetensors"
    whole = torch.load(weights, weights_only=True)["average"]["head.bias"]
    from medpipe.training.state import new_state

    begun = new_state(spec, torch.device("cpu")).network.state_dict()["head.bias"]
    assert torch.equal(begun, whole)
    with pytest.raises(ConfigError, match="holds an experiment already"):
        prune_experiment(experiment, weights, report.experiment.parent, ratio=0.3)


def test_it_begins_with_all_of_them_even_where_the_whole_network_began_with_a_part(
    weights: Path, tmp_path: Path
) -> None:
    network = {"hyper": {"aspp": 16, "decoder": [16, 12, 8, 8, 8], "full_stem": 4}, "name": "attention-unet"}
    begun = {**network, "weights": "weights.pt", "take": ["encoder"]}
    report = prune_experiment(write_experiment(tmp_path, network=begun), weights, tmp_path / "out", ratio=0.3)
    assert not load_experiment(report.experiment).network.take


def test_paths_still_lead_where_they_led(weights: Path, tmp_path: Path) -> None:
    experiment = write_experiment(
        tmp_path, distil={"teacher": "../teacher"}, unlabelled={"folder": "more", "batch": 1}
    )
    report = prune_experiment(experiment, weights, tmp_path / "deep" / "pruned", ratio=0.3)
    spec = load_experiment(report.experiment)
    assert spec.distil is not None
    assert spec.unlabelled is not None
    assert spec.unlabelled.folder is not None
    assert spec.distil.teacher.resolve() == (tmp_path / "../teacher").resolve()
    assert spec.unlabelled.folder.resolve() == tmp_path / "more"


def test_the_command_says_what_is_wrong(experiment: Path, weights: Path, tmp_path: Path) -> None:
    from medpipe.cli.app import app, load_commands

    load_commands()
    given = ["prune", str(experiment), "--out", str(tmp_path / "x")]
    for more, said in (
        (["--from", str(tmp_path), "--ratio", "0.3"], "neither a run"),
        (["--from", str(weights), "--ratio", "1.5"], "not between 0 and 1"),
    ):
        result = CliRunner().invoke(app, [*given, *more])
        assert isinstance(result.exception, ConfigError)
        assert said in str(result.exception)
    done = CliRunner().invoke(app, [*given, "--from", str(weights), "--ratio", "0.5"])
    assert done.exit_code == 0
    assert "pruned: " in done.stdout


def test_of_a_network_that_began_with_a_published_encoder(weights: Path, tmp_path: Path) -> None:
    """The weights that are left hold an encoder already: the published one is not asked for again."""
    text = write_experiment(tmp_path).read_text()
    (tmp_path / "tiny.toml").write_text(
        text.replace('name = "attention-unet"', 'name = "attention-unet"\nencoder_weights = "encoder.pth"')
    )
    report = prune_experiment(tmp_path / "tiny.toml", weights, tmp_path / "pruned", ratio=0.3)
    assert load_experiment(report.experiment).network.encoder_weights is None


def test_a_transformer_is_not_pruned(tmp_path: Path) -> None:
    hyper = {"width": 32, "depths": [1, 1, 1, 1], "window": 4}
    experiment = write_experiment(tmp_path, network={"name": "swin-unet", "hyper": hyper})
    network = build_network(load_experiment(experiment))
    torch.save({"average": network.state_dict()}, tmp_path / "swin.pt")
    with pytest.raises(ConfigError, match="swin-unet: only networks of convolutions"):
        prune_experiment(experiment, tmp_path / "swin.pt", tmp_path / "pruned", ratio=0.3)
