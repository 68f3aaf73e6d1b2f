"""One experiment for each fold: what is held out, and where the threshold pictures come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe.errors import ConfigError
from medpipe.training.experiment import every_nth, load_experiment, load_run, read_folds, split
from medpipe.training.per_fold import copy_into, of_fold

EXPERIMENTS = Path(__file__).resolve().parents[3] / "experiments"


def test_every_seventh_name_of_the_sorted_ones() -> None:
    names = [f"n{n:02}" for n in reversed(range(20))]
    assert every_nth(names, 0.14) == ("n03", "n10", "n17")
    assert every_nth(names, None) == ()


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda p: p.stem)
def test_every_experiment_of_the_project_trains_on_every_fold(path: Path) -> None:
    experiment = load_experiment(path)
    folds = read_folds(experiment.data.folds)
    for fold, names in enumerate(folds):
        parts = split(of_fold(experiment, fold).data)
        assert parts.held_out == names
        kept_out = set(experiment.data.thresholds)
        if experiment.data.thresholds_always:
            assert set(parts.thresholds) == kept_out - set(names) and not kept_out & set(parts.training)
        else:
            assert len(parts.thresholds) == pytest.approx(len(kept_out), abs=3)
        whole = [*parts.training, *parts.thresholds, *parts.held_out]
        assert sorted(whole) == sorted(name for names in folds for name in names), "each picture has one part"


def test_the_fold_of_the_file_keeps_its_list(experiment: Path) -> None:
    spec = load_experiment(experiment)
    same = of_fold(spec, 0)
    assert same.name == "tiny-fold0"
    assert same.data.thresholds == spec.data.thresholds


def test_a_list_stays_for_every_fold_that_has_none_of_it(experiment: Path) -> None:
    experiment.write_text(experiment.read_text().replace("held_out = 0", 'held_out = "none"'))
    spec = load_experiment(experiment)
    kept = [of_fold(spec, fold).data.thresholds == ("drawn_1",) for fold in range(3)]
    holds = ["drawn_1" in names for names in read_folds(spec.data.folds)]
    assert kept == [not held for held in holds]
    assert all(split(of_fold(spec, fold).data).thresholds for fold in range(3))


def test_a_list_may_be_kept_out_of_every_fold(experiment: Path) -> None:
    spec = load_experiment(experiment)
    spec = spec.model_copy(
        update={
            "data": spec.data.model_copy(
                update={"thresholds": ("drawn_1", "drawn_4"), "thresholds_always": True}
            )
        }
    )
    parts = [split(of_fold(spec, fold).data) for fold in range(3)]
    assert [part.thresholds for part in parts] == [("drawn_1", "drawn_4"), ("drawn_4",), ("drawn_1",)]
    assert not any({"drawn_1", "drawn_4"} & set(part.training) for part in parts)


def test_a_share_is_dealt_without_a_list_as_well(experiment: Path) -> None:
    text = experiment.read_text().replace('thresholds = [\n    "drawn_1",\n]', "thresholds_share = 0.5")
    experiment.write_text(text)
    spec = load_experiment(experiment)
    assert split(spec.data).thresholds == ("drawn_2", "drawn_4")
    assert split(of_fold(spec, 2).data).thresholds == ("drawn_1",)


def test_a_run_keeps_what_its_fold_changed(experiment: Path, tmp_path: Path) -> None:
    spec = of_fold(load_experiment(experiment), 1)
    (tmp_path / "run").mkdir()
    copy_into(tmp_path / "run", experiment, spec)
    kept = load_run(tmp_path / "run")
    assert kept.name == "tiny-fold1"
    assert split(kept.data) == split(spec.data)
    assert kept.patches == spec.patches


def test_a_fold_that_is_not_there(experiment: Path) -> None:
    with pytest.raises(ConfigError, match="no fold 3, only 0 to 2"):
        of_fold(load_experiment(experiment), 3)
