"""Lesions found, missed and false: by size, and as the threshold moves (FROC)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph

FOUND = 0.2
"""A lesion of the truth is found when at least this part of its pixels is marked."""
NEIGHBOURS = np.ones((3, 3, 3), np.int8)
"""Lesions are connected by faces, edges and corners: 8 neighbours in a picture, 26 in a volume."""
SIZES_FROM = (1, 32, 128, 512, 2048)
"""Bins of lesion size begin here, in pixels (voxels) of the grid that is measured on; the last has no end."""
LEVELS = np.array([*np.linspace(0.02, 0.98, 33), 0.99, 0.995, 0.998, 0.999])
"""Thresholds of the FROC curve; close together at the top, where a network that is too sure of itself still differs."""
FALSE_ALLOWED = 8.0
"""False lesions per picture at which the FROC curve is read for the table."""

_AHEAD = [step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]
"""Half of the neighbours: each pair of pixels is met once."""


@dataclass(frozen=True, eq=False)
class JudgedLesions:
    """Of one class in one image: pixels of each true lesion, which were found, and how many marked ones are false."""

    sizes: NDArray[np.int64]
    found: NDArray[np.bool_]
    false: int


def judge_lesions(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> JudgedLesions:
    """What a mask (K, J, I) says of the truth's lesions. A marked lesion is false when it touches no truth."""
    real, lesions = ndimage.label(truth, NEIGHBOURS)
    covered = np.bincount(real[mask], minlength=lesions + 1)[1:]
    sizes = np.bincount(real[truth], minlength=lesions + 1)[1:]
    marked, count = ndimage.label(mask, NEIGHBOURS)
    touching = np.unique(marked[truth & mask])
    return JudgedLesions(sizes, covered >= _needed(sizes), int(count - len(touching)))


def count_lesions(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[int, int, int]:
    """(true lesions found, true lesions, marked lesions that touch no truth) of one image (K, J, I)."""
    judged = judge_lesions(mask, truth)
    return int(judged.found.sum()), len(judged.sizes), judged.false


@dataclass(eq=False)
class RecallBySize:
    """True lesions and those found, by size."""

    lesions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES_FROM), np.int64))
    found: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES_FROM), np.int64))

    def add(self, judged: JudgedLesions) -> None:
        bins = np.searchsorted(SIZES_FROM, judged.sizes, side="right") - 1
        self.lesions += np.bincount(bins, minlength=len(SIZES_FROM))
        self.found += np.bincount(bins[judged.found], minlength=len(SIZES_FROM))

    @staticmethod
    def names() -> list[str]:
        """ "1 to 31" and so on, in pixels."""
        ends = [f"{a} to {b - 1}" for a, b in itertools.pairwise(SIZES_FROM)]
        return [*ends, f"from {SIZES_FROM[-1]}"]


@dataclass(eq=False)
class Froc:
    """Free-response curve: lesions found and false ones at each of LEVELS, all pictures together.

    At a level up to `threshold`, what has at least that probability is marked; above it, what has at least `threshold`
    of components that somewhere reach the level: a class that is asked to be surer has fewer lesions, not smaller ones
    (`peak` in a bundle). The CRF has no part in it.
    """

    threshold: float = 1.0
    lesions: int = 0
    pictures: int = 0
    found: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(LEVELS), np.int64))
    false: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(LEVELS), np.int64))

    def add(self, probability: NDArray[Any], truth: NDArray[np.bool_], smallest: int = 1) -> None:
        """Adds one picture: arrays (K, J, I). Components of fewer than `smallest` pixels are dropped.

        The few pixels above the lowest level and their neighbourhoods are a graph; a level takes edges out of it. That
        is much faster than labelling the whole picture at each level.
        """
        real, lesions = ndimage.label(truth, NEIGHBOURS)
        needed = _needed(np.bincount(real[truth], minlength=lesions + 1)[1:])
        self.lesions += lesions
        self.pictures += 1
        lowest = probability.dtype.type(min(LEVELS[0], self.threshold))
        places = np.flatnonzero(probability >= lowest)
        values = probability.ravel()[places].astype(np.float32)
        lesion = real.ravel()[places]
        one, other = _edges(places, truth.shape)
        marked = np.zeros(0, np.int64)
        for n, level in enumerate(LEVELS):
            kept = values >= np.float32(min(level, self.threshold))
            if n == 0 or not kept.all():
                values, lesion = values[kept], lesion[kept]
                number = np.cumsum(kept) - 1
                joined = kept[one] & kept[other]
                one, other = number[one[joined]], number[other[joined]]
                marked = _components(len(values), one, other)
            large = np.bincount(marked, minlength=1) >= smallest
            sure = np.zeros(len(large), np.bool_)
            sure[marked[values >= np.float32(level)]] = True
            large &= sure
            seen = large[marked]
            covered = np.bincount(lesion[seen], minlength=lesions + 1)[1:]
            self.found[n] += int((covered >= needed).sum())
            touching = np.unique(marked[seen & (lesion > 0)])
            self.false[n] += int(large.sum()) - len(touching)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Part of the true lesions found, at each of LEVELS; zeros where there are none."""
        return np.asarray(self.found / max(1, self.lesions))

    @property
    def false_per_picture(self) -> NDArray[np.float64]:
        return np.asarray(self.false / max(1, self.pictures))

    def at(self, false_per_picture: float = FALSE_ALLOWED) -> tuple[float | None, float | None]:
        """(recall, level) at the lowest level down to which no level has more false lesions per picture than that.

        Read from above, because far below all marks may melt into one large lesion, which would count as found and
        never as false. (0, None) where even the highest level has too many, (None, None) where the truth has no lesion.
        """
        if not self.lesions:
            return None, None
        too_many = np.flatnonzero(self.false_per_picture > false_per_picture)
        lowest = int(too_many[-1]) + 1 if len(too_many) else 0
        if lowest == len(LEVELS):
            return 0.0, None
        return float(self.recall[lowest]), float(LEVELS[lowest])


def _needed(sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(1, FOUND * sizes))


def _edges(places: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of neighbours among sorted flat indices of a (K, J, I) array, as positions in `places`."""
    where = np.stack(np.unravel_index(places, shape))
    sizes = np.array(shape)[:, None]
    ones, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for step in _AHEAD:
        moved = where + np.array(step)[:, None]
        inside = np.flatnonzero(((moved >= 0) & (moved < sizes)).all(axis=0))
        if not len(inside):
            continue
        wanted = np.ravel_multi_index(tuple(moved[:, inside]), shape)
        at = np.minimum(np.searchsorted(places, wanted), len(places) - 1)
        met = places[at] == wanted
        ones.append(inside[met])
        others.append(at[met])
    return np.concatenate(ones), np.concatenate(others)


def _components(count: int, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """The component's number of each of `count` pixels that these pairs join."""
    if not count:
        return np.zeros(0, np.int64)
    graph = sparse.coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    return np.asarray(csgraph.connected_components(graph, directed=False)[1], np.int64)
