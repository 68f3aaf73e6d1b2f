"""The ablation's rows: what each changes, that all of them train, and how their figures are compared."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from medpipe.errors import ConfigError
from medpipe.training.ablation import Ablation, Difference, Measure, filled, laid_over, levels, paired, spread
from medpipe.training.screening import Place, fill_cache, measured, trained
from nets.registry import NETWORKS

from .conftest import FUNDUS, NAMES

EXPERIMENTS = Path(__file__).resolve().parents[3] / "experiments"
ROWS = EXPERIMENTS / "ablation" / "rows.toml"
STEPS = {"steps": 1}


@pytest.fixture(scope="module")
def ablation() -> Ablation:
    return Ablation(EXPERIMENTS / "screening.toml", ROWS)


@pytest.fixture
def tiny(tmp_path: Path) -> Ablation:
    """The project's rows over its screening experiment, on the drawn pictures and of a few pixels."""
    content = tomllib.loads((EXPERIMENTS / "screening.toml").read_text())
    content["data"] |= {"folds": "folds.toml", "thresholds": []}
    content["input"] |= {"working_size": [160, 160], "minimum_size": FUNDUS["minimum_size"]}
    content["patches"] |= {"size": 64, "batch": 1}
    content["bundle"]["window"]["patch"] = [128, 128]
    (tmp_path / "screening.toml").write_text(tomli_w.dumps(content))
    folds = [{"pictures": [NAMES[0]]}, {"pictures": NAMES[1:2]}, {"pictures": NAMES[2:]}]
    (tmp_path / "folds.toml").write_text(tomli_w.dumps({"fold": folds}))
    rows = ROWS.read_text().replace("size = 128, batch = 32", "size = 32, batch = 2")
    (tmp_path / "rows.toml").write_text(rows)
    return Ablation(tmp_path / "screening.toml", tmp_path / "rows.toml")


@pytest.fixture
def place(drawn_data: Path, tmp_path: Path) -> Place:
    more = tmp_path / "more"
    (more / "images").mkdir(parents=True)
    shutil.copyfile(drawn_data / "images" / f"{NAMES[2]}.png", more / "images" / "other.png")
    out = tmp_path / "out"
    return Place(out / "cpu", out / "cache", drawn_data, tmp_path / "folds.toml", more, "cpu")


@pytest.mark.skipif("unet" not in NETWORKS, reason="the first rows are of the plain U-Net")
def test_every_row_trains_and_is_measured(tiny: Ablation, place: Place) -> None:
    """One step each, of the side runs too; the last row that only measures is measured."""
    done: list[str] = []

    def reach(name: str) -> None:
        plan = tiny.plan(name, 0, STEPS)
        for need in plan.needs:
            reach(need.name)
        if plan.run_name not in done:
            assert "1 steps" in trained(plan, place), name
            done.append(plan.run_name)

    fill_cache([tiny.plan(row.name, 0, STEPS) for row in tiny.rows], place)
    for row in tiny.rows:
        reach(row.name)
    assert len(done) == sum(row.trains or row.name == "plain" for row in tiny.rows) + 2
    assert all("trained before" in trained(tiny.plan(row.name, 0, STEPS), place) for row in tiny.rows)
    whole, pruned = (tiny.plan(name, 0, STEPS) for name in ("crf-guarded", "pruning"))
    for plan in (whole, pruned):
        measured(plan, place)
    figures, fewer = (json.loads(place.result(plan).read_text()) for plan in (whole, pruned))
    assert set(figures["classes"]) == {"MA", "HE", "EX", "SE"}
    assert 0 <= figures["classes"]["EX"]["aupr"] <= 1
    assert fewer["weights"] < 0.7 * figures["weights"]
    assert fewer["multiply_adds"] < figures["multiply_adds"]
    assert "measured before" in measured(whole, place)


def test_each_row_keeps_what_the_rows_before_it_set(ablation: Ablation) -> None:
    plans = {row.name: ablation.plan(row.name, 1, STEPS) for row in ablation.rows}
    first, gates = plans["plain"].content, plans["attention-gates"].content
    assert first["network"]["name"] == "unet"
    assert gates["network"]["name"] == "attention-unet"
    assert "widths" not in gates["network"]["hyper"]
    assert gates["network"]["hyper"]["attention"]
    assert not gates["network"]["hyper"]["progressive"]
    assert gates["loss"] == first["loss"]
    last = plans["self-supervised"].content
    assert last["loss"]["hardest"] == 0.25
    assert last["distil"]["teacher"] == "{teacher}"
    assert plans["pruning"].measure.crf == "guarded"
    assert plans["pruning"].measure.tta


def test_a_row_that_only_measures_trains_nothing_anew(ablation: Ablation) -> None:
    trained_before = ablation.plan("augmentation", 2, STEPS)
    for name in ("tta", "crf-unguarded", "crf-guarded"):
        plan = ablation.plan(name, 2, STEPS)
        assert plan.run_name == trained_before.run_name
        assert plan.stamp != trained_before.stamp


def test_what_a_row_needs_is_of_the_same_fold(ablation: Ablation) -> None:
    """The shipped bundle as a teacher would have seen the pictures of most folds: each fold has its own."""
    pruning = ablation.plan("pruning", 3, STEPS)
    needs = {need.name: need for need in pruning.needs}
    assert set(needs) == {"teacher", "restored", "self-supervised"}
    assert pruning.content["budget"].keys() & {"minutes", "steps"} == {"steps"}
    assert (needs["teacher"].measure, needs["teacher"].prune) == (Measure(), None)
    for need in needs.values():
        assert need.content["data"]["held_out"] == 3
        assert need.content["data"]["thresholds"] == list(ablation.folds[4][:6])
    assert needs["restored"].content["task"] == "restore"
    assert needs["teacher"].content["network"]["hyper"]["encoder"] == "large"


def test_every_run_comes_once_and_after_what_it_needs(ablation: Ablation) -> None:
    plans = [ablation.plan(row.name, fold, STEPS) for row in ablation.rows for fold in (0, 1)]
    order = levels(plans)
    names = [plan.run_name for level in order for plan in level]
    assert len(set(names)) == len(names) == 2 * (16 + 2)
    done: set[str] = set()
    for level in order:
        assert all(need.run_name in done for plan in level for need in plan.needs)
        done |= {plan.run_name for plan in level}


def test_a_stamp_follows_budget_fold_and_side_runs(ablation: Ablation, tmp_path: Path) -> None:
    plan = ablation.plan("distillation", 0, STEPS)
    assert plan.stamp == ablation.plan("distillation", 0, STEPS).stamp
    assert plan.stamp != ablation.plan("distillation", 0, {"steps": 2}).stamp
    assert plan.stamp != ablation.plan("distillation", 1, STEPS).stamp
    rows = tmp_path / "rows.toml"
    rows.write_text(ROWS.read_text().replace("aspp = 128", "aspp = 96"))
    other = Ablation(EXPERIMENTS / "screening.toml", rows)
    assert plan.stamp != other.plan("distillation", 0, STEPS).stamp
    assert ablation.plan("tta", 0, STEPS).stamp == other.plan("tta", 0, STEPS).stamp
    rows.write_text(ROWS.read_text().replace("prune = ", "prune = 0.0625 # "))
    assert (
        ablation.plan("pruning", 0, STEPS).stamp
        != Ablation(EXPERIMENTS / "screening.toml", rows).plan("pruning", 0, STEPS).stamp
    )


def test_an_unknown_row_or_fold_is_refused(ablation: Ablation) -> None:
    with pytest.raises(ConfigError, match="no row 'gates'; there are plain"):
        ablation.plan("gates", 0, STEPS)
    with pytest.raises(ConfigError, match="no fold 5"):
        ablation.plan("plain", 5, STEPS)


def test_a_table_of_another_name_replaces_the_one_below() -> None:
    below: dict[str, Any] = {"network": {"name": "a", "hyper": {"x": 1}}, "loss": {"dice": 1, "focal": 2}}
    above = {"network": {"name": "b"}, "loss": {"dice": 3}}
    assert laid_over(below, above) == {"network": {"name": "b"}, "loss": {"dice": 3, "focal": 2}}
    same = {"network": {"name": "a", "hyper": {"y": 2}}}
    assert laid_over(below, same)["network"]["hyper"] == {"x": 1, "y": 2}
    assert below["loss"]["dice"] == 1


def test_a_place_that_is_not_known_is_asked_for() -> None:
    content = {"unlabelled": {"folder": "{unlabelled}", "batch": 2}}
    assert filled(content, {"unlabelled": "/there"}) == {"unlabelled": {"folder": "/there", "batch": 2}}
    with pytest.raises(ConfigError, match="--unlabelled"):
        filled(content, {})


def test_differences_are_paired_by_fold() -> None:
    """Folds differ widely, the rows by .02 on each: paired, the interval is narrow (scipy.stats.ttest_rel agrees)."""
    from scipy import stats

    before = {0: 0.30, 1: 0.50, 2: 0.40}
    after = {0: 0.321, 1: 0.519, 2: 0.42, 3: 0.9}
    difference = paired(before, after)
    assert difference is not None
    interval = stats.ttest_rel([after[k] for k in before], list(before.values())).confidence_interval(0.95)
    assert difference.mean == pytest.approx(0.02)
    assert difference.low == pytest.approx(interval.low)
    assert difference.high == pytest.approx(interval.high)
    assert str(Difference(0.02, 0.01, 0.03)) == "+0.020 (+0.010 to +0.030)"
    assert str(paired({0: 0.5}, {0: 0.4})) == "-0.100"
    assert paired({0: 0.5}, {1: 0.4}) is None


def test_no_spread_is_known_of_one_fold() -> None:
    assert spread([0.4]) is None
    assert spread([0.4, 0.6]) == pytest.approx(0.1414, abs=1e-4)
