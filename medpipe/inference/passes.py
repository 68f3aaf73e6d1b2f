"""Several passes over the same patches, mirrored views and members of an ensemble: their mean, and how far they differ.

The spread of a pixel is the standard deviation of its probability over the passes (test-time augmentation: Wang et
al., Neurocomputing 338, 2019; deep ensembles: Lakshminarayanan et al., NeurIPS 2017). Mean and spread are updated pass
by pass (Welford, Technometrics 4, 1962), so no pass is kept, and where all passes agree the spread is exactly 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medpipe.bundle import Axis
from medpipe.inference.backends import Backend

View = tuple[int, ...]
"""Axes of (N, channels, *patch) along which a patch is mirrored, counted from the last."""
AS_IT_IS: tuple[View, ...] = ((),)
_FROM_THE_LAST: dict[Axis, int] = {"K": -3, "J": -2, "I": -1}


class Ensemble:
    """Networks of the same kind as one Backend, whose probability is the mean of theirs."""

    def __init__(self, members: tuple[Backend, ...]) -> None:
        self.members = members
        first = members[0]
        self.name = f"{first.name}, {len(members)} networks"
        self.precision, self.device, self.batch = first.precision, first.device, first.batch

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, channels, *patch) -> mean probabilities float32 (N, classes, *patch)."""
        return mean_and_spread(self, batch)[0]


def members_of(backend: Backend) -> tuple[Backend, ...]:
    """The networks that a backend averages; itself where it is one network."""
    return backend.members if isinstance(backend, Ensemble) else (backend,)


def mean_and_spread(
    backend: Backend, patches: NDArray[np.float32], views: Sequence[View] = AS_IT_IS
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of the probabilities over all passes, float32 (N, classes, *patch) each."""
    mean = np.zeros(0, np.float32)
    squares = np.zeros(0, np.float32)  # summed squares of the distances from the mean
    count = 0
    for probability in _passes(backend, patches, views):
        count += 1
        if count == 1:
            mean, squares = probability.copy(), np.zeros_like(probability)
            continue
        distance = probability - mean
        mean += distance / count
        squares += distance * (probability - mean)
    squares /= count
    return mean, np.sqrt(np.maximum(squares, 0, out=squares), out=squares)


def mirrored_views(spatial_dims: int, mirrored: Sequence[Axis]) -> tuple[View, ...]:
    """Every way to mirror a picture along some of these axes; a volume as it is and along each of them."""
    axes = [_FROM_THE_LAST[axis] for axis in mirrored]
    if spatial_dims == 3:
        return ((), *((axis,) for axis in axes))
    return tuple(some for n in range(len(axes) + 1) for some in itertools.combinations(axes, n))


def _passes(
    backend: Backend, patches: NDArray[np.float32], views: Sequence[View]
) -> Iterator[NDArray[np.float32]]:
    for axes in views:
        seen = np.ascontiguousarray(np.flip(patches, axes))
        for network in members_of(backend):
            yield np.flip(network(seen), axes)
