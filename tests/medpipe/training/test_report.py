"""What a report's folder holds, and that it is what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from medpipe.cli.app import run as run_command
from medpipe.errors import ConfigError
from medpipe.training import export_bundle, train
from medpipe.training.class_scores import ClassScores
from medpipe.training.cross_validation import over_folds, read_report
from medpipe.training.evaluation import EvaluationReport, Judged, judge
from medpipe.training.experiment import load_run, split
from medpipe.training.figures import ink
from medpipe.training.journal import Standing
from medpipe.training.report import Origin, as_json, write_report
from medpipe.training.worst_cases import WorstCases

COLOURS = ((255, 0, 0), (0, 0, 255))


def picture(name: str, right: int, *, true: bool = True) -> Judged:
    """40 x 40; class A has a square of 8 x 8 in truth, of which `right` rows are said with .9; B has nothing."""
    truth = np.zeros((2, 1, 40, 40), np.bool_)
    truth[0, 0, 4:12, 4:12] = true
    probability = np.zeros((2, 1, 40, 40), np.float16)
    probability[0, 0, 4 : 4 + right, 4:12] = 0.9
    grey = np.full((40, 40, 3), 90, np.uint8)
    return Judged(name, probability >= 0.5, truth, probability, lambda k: grey, (1, 1))


def told(folder: Path, report: EvaluationReport, seed: int | None = None) -> Path:
    """A report's numbers alone: drawing takes seconds."""
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(as_json(report, Origin("thing", seed=seed))))
    return folder


def measured(pictures: Sequence[Judged], worst: int = 2, fold: int | None = 0) -> EvaluationReport:
    scores = (ClassScores("A"), ClassScores("B"))
    kept = judge(pictures, scores, COLOURS, worst=worst)
    names = tuple(p.name for p in pictures)
    return EvaluationReport("thing 1.0.0", names, scores, fold=fold, colours=COLOURS, worst=kept)


PICTURES = [picture("good", 8), picture("poor", 1), picture("fair", 4), picture("none", 0, true=False)]


def test_a_report_holds_its_figures_and_numbers(tmp_path: Path) -> None:
    (tmp_path / "worst-9.png").touch()  # of an older report
    page = write_report(tmp_path, measured(PICTURES), Origin("thing", seed=3))
    text = page.read_text()
    for path in tmp_path.glob("*.png"):
        assert f'src="{path.name}"' in text
        with Pillow.open(path) as drawn:
            assert len(np.unique(np.asarray(drawn.convert("L")))) > 10, f"{path.name} is empty"
    assert {path.stem for path in tmp_path.glob("*.png")} == {
        "precision-recall", "froc", "lesions-by-size", "dice-per-picture", "calibration", "worst-1", "worst-2",
    }  # fmt: skip
    content = json.loads((tmp_path / "report.json").read_text())
    a, b = content["classes"]["A"], content["classes"]["B"]
    assert (content["experiment"], content["seed"], content["fold"]) == ("thing", 3, 0)
    dices = [1.0, 2 * 8 / (8 + 64), 2 * 32 / (32 + 64)]
    assert a["dice"]["mean"] == pytest.approx(np.mean(dices))
    assert a["dice"]["sd"] == pytest.approx(np.std(dices, ddof=1))
    assert a["dice"]["mean_of_all"] == pytest.approx(np.mean([*dices, 1.0])), (
        "nothing there and nothing marked is 1"
    )
    assert a["lesions"]["found"] == 2, "one row of eight is less than a fifth"
    assert a["froc"]["at_8_false_per_picture"]["recall"] == pytest.approx(2 / 3)
    assert b["aupr"] is None
    assert b["dice"]["mean"] is None
    assert b["dice"]["mean_of_all"] == 1
    assert content["worst"] == ["poor", "fair"]


def test_the_table_says_when_a_class_is_lacking_somewhere() -> None:
    assert "Dice, mean of all pictures" in measured(PICTURES).table()
    scores = (ClassScores("A"),)
    full = PICTURES[0]
    scores[0].add(full.mask[0], full.truth[0], full.probability[0] if full.probability is not None else None)
    report = EvaluationReport("thing 1.0.0", ("good",), scores)
    assert "of all pictures" not in report.table()
    assert "lesions found at <= 8 false per picture" in report.table()


def test_pictures_without_anything_are_drawn_too(tmp_path: Path) -> None:
    """No truth, no curve, no worst picture; and no warning."""
    write_report(tmp_path, measured([PICTURES[3]]))
    assert json.loads((tmp_path / "report.json").read_text())["worst"] == []


def test_the_worst_slice_is_the_fullest_of_a_volume() -> None:
    truth = np.zeros((1, 3, 20, 20), np.bool_)
    truth[0, 1, 2:9, 2:9] = truth[0, 2, 2, 2] = True
    seen: list[int] = []

    def shown(k: int) -> NDArray[np.uint8]:
        seen.append(k)
        return np.zeros((20, 20, 3), np.uint8)

    kept = WorstCases(1, COLOURS[:1])
    kept.offer("volume", [0.0], truth, ~truth, shown)
    assert seen == [1]
    assert kept.cases[0].slice == 1
    assert (kept.cases[0].true == COLOURS[0]).all(axis=-1).any(), "the outline is drawn in the class's colour"


def test_light_colours_are_darkened_for_lines_on_white() -> None:
    red, green, blue = ink((255, 255, 0))
    assert red == pytest.approx(green)
    assert red < 0.6
    assert blue == pytest.approx(0)
    assert ink((60, 0, 0)) == pytest.approx((60 / 255, 0, 0), abs=1e-6)


def test_over_folds_is_mean_and_spread(tmp_path: Path) -> None:
    """Mean Dice of two folds, 1 and 2/3: mean .833, sd .236. Two folds are too few to tell a network's quality."""
    one = told(tmp_path / "a", measured([picture("one", 8)], fold=0))
    two = told(tmp_path / "b", measured([picture("two", 4)], fold=1))
    table = over_folds([one, two])
    assert "2 runs, 2 folds (0, 1), 2 pictures; native resolution." in table
    assert "too few" in table
    assert "**0.833 ± 0.236**" in table
    assert "| **B** | **mean ± sd** | - | - | - | **1.000 ± 0.000** | - | - |" in table
    assert "| **mean of classes** | **mean ± sd** | - | - | - | **0.917 ± 0.118** | - | - |" in table, (
        "where one class is unknown so is the mean; of all pictures it is 1 and 5/6"
    )
    assert table.splitlines()[-2:] == [
        "| A | - | 2 of 2 (1.00) | - | - | - | 2 of 2 (1.00) |",
        "| B | - | - | - | - | - | - |",
    ], "lesions of both folds, by size"


def test_other_seeds_on_other_folds_are_not_three_seeds(tmp_path: Path) -> None:
    runs = [told(tmp_path / str(n), measured([picture(str(n), 8)], fold=n), seed=n) for n in range(3)]
    assert "3 folds (0, 1, 2), 3 seeds (0, 1, 2)" in over_folds(runs) and "too few" in over_folds(runs)
    runs = [told(tmp_path / f"s{n}", measured([picture(str(n), 8)], fold=0), seed=n) for n in range(3)]
    assert "too few" not in over_folds(runs)


def test_lesions_are_counted_by_size_over_the_runs(tmp_path: Path) -> None:
    """One row of eight is less than a fifth: not found."""
    one = told(tmp_path / "a", measured([picture("one", 8), picture("poor", 1)], fold=0))
    two = told(tmp_path / "b", measured([picture("two", 8)], fold=1))
    assert "| A | - | 2 of 3 (0.67) | - | - | - | 2 of 3 (0.67) |" in over_folds([one, two])


def test_the_command_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = told(tmp_path / "a", measured([picture("one", 8)]))
    assert run_command(["cross-validate", str(one)]) == 0
    assert capsys.readouterr().out.strip() == over_folds([one])
    assert run_command(["cross-validate", str(tmp_path)]) == 2
    assert "holds no report" in capsys.readouterr().err


def test_reports_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    told(tmp_path / "a", measured([picture("one", 8)]))
    with pytest.raises(ConfigError, match=r"report\.json"):
        over_folds([tmp_path])
    path = tmp_path / "b" / "report.json"
    path.parent.mkdir()
    content = read_report(tmp_path / "a")
    path.write_text(json.dumps({**content, "grid": "working size"}))
    with pytest.raises(ConfigError, match="measured at working size"):
        over_folds([tmp_path / "a", tmp_path / "b"])
    path.write_text(json.dumps({**content, "classes": {"C": content["classes"]["A"]}}))
    with pytest.raises(ConfigError, match="classes C"):
        over_folds([tmp_path / "a", tmp_path / "b"])


def test_a_run_of_another_fold_reports_on_it_and_goes_on_a_card(
    experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    """Fold 1 holds out drawn_1 and drawn_2; the list of threshold pictures belongs to fold 0: they are dealt anew."""
    heard: list[Standing] = []
    run = train(
        experiment, data=drawn_data, out=tmp_path, device="cpu", fold=1, report=True, tell=heard.append
    ).run  # fmt: skip
    assert run == tmp_path / "tiny-fold1"
    parts = split(load_run(run).data)
    assert parts.held_out == ("drawn_1", "drawn_2")
    assert len(parts.thresholds) == 1
    assert set(parts.thresholds) | set(parts.training) == {"drawn_0", "drawn_3", "drawn_4"}
    content = read_report(run)
    assert content["pictures"] == ["drawn_1", "drawn_2"]
    assert (content["fold"], content["seed"]) == (1, 3)
    assert content["grid"].startswith("working size")
    assert len(content["training"]["validate"]) == 2
    assert content["classes"]["MA"]["aupr"] == pytest.approx(
        content["training"]["validate"][-1]["aupr"]["MA"]
    )
    assert [standing.steps for standing in heard] == list(range(1, 13))
    assert heard[-1].seconds_left == 0
    table = over_folds([run])
    export_bundle(run, tmp_path / "bundle", cross_validated=table)
    assert table in (tmp_path / "bundle" / "CARD.md").read_text()
