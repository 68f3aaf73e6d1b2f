"""What an experiment may say, and what it is told when it says something else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from medpipe.errors import ConfigError
from medpipe.training.beforehand import check_fits
from medpipe.training.describe import check_describable
from medpipe.training.experiment import Experiment, Paste, load_experiment, read_folds, split
from medpipe.training.state import build_network

EXPERIMENTS = Path(__file__).resolve().parents[3] / "experiments"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda p: p.stem)
def test_every_experiment_of_the_project_is_sound(path: Path) -> None:
    experiment = load_experiment(path)
    parts = split(experiment.data)
    assert not set(parts.training) & set(parts.held_out)
    assert not set(parts.thresholds) & {*parts.training, *parts.held_out}


def test_the_folds_of_idrid_hold_all_its_pictures_once() -> None:
    folds = read_folds(EXPERIMENTS / "folds" / "idrid.toml")
    assert sorted(name for fold in folds for name in fold) == [f"IDRiD_{n:02d}" for n in range(1, 55)]
    assert [len(fold) for fold in folds] == [11, 11, 11, 11, 10]


def test_the_folds_name_pictures_that_exist(shared_data: Path) -> None:
    names = {name for fold in read_folds(EXPERIMENTS / "folds" / "idrid.toml") for name in fold}
    assert names == {path.stem for path in (shared_data / "idrid_train" / "images").glob("*.jpg")}


def test_a_split_keeps_the_held_out_fold_apart(experiment: Path) -> None:
    parts = split(load_experiment(experiment).data)
    assert parts.held_out == ("drawn_0",)
    assert parts.thresholds == ("drawn_1",)
    assert parts.training == ("drawn_2", "drawn_3", "drawn_4")


def test_without_a_fold_held_out_every_fold_trains(experiment: Path) -> None:
    experiment.write_text(experiment.read_text().replace("held_out = 0", 'held_out = "none"'))
    spec = load_experiment(experiment)
    parts = split(spec.data)
    assert spec.data.fold is None
    assert parts.held_out == ()
    assert parts.training == ("drawn_0", "drawn_2", "drawn_3", "drawn_4")
    assert parts.unseen == parts.thresholds == ("drawn_1",), "figures come from what no step saw"


TYPE = 'type = [\n    "52988006",\n    "SCT",\n    "Lesion",\n]'


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 3", "sed = 3", "sed"),
        ("seed = 3", "seed = -1", "seed"),
        ("steps = 12", "validate_minutes = 1", "minutes or steps"),
        ('thresholds = [\n    "drawn_1",\n]', 'thresholds = ["drawn_0"]', "drawn_0"),
        ("held_out = 0", "held_out = 7", "no fold 7"),
        ('folds = "folds.toml"', 'folds = "none.toml"', "none.toml"),
        ("320,\n    320,", "3,\n    320,", "input.working_size"),
        ("[data]", "[data", "not valid TOML"),
        ("[patches]", "[drawn]\nseeds = [7]\n[patches]", "drawn.seeds"),
        ("[patches]", "[data.weights]\ngone = 2.0\n[patches]", "data.weights: gone: in no fold"),
        ("[patches]", '[patches.paste]\nclasses = ["XY"]\n[patches]', "paste.classes: XY"),
        ("seed = 3", 'seed = 3\ntask = "restore"\n[patches.paste]', 'restore" looks at no lesions'),
        ("[[bundle.classes]]\nid =", "[[bundle.classes]]\nidea =", "bundle.classes: tables"),
        ("[bundle.card]", "[[bundle.card]]", "bundle.card: a table"),
        ('use = "None: a test."', "use = 5", "bundle.card: its values are texts"),
        (TYPE, "type = 5", "bundle.classes: type is a code"),
    ],
)
def test_a_fault_is_named_in_one_line(experiment: Path, old: str, new: str, said: str) -> None:
    text = experiment.read_text()
    assert old in text
    experiment.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        split(load_experiment(experiment).data)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_in_two_folds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "folds.toml"
    path.write_text('[[fold]]\npictures = ["a", "b"]\n[[fold]]\npictures = ["b"]\n')
    with pytest.raises(ConfigError, match="in two folds: b"):
        read_folds(path)


def test_lesions_are_pasted_into_pictures_only(experiment: Path) -> None:
    given = load_experiment(experiment).model_dump(mode="json", exclude_none=True)
    given["patches"]["paste"] = {"share": 0.3}
    assert Experiment.model_validate(given).patches.paste == Paste(share=0.3)
    given["input"] |= {"normalise": {"kind": "z-score"}}
    with pytest.raises(ValidationError, match="not z-scored"):
        Experiment.model_validate(given)


def test_the_example_for_data_of_your_own_is_sound(experiment: Path) -> None:
    """The whole experiment of docs/training.md, beside a list of folds of five pictures."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text()
    (example,) = re.findall(r"```toml\n(name = .*?)```", text, re.S)
    path = experiment.parent / "mine.toml"
    path.write_text(example.replace("folds/mine.toml", "folds.toml"))
    check_describable(path, bundle=Path("my-bundles/mine"))
    parts = split(load_experiment(path).data)
    assert (len(parts.training), len(parts.thresholds), parts.held_out) == (4, 1, ())
    check_fits(build_network(load_experiment(path)).eval(), [(256, 256)], 1)
