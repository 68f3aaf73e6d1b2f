"""Folds: even, stable, with no patient on two sides; and the command that writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from medpipe.cli.app import EXIT_FAILED, EXIT_USAGE, run
from medpipe.errors import ConfigError
from medpipe.training.experiment import read_folds
from medpipe.training.folds import deal, write_folds


def test_every_image_is_in_one_fold_and_folds_are_even() -> None:
    folds = deal({f"picture-{n:03d}": f"picture-{n:03d}" for n in range(52)}, 5)
    assert sorted(len(fold) for fold in folds) == [10, 10, 10, 11, 11]
    assert sorted(name for fold in folds for name in fold) == [f"picture-{n:03d}" for n in range(52)]
    assert all(fold == sorted(fold) for fold in folds)


def test_images_of_a_patient_are_not_parted() -> None:
    groups = {f"{patient}-{eye}": str(patient) for patient in range(12) for eye in ("left", "right")}
    folds = deal(groups, 3)
    owners = [{groups[name] for name in fold} for fold in folds]
    assert not (owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2])
    assert [len(fold) for fold in folds] == [8, 8, 8]


def test_the_same_images_give_the_same_folds_in_any_order() -> None:
    names = [f"{n}" for n in range(30)]
    one = deal({name: name for name in names}, 4)
    assert one == deal({name: name for name in reversed(names)}, 4)
    assert one[0] != names[0::4], "neighbouring numbers may be one morning's work"


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 patients or images with a truth are too few for 3"):
        deal({"a": "x", "b": "x", "c": "y"}, 3)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for n in range(7):
        Pillow.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "images" / f'p"{n}.png')
        if n < 6:
            Pillow.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "masks" / f'p"{n}.png')
    return tmp_path


def test_only_pictures_with_a_mask_are_dealt_and_an_experiment_reads_them(pictures: Path) -> None:
    folds = write_folds(pictures, pictures / "folds.toml", 3)
    assert read_folds(pictures / "folds.toml") == tuple(tuple(fold) for fold in folds)
    assert sorted(name for fold in folds for name in fold) == [f'p"{n}' for n in range(6)]


def test_a_list_that_exists_is_kept(pictures: Path) -> None:
    write_folds(pictures, pictures / "folds.toml", 3)
    with pytest.raises(ConfigError, match="never overwritten"):
        write_folds(pictures, pictures / "folds.toml", 2)
    assert len(read_folds(pictures / "folds.toml")) == 3


def test_the_command_says_what_it_wrote(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = pictures / "list.toml"
    assert run(["folds", str(pictures), "--out", str(out), "--folds", "3"]) == 0
    assert capsys.readouterr().out == f"{out}: 2, 2, 2 images\n"
    assert run(["folds", str(pictures), "--out", str(out)]) in (EXIT_FAILED, EXIT_USAGE)
    assert "never overwritten" in capsys.readouterr().err
