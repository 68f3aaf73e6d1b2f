"""A class uses the CRF only where pictures show that it gains."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from medpipe.bundle import SHIPPED, Bundle, load_bundle
from medpipe.training.class_scores import ClassScores
from medpipe.training.crf_choice import CrfGain, measure_crf, with_rule


def gain(*dices: tuple[float, float], found: tuple[int, int] = (10, 10)) -> CrfGain:
    """From (Dice without, Dice with) of each picture and the lesions found without and with."""
    off, on = ClassScores("SE"), ClassScores("SE")
    for scores, which in ((off, 0), (on, 1)):
        scores.counts += [(round(1000 * pair[which]), 1000, 1000) for pair in dices]
        scores.by_size.lesions[0], scores.by_size.found[0] = 12, found[which]
    return CrfGain(off, on)


def test_the_interval_is_student_s() -> None:
    """Gains of 1, 2 and 3 hundredths: mean .02, standard error .01 / sqrt(3), quantile 4.3027 of two degrees."""
    seen = gain((0.5, 0.51), (0.6, 0.62), (0.7, 0.73))
    assert seen.interval == pytest.approx((0.02 - 4.302653 * 0.01 / 3**0.5, 0.02 + 4.302653 * 0.01 / 3**0.5))


@pytest.mark.parametrize(
    ("seen", "holds"),
    [
        (gain((0.5, 0.52), (0.6, 0.62), (0.7, 0.72), (0.4, 0.421)), True),
        (gain((0.5, 0.48), (0.6, 0.58), (0.7, 0.68), (0.4, 0.379)), False),  # it loses
        (gain((0.5, 0.60), (0.6, 0.59), (0.7, 0.70), (0.4, 0.400)), False),  # one picture gains: chance
        (gain((0.5, 0.52), (0.6, 0.62), (0.7, 0.72), found=(10, 9)), False),  # a lesion is lost
        (gain((0.5, 0.5), (0.6, 0.6)), False),  # nothing changes
        (gain((0.5, 0.9)), False),  # one picture has no spread
        (gain(), False),
    ],
)
def test_the_rule(seen: CrfGain, holds: bool) -> None:
    assert seen.holds is holds
    assert with_rule({"id": "SE"}, [seen]) is holds
    assert with_rule({"id": "MA"}, [seen]) is False
    assert with_rule({"id": "SE", "crf": True}, [seen]) is True, "what the experiment states stays"


class Blurred:
    """Takes redness for probability: certain of the spots' middles, with a bias outwards or inwards at their rims."""

    name, precision, device, batch = "redness", "f32", "cpu", 1

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.clip(batch[:, :1], 0, 1), np.float32)


def write_pictures(folder: Path, truth_grown: bool) -> list[str]:
    """Squares whose probability (red) falls off in a rim of 2 pixels of the same green as the square or the ground."""
    names = [f"p{n}" for n in range(4)]
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for n, name in enumerate(names):
        picture, mask = np.full((128, 128, 3), 20, np.uint8), np.zeros((128, 128), np.uint8)
        a, b = 30 + 3 * n, 80 + n
        picture[a - 2 : b + 2, a - 2 : b + 2, 0] = 120  # a rim: below the threshold, but not by much
        picture[a:b, a:b, 0] = 230
        rim = 2 if truth_grown else 0
        picture[a - 2 : b + 2, a - 2 : b + 2, 1:] = 200  # what the CRF sees: the rim belongs to the square
        mask[a - rim : b + rim, a - rim : b + rim] = 1
        Pillow.fromarray(picture).save(folder / "images" / f"{name}.png")
        Pillow.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return names


@pytest.fixture
def bundle() -> Bundle:
    """The 2-D test bundle with a CRF that follows edges of colour."""
    phantom = load_bundle(SHIPPED / "phantom-2d")
    field = phantom.crf.model_copy(update={"bilateral_compat": 10.0, "bilateral_srgb": 100.0})
    return dataclasses.replace(phantom, crf=field)


@pytest.mark.parametrize("truth_grown", [True, False])
def test_measured_through_the_pipeline_a_crf_that_helps_is_taken_and_one_that_harms_refused(
    bundle: Bundle, tmp_path: Path, truth_grown: bool
) -> None:
    """Where the truth ends with the colour the CRF gains; where it ends with the probability it only loses."""
    names = write_pictures(tmp_path, truth_grown)
    (seen,) = measure_crf(bundle, Blurred(), tmp_path, names)
    assert len(seen.gains) == 4 and seen.off.found == seen.on.found == 4
    assert seen.holds is truth_grown, seen.told
    assert all((g > 0) is truth_grown for g in seen.gains), seen.told
