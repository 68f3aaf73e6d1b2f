"""Several runs in one bundle: their mean, chosen and measured on what none of them learned from."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch

from medpipe.errors import ConfigError
from medpipe.inference import load_backend
from medpipe.training import export_bundle, train
from medpipe.training.__main__ import main
from medpipe.training.experiment import EXPERIMENT, load_run
from medpipe.training.export import averaged_weights
from medpipe.training.state import BEST

from .conftest import NAMES


def test_several_runs_make_one_bundle_that_says_their_mean(
    run: Path, experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    experiment.write_text(experiment.read_text().replace("seed = 3", "seed = 4"))
    other = train(experiment, data=drawn_data, out=tmp_path / "others", device="cpu").run
    both = export_bundle(run, tmp_path / "both", members=[other])
    alone = [export_bundle(one, tmp_path / f"alone-{n}") for n, one in enumerate((run, other))]
    assert [m.weights_sha256 for m in both.members()] == [b.weights_sha256 for b in alone]
    patch = np.random.default_rng(0).normal(size=(1, 3, 128, 128)).astype(np.float32)
    said, first, second = (load_backend(b, "cpu", "torch")(patch) for b in (both, *alone))
    assert np.abs(said - (first + second) / 2).max() < 1e-6 < np.abs(first - second).max()
    assert "the mean of 2 networks" in (tmp_path / "both" / "CARD.md").read_text()


def test_each_run_gives_the_weights_that_it_gives_alone(run: Path, experiment: Path, tmp_path: Path) -> None:
    """The second one ends by patience: its best weights speak, also beside a run that has no best ones."""
    patient = Path(shutil.copytree(run, tmp_path / "patient"))
    text = (patient / EXPERIMENT).read_text()
    (patient / EXPERIMENT).write_text(text.replace("steps = 12", "steps = 12\npatience = 3"))
    best = {name: 2 * value for name, value in averaged_weights(run).items()}
    torch.save({"average": best, "steps": 5, "score": 0.5}, patient / BEST)
    both = export_bundle(run, tmp_path / "both", members=[patient])
    alone = export_bundle(patient, tmp_path / "alone")
    assert both.members()[1].weights_sha256 == alone.weights_sha256 != both.members()[0].weights_sha256


def test_a_member_that_saw_the_pictures_kept_apart_is_refused(
    run: Path, experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    experiment.write_text(experiment.read_text().replace("held_out = 0", 'held_out = "none"'))
    other = train(experiment, data=drawn_data, out=tmp_path / "others", device="cpu").run
    with pytest.raises(ConfigError, match="was trained on drawn_0, which tiny"):
        export_bundle(run, tmp_path / "both", members=[other])


def test_runs_of_several_folds_choose_on_what_none_of_them_saw(
    run: Path, experiment: Path, drawn_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fold 0 is held out of one run and fold 2 of the other; both keep the threshold picture drawn_1 out."""
    content = tomllib.loads(experiment.read_text())
    content["data"]["thresholds_always"] = True
    experiment.write_text(tomli_w.dumps(content))
    others = tmp_path / "others"
    second = train(experiment, data=drawn_data, out=others, device="cpu", fold=2, report=True).run
    assert load_run(second).name == "tiny-fold2"
    both = export_bundle(second, tmp_path / "tiny", members=[run], data=drawn_data)
    assert both.id == "tiny" and both.network.members == 2
    card = (tmp_path / "tiny" / "CARD.md").read_text()
    assert "trained on 4 pictures of every fold" in card and "chosen on 1 pictures" in card
    assert "tiny 0.0.1 on 1 pictures" in card, "not measured on a fold that one of them learned from"

    own = (second / "report" / "report.json").read_bytes()
    argv = ["training", str(second), str(tmp_path / "cli"), "--data", str(drawn_data), "--member", str(run)]
    monkeypatch.setattr("sys.argv", [*argv, "--cross-validated", str(second)])
    main()
    assert (second / "report" / "report.json").read_bytes() == own, "that of one run, measured on its fold"
    assert (tmp_path / "cli-report" / "report.json").is_file()
    assert "held out one fold each; each measured alone" in (tmp_path / "cli" / "CARD.md").read_text()

    content["data"] |= {"held_out": 2, "thresholds": ["drawn_2"]}
    experiment.write_text(tomli_w.dumps(content))
    train(experiment, data=drawn_data, out=tmp_path / "strangers", device="cpu")
    with pytest.raises(ConfigError, match="no picture is left that none of the runs learned from"):
        export_bundle(run, tmp_path / "none", members=[tmp_path / "strangers" / "tiny"])


def test_runs_of_other_lists_of_folds_do_not_go_together(run: Path, experiment: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "dealt"))
    text = (other / "experiment.toml").read_text().replace("held_out = 0", "held_out = 1")
    (other / "experiment.toml").write_text(
        text.replace('thresholds = [\n    "drawn_1",\n]', "thresholds = []")
    )
    folds = [{"pictures": [name]} for name in NAMES]
    (other / "folds.toml").write_text(tomli_w.dumps({"fold": folds}))
    with pytest.raises(ConfigError, match="dealt: its list of folds is not that of tiny"):
        export_bundle(run, tmp_path / "both", members=[other])
