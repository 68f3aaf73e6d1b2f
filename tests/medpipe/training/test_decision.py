"""Thresholds and smallest sizes: what is chosen, for lesions and for whole images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medpipe.training.decision import SIZES, Said, _f1, _tally, best_for_images, best_for_lesions, choose
from medpipe.training.experiment import Decision


def test_the_smallest_size_leaves_out_specks_and_keeps_lesions() -> None:
    """Three true lesions of 100 pixels and twenty false specks of 4: any size from 6 to 96 is right, the least wins."""
    truth, mask = np.zeros((2, 1, 200, 200), np.bool_)
    for n in range(3):
        truth[0, 20 * n : 20 * n + 10, :10] = mask[0, 20 * n : 20 * n + 10, :10] = True
    for n in range(20):
        mask[0, 100 + 4 * n : 102 + 4 * n, 100:102] = True
    scores = _f1(_tally(Said(mask.astype(np.float16), truth), 0.5))[0]
    assert scores[SIZES.index(1)] == pytest.approx(2 * (3 / 23) / (1 + 3 / 23))
    assert SIZES[int(np.argmax(scores))] == 6
    assert scores[SIZES.index(96)] == 1
    assert scores[SIZES.index(128)] == 0


def crowded(true: float, false: float, count: int) -> Said:
    """Three lesions of .5 with one pixel of `true` each, and `count` of the same size that are none, all of `false`."""
    truth = np.zeros((1, 300, 60), np.bool_)
    probability = np.zeros((1, 300, 60), np.float16)
    for n in range(count):
        probability[0, 20 * n : 20 * n + 10, 30:40] = false
    for n in range(3):
        truth[0, 20 * n : 20 * n + 10, :10] = True
    probability[truth] = 0.5
    probability[0, [5, 25, 45], 5] = true
    return Said(probability, truth)


def test_a_peak_leaves_out_what_is_nowhere_sure_where_that_is_too_much() -> None:
    """Twelve false lesions of .65 an image; size does not tell them from the true ones. Eight are bearable."""
    choice = best_for_lesions([crowded(0.8, 0.65, 12)] * 4, 0.4)
    assert (choice.threshold, choice.peak, choice.smallest) == (0.4, 0.7, 1)
    assert best_for_lesions([crowded(0.8, 0.65, 12)] * 3 + [crowded(0.8, 0, 0)], 0.4).peak == 0.7
    assert best_for_lesions([crowded(0.8, 0.65, 12)] + [crowded(0.8, 0, 0)] * 3, 0.4).peak is None, (
        "3 an image"
    )


def balanced(unsure: int) -> Said:
    """A hundred lesions, of which so many only reach .65, beside as many of .65 that are none: F1 is flat."""
    truth = np.zeros((1, 240, 480), np.bool_)
    probability = np.zeros((1, 240, 480), np.float16)
    for n in range(100 + unsure):
        box = np.s_[0, 20 * (n // 20) : 20 * (n // 20) + 10, 20 * (n % 20) : 20 * (n % 20) + 10]
        truth[box] = n < 100
        probability[box] = 0.9 if n < 100 - unsure else 0.65
    return Said(probability, truth)


@pytest.mark.parametrize(("unsure", "peak"), [(8, None), (9, 0.7)])
def test_more_than_eight_false_lesions_an_image_are_too_many(unsure: int, peak: float | None) -> None:
    assert best_for_lesions([balanced(unsure)] * 3, 0.4).peak == peak


def test_of_sizes_that_are_as_good_the_least_is_taken() -> None:
    """A hundred lesions of 100 pixels an image and a false one of 50: without it F1 gains half a hundredth."""
    truth = np.zeros((1, 240, 240), np.bool_)
    for n in range(100):
        j, i = 20 * (n // 10), 20 * (n % 10)
        truth[0, j : j + 10, i : i + 10] = True
    probability = (0.9 * truth).astype(np.float16)
    probability[0, 220:225, 0:10] = 0.9
    assert best_for_lesions([Said(probability, truth)] * 3, 0.5).smallest == 1
    probability[0, 220:230, 20::20] = 0.9  # eleven more, of 10
    assert best_for_lesions([Said(probability, truth)] * 3, 0.5).smallest == 12


def test_sizes_count_as_the_network_sees_them() -> None:
    """Of a camera of twice the resolution, where the network sees four pixels as one: lesions of 400, a speck of 40."""
    fine, coarse = specked(20, 8, 5), specked(10, 4, 2.5)
    for images in ([fine._replace(reduction=4.0)] * 3, [fine._replace(reduction=4.0), coarse] * 3):
        assert best_for_lesions(images, 0.5).smallest == 12
    assert best_for_lesions([fine] * 3, 0.5).smallest == 48
    assert best_for_images([fine._replace(reduction=4.0)] * 3).smallest == 12


def test_what_is_chosen_on_pictures_knows_how_large_each_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(*_: object) -> Iterator[tuple[SimpleNamespace, NDArray[np.bool_]]]:
        fine, coarse = specked(20, 8, 5), specked(10, 4, 2.5)
        for said, reduction in ((fine, 4.0), (coarse, 1.0)):
            yield SimpleNamespace(probability=said.probability[None], reduction=reduction), said.truth[None]

    monkeypatch.setattr("medpipe.training.decision.predictions", seen)
    bundle: Any = SimpleNamespace(classes=[SimpleNamespace(id="A")])
    backend: Any = None
    for measure in ("lesions", "images"):
        choices = choose(bundle, backend, Path(), ["fine", "coarse"], Decision(measure=measure))
        assert choices["A"].smallest == 12


def specked(side: int, long: int, wide: float) -> Said:
    """Three lesions of `side` squared and twelve specks of `long` by `wide` that are none, all of .9."""
    truth = np.zeros((1, 300, 100), np.bool_)
    probability = np.zeros((1, 300, 100), np.float16)
    for n in range(12):
        probability[0, 25 * n : 25 * n + long, 40 : 40 + round(wide)] = 0.9
    for n in range(3):
        truth[0, 25 * n : 25 * n + side, :side] = True
    probability[truth] = 0.9
    return Said(probability, truth)


def test_there_is_no_peak_that_costs_more_than_it_gives() -> None:
    assert best_for_lesions([crowded(0.6, 0.65, 12)] * 4, 0.4).peak is None, "it would cost the true ones"
    assert best_for_lesions([crowded(0.95, 0.95, 12)] * 4, 0.4).peak is None, "it tells nothing apart"
    assert best_for_lesions([crowded(0.8, 0, 0)] * 4, 0.4).peak is None, "there is nothing to leave out"


def test_for_images_a_lesion_is_outlined_at_the_threshold_where_it_ends() -> None:
    """Truth is where the probability is above .6; .3 surrounds it, and specks of .8 lie beside it."""
    truth = np.zeros((1, 100, 100), np.bool_)
    truth[0, 20:60, 20:60] = True
    probability = np.where(truth, 0.7, 0.05).astype(np.float16)
    probability[0, 10:20, 10:70] = 0.3
    for n in range(12):
        probability[0, 70:75, 5 * n + 30 : 5 * n + 33] = 0.8
    choice = best_for_images([Said(probability, truth)])
    assert choice.threshold == pytest.approx(0.5, abs=0.03), "the middle between .3 and .7"
    assert choice.smallest == 16, "specks of 15 pixels go, and no more than that is asked"


def picture(lesion: float, reflex: float) -> Said:
    """A lesion of some probability, and a reflex as large beside it or alone (lesion 0)."""
    truth, other = np.zeros((2, 1, 50, 50), np.bool_)
    truth[0, 10:30, 2:22] = lesion > 0
    other[0, 10:30, 25:45] = True
    return Said((lesion * truth + reflex * other).astype(np.float16), truth)


def test_for_images_a_mark_where_nothing_is_costs() -> None:
    """Lesions at .8, and images without any whose reflex reaches .5."""
    choice = best_for_images([picture(0.8, 0)] * 2 + [picture(0, 0.5)] * 6)
    assert 0.5 < choice.threshold < 0.8


def test_for_images_what_hangs_on_few_of_them_moves_nothing() -> None:
    """Of ten images one has a reflex of .6: right for all would only be what lies between it and the lesions' .72."""
    many = [picture(0.72, 0.15) for _ in range(9)]
    middle = pytest.approx((0.15 + 0.72) / 2, abs=0.03)
    assert best_for_images(many).threshold == middle
    assert best_for_images([*many, picture(0, 0.6)]).threshold == middle
    assert best_for_images([*many, *[picture(0, 0.5)] * 3]).threshold == middle
    assert best_for_images([*many, *[picture(0, 0.5)] * 4]).threshold > 0.5, (
        "four of thirteen are no accident"
    )
