"""Pooled pixel scores against definitions worked out another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.training.metrics import BINS, PooledScores


def pooled(probability: list[float], truth: list[int]) -> PooledScores:
    scores = PooledScores()
    scores.add(np.asarray(probability, np.float32), np.asarray(truth, np.bool_))
    return scores


def test_aupr_of_four_pixels_by_hand() -> None:
    """Ranked: hit, wrong, hit, wrong: precision 1 at recall 1/2, 2/3 at recall 1 -> 1/2 + 1/2 * 2/3."""
    assert pooled([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]).aupr == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_perfect_and_blind() -> None:
    assert pooled([0.9, 0.8, 0.1], [1, 1, 0]).aupr == 1
    assert pooled([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]).aupr == pytest.approx(0.25)
    assert pooled([0.5, 0.1], [0, 0]).aupr is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, BINS - 1), st.booleans()), min_size=1, max_size=60))
def test_aupr_is_average_precision_over_distinct_values(rows: list[tuple[int, bool]]) -> None:
    values, truth = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    scores = pooled((values / BINS).tolist(), truth.tolist())
    if not truth.any():
        assert scores.aupr is None
        return
    expected, before = 0.0, 0.0
    for level in sorted(set(values.tolist()), reverse=True):
        marked = values >= level
        recall = (marked & truth).sum() / truth.sum()
        expected += (recall - before) * (marked & truth).sum() / marked.sum()
        before = recall
    assert scores.aupr == pytest.approx(expected)


def test_dice_at_a_threshold_counts_what_is_at_or_above_it() -> None:
    scores = pooled([0.75, 0.5, 0.25, 0.0], [1, 0, 1, 0])
    assert scores.at(0.5) == (1, 1, 1)
    assert scores.dice(0.5) == pytest.approx(2 / (2 + 1 + 1))
    assert scores.dice(0.25) == pytest.approx(4 / (4 + 1))


def test_the_best_threshold_is_where_dice_is_largest() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(5000) < 0.1
    probability = np.clip(rng.normal(np.where(truth, 0.6, 0.3), 0.15), 0, 1).astype(np.float32)
    scores = PooledScores()
    scores.add(probability, truth)
    best = scores.best_threshold()
    marked = probability >= best
    dice = 2 * (marked & truth).sum() / (marked.sum() + truth.sum())
    assert scores.dice(best) == pytest.approx(dice, abs=1e-6)
    every = [scores.dice(t) or 0 for t in np.linspace(0.05, 0.95, 181)]
    assert dice >= max(every) - 1e-9


def test_pictures_are_pooled_not_averaged() -> None:
    scores = pooled([0.9, 0.2], [1, 0])
    scores.add(np.array([0.8, 0.7], np.float32), np.array([False, True]))
    assert scores.aupr == pooled([0.9, 0.2, 0.8, 0.7], [1, 0, 0, 1]).aupr
