"""What is counted as found, missed and false; and a bundle measured through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from medpipe.bundle import find_bundle
from medpipe.errors import ConfigError, Refused
from medpipe.inference import load_backend
from medpipe.training.calibration import Calibration
from medpipe.training.class_scores import ClassScores
from medpipe.training.evaluation import measure
from medpipe.training.lesion_scores import FOUND, count_lesions


def blank() -> NDArray[np.bool_]:
    return np.zeros((1, 40, 40), np.bool_)


def test_lesions_found_missed_and_false() -> None:
    truth, mask = blank(), blank()
    truth[0, 2:8, 2:8] = True  # found whole
    truth[0, 20:30, 20:30] = True  # barely touched: one pixel of a hundred
    truth[0, 35, 2] = True  # missed
    mask[0, 2:8, 2:8] = mask[0, 20, 20] = True
    mask[0, 2:5, 30:35] = True  # false
    assert count_lesions(mask, truth) == (1, 3, 1)


def test_a_lesion_counts_from_a_fifth_of_its_pixels_on() -> None:
    truth, mask = blank(), blank()
    truth[0, 0, :10] = True
    mask[0, 0, : int(10 * FOUND)] = True
    assert count_lesions(mask, truth)[0] == 1
    mask[0, 0, int(10 * FOUND) - 1] = False
    assert count_lesions(mask, truth)[0] == 0


def test_diagonal_neighbours_are_one_lesion() -> None:
    truth = blank()
    truth[0, 1, 1] = truth[0, 2, 2] = True
    assert count_lesions(truth, truth) == (1, 1, 0)


def test_dice_pooled_and_per_picture() -> None:
    """8 of 16 and 1 of 1 pixel right: pooled 2 * 9 / (9 + 17), mean of 2/3 and 1; the empty picture counts in none."""
    scores = ClassScores("EX")
    truth, mask = blank(), blank()
    truth[0, :4, :4] = True
    mask[0, :2, :4] = True
    scores.add(mask, truth, None)
    truth, mask = blank(), blank()
    truth[0, 9, 9] = mask[0, 9, 9] = True
    scores.add(mask, truth, None)
    scores.add(blank(), blank(), None)
    assert scores.dice == pytest.approx(2 * 9 / (9 + 17))
    assert scores.mean_dice == pytest.approx((2 / 3 + 1) / 2)
    assert scores.iou == pytest.approx(9 / 17)
    assert (scores.found, scores.lesions, scores.recall) == (2, 2, 1.0)


def test_a_class_that_no_picture_has_gives_no_score() -> None:
    scores = ClassScores("SE")
    mask = blank()
    mask[0, 3, 3] = True
    scores.add(mask, blank(), np.full((1, 40, 40), 0.5, np.float16))
    assert scores.dice is scores.mean_dice is scores.iou is scores.recall is scores.pooled.aupr is None
    assert scores.false_per_picture == 1


def test_what_is_surely_nothing_is_counted_as_if_binned_pixel_by_pixel() -> None:
    rng = np.random.default_rng(2)
    probability = (rng.random((1, 40, 40)) ** 8).astype(np.float16)
    truth = rng.random((1, 40, 40)) < 0.1
    scores, every = ClassScores("EX"), Calibration()
    scores.add(blank(), truth, probability)
    every.add(probability, truth)
    assert scores.calibration.pixels.tolist() == every.pixels.tolist()
    assert scores.calibration.error == pytest.approx(every.error)
    assert scores.calibration_doubtful.pixels.sum() < every.pixels.sum()
    assert scores.calibration_doubtful.true.tolist() == every.true.tolist()


def test_a_picture_or_a_mask_that_does_not_fit_is_named(tmp_path: Path) -> None:
    bundle = find_bundle("breast-ultrasound")
    backend = load_backend(bundle, device="cpu", backend="auto", precision="auto")
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    Pillow.new("L", (200, 100)).save(tmp_path / "masks" / "one.png")
    Pillow.new("L", (100, 200)).save(tmp_path / "images" / "one.png")
    with pytest.raises(ConfigError, match=r"one: picture 200 x 100 and mask 100 x 200 .* differ in size"):
        measure(bundle, backend, tmp_path, ["one"])
    for shape, said in (((90, 90), "needs at least 96x96 pixels"), ((200, 200), "is for grey pictures")):
        noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
        Pillow.fromarray(noise if "grey" in said else noise[..., 0]).save(tmp_path / "images" / "one.png")
        Pillow.new("L", shape).save(tmp_path / "masks" / "one.png")
        with pytest.raises(Refused, match=f"one: bundle breast-ultrasound {said}"):
            measure(bundle, backend, tmp_path, ["one"])
