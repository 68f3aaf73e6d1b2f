"""Lesions by size and FROC, worked out by hand and against labelling each level anew."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.training.lesion_scores import (
    LEVELS,
    NEIGHBOURS,
    SIZES_FROM,
    Froc,
    RecallBySize,
    count_lesions,
    judge_lesions,
)


def drawn(value: float, *places: tuple[int, int]) -> NDArray[np.float32]:
    """One picture of 20 x 20 with squares of 2 x 2 at the places (row, column)."""
    picture = np.zeros((1, 20, 20), np.float32)
    for row, column in places:
        picture[0, row : row + 2, column : column + 2] = value
    return picture


def at_level(froc: Froc, level: float) -> tuple[int, int]:
    """(found, false) at the level nearest to one."""
    n = int(np.argmin(np.abs(LEVELS - level)))
    return int(froc.found[n]), int(froc.false[n])


def test_froc_by_hand() -> None:
    """Two true lesions, said at .9 and .4; false ones at .6 and .3: each comes in when the threshold passes it."""
    truth = drawn(1, (2, 2), (10, 10)) > 0
    said = drawn(0.9, (2, 2)) + drawn(0.4, (10, 10)) + drawn(0.6, (2, 10)) + drawn(0.3, (10, 2))
    froc = Froc()
    froc.add(said.astype(np.float16), truth)
    assert froc.lesions == 2
    assert [at_level(froc, level) for level in (0.95, 0.8, 0.5, 0.35, 0.1)] == [
        (0, 0), (1, 0), (1, 1), (2, 1), (2, 2),
    ]  # fmt: skip
    froc.add(np.zeros((1, 20, 20), np.float16), np.zeros((1, 20, 20), np.bool_))
    n = int(np.argmin(np.abs(LEVELS - 0.1)))
    assert froc.recall[n] == 1
    assert froc.false_per_picture[n] == 1, "two false ones in two pictures"


def test_the_curve_is_read_from_above() -> None:
    """At most half a false lesion per picture: down to the level before the first false one (.6) recall is a half."""
    truth = drawn(1, (2, 2), (10, 10)) > 0
    said = drawn(0.9, (2, 2)) + drawn(0.4, (10, 10)) + drawn(0.6, (2, 10))
    said[said == 0] = 0.05  # at the lowest level all melts into one lesion, which finds both and is not false
    froc = Froc()
    froc.add(said, truth)
    assert (int(froc.found[0]), int(froc.false[0])) == (2, 0)
    recall, level = froc.at(0.5)
    assert recall == 0.5
    assert level == pytest.approx(min(x for x in LEVELS if x > 0.6))
    assert froc.at(1) == (1.0, pytest.approx(LEVELS[0]))
    assert Froc().at() == (None, None)


def test_a_network_that_is_too_sure_of_itself_is_told_apart_at_the_top() -> None:
    """What is false is said with .985, what is true with .9995: no two decimals part them."""
    froc = Froc()
    froc.add((drawn(0.9995, (2, 2)) + drawn(0.985, (10, 10))).astype(np.float16), drawn(1, (2, 2)) > 0)
    assert froc.at(0.5) == (1.0, pytest.approx(0.99))


def test_above_the_threshold_lesions_go_but_do_not_shrink() -> None:
    """Of a lesion of 16 pixels three are sure. At .9 they are a fifth of nothing else; asked for a peak it is found."""
    truth = np.zeros((1, 20, 20), np.bool_)
    truth[0, 2:6, 2:6] = True
    said = np.where(truth, 0.5, 0).astype(np.float16)
    said[0, 2, 2:5] = 0.95
    said += drawn(0.6, (12, 12)).astype(np.float16)
    shrinking, whole = Froc(), Froc(threshold=0.4)
    shrinking.add(said, truth)
    whole.add(said, truth)
    assert at_level(shrinking, 0.3) == at_level(whole, 0.3) == (1, 1)
    assert at_level(shrinking, 0.8) == (0, 0)
    assert at_level(whole, 0.8) == (1, 0)
    assert at_level(whole, 0.98) == (0, 0)


def test_no_level_is_good_enough() -> None:
    froc = Froc()
    froc.add(drawn(1.0, (2, 2), (10, 10)), drawn(1, (15, 15)) > 0)
    assert froc.at(1) == (0.0, None)


def test_smallest_sizes_are_dropped_at_every_level() -> None:
    """A true lesion of 8 pixels that is said with .9 in 4 of them and .5 in the others, and a false one of 4."""
    truth = drawn(1, (2, 2), (2, 4)) > 0
    said = drawn(0.9, (2, 2)) + drawn(0.5, (2, 4)) + drawn(0.95, (10, 10))
    froc = Froc()
    froc.add(said, truth, 8)
    assert at_level(froc, 0.8) == (0, 0)
    assert at_level(froc, 0.3) == (1, 0)


@pytest.mark.parametrize("shape", [(1, 40, 50), (6, 14, 15)])
def test_every_level_is_what_labelling_it_gives(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(5)
    said = ndimage.gaussian_filter(rng.random(shape), 1.2)
    said = ((said - said.min()) / np.ptp(said)).astype(np.float32)
    truth = ndimage.gaussian_filter(rng.random(shape), 1.2) > 0.55
    froc = Froc()
    froc.add(said, truth, 4)
    for n, level in enumerate(LEVELS):
        marked, _ = ndimage.label(said >= np.float32(level), NEIGHBOURS)
        kept = (np.bincount(marked.ravel()) >= 4)[marked] & (marked > 0)
        found, lesions, false = count_lesions(kept, truth)
        assert (froc.found[n], froc.lesions, froc.false[n]) == (found, lesions, false)


def test_recall_by_size() -> None:
    """Lesions of 4, 31 and 32 pixels: the first bin ends below 32. The one of 31 is missed."""
    truth = np.zeros((1, 60, 60), np.bool_)
    truth[0, 2:4, 2:4] = True
    truth[0, 10, 2:33] = True
    truth[0, 20:24, 2:10] = True
    mask = truth.copy()
    mask[0, 10] = False
    by_size = RecallBySize()
    by_size.add(judge_lesions(mask, truth))
    assert SIZES_FROM[:2] == (1, 32)
    assert by_size.lesions.tolist() == [2, 1, 0, 0, 0]
    assert by_size.found.tolist() == [1, 1, 0, 0, 0]
    assert RecallBySize.names()[0] == "1 to 31"
    assert RecallBySize.names()[-1] == f"from {SIZES_FROM[-1]}"
