"""One picture seen at several sizes: each class takes the mean of what the network says at the sizes that are its own.

Seen larger than the network learnt, small lesions gain; seen smaller, large faint ones do, since more of what is around
them lies within the network's view. The answers meet on the finest of the grids; all lie over the same extent. Mirrored
views are taken at the working size alone (where no class asks for it, at the largest): another size is another view
already, and a larger one is dear.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.inference.backends import Backend
from medpipe.inference.passes import mirrored_views
from medpipe.inference.preprocess import Prepared, prepare
from medpipe.inference.resample import resample
from medpipe.inference.window import slide
from medpipe.types import Image

Progress = Callable[[float], None]


def sizes_of(bundle: Bundle) -> tuple[float, ...]:
    """Every size that a class asks for, in working sizes, the largest first."""
    return tuple(sorted({scale for spec in bundle.classes for scale in spec.scales}, reverse=True))


def prepare_finest(image: Image, bundle: Bundle) -> Prepared:
    """The image at the largest of its sizes, on whose grid all answers meet. Raises Refused as `prepare` does."""
    return prepare(image, bundle, sizes_of(bundle)[0])


def reduction(finest: Prepared, bundle: Bundle) -> float:
    """Source pixels (voxels) that one at working size stands for; `finest` is the image at its largest size."""
    way = finest.way_back
    return math.prod(way.cropped_shape) / math.prod(way.working) * sizes_of(bundle)[0] ** 2


@dataclass(frozen=True, eq=False)
class Answers:
    """`probability` float32 (classes, k, j, i) on the finest grid, and per class the standard deviation (k, j, i) of
    what was said of it: None for a class that was asked for once."""

    probability: NDArray[np.float32]
    spreads: tuple[NDArray[np.float32] | None, ...]


def see(
    image: Image, finest: Prepared, bundle: Bundle, backend: Backend, *, tta: bool, progress: Progress
) -> Answers:
    """What the network says of the image at every size; `finest` is the image at the largest one."""
    scales = sizes_of(bundle)
    if len(scales) == 1:
        seen = slide(finest, bundle, backend, tta=tta, progress=progress)
        spreads = (None,) * len(bundle.classes) if seen.spread is None else tuple(seen.spread)
        return Answers(seen.probability, spreads)
    means = [_Mean.of_none(finest.way_back.working) for _ in bundle.classes]
    mirrored = 1.0 if 1.0 in scales else scales[0]
    views = len(mirrored_views(bundle.input.spatial_dims, bundle.window.mirrored_axes)) if tta else 1
    work = {scale: scale**2 * (views if scale == mirrored else 1) for scale in scales}
    done = 0.0
    for scale in scales:
        prepared = finest if scale == scales[0] else prepare(image, bundle, scale)
        share = work[scale] / sum(work.values())

        def tell(part: float, done: float = done, share: float = share) -> None:
            progress(done + share * part)

        seen = slide(prepared, bundle, backend, tta=tta and scale == mirrored, progress=tell)
        for c, spec in enumerate(bundle.classes):
            if scale in spec.scales:
                means[c].add(seen.probability[c], None if seen.spread is None else seen.spread[c])
        done += share
    return Answers(np.stack([m.mean for m in means]), tuple(m.spread() for m in means))


@dataclass
class _Mean:
    """One class's mean and the summed squared distances from it, size by size (Chan, Golub and LeVeque 1983)."""

    mean: NDArray[np.float32]
    squares: NDArray[np.float32]
    sizes: int = 0
    repeated: bool = False

    @classmethod
    def of_none(cls, shape: tuple[int, int, int]) -> _Mean:
        return cls(np.zeros(shape, np.float32), np.zeros(shape, np.float32))

    def add(self, probability: NDArray[np.float32], spread: NDArray[np.float32] | None) -> None:
        """Adds one size: the mean of its views and their standard deviation. Sizes count alike."""
        said = resample(probability, self._shape)
        self.sizes += 1
        self.repeated = self.sizes > 1 or spread is not None
        distance = said - self.mean
        self.mean += distance / np.float32(self.sizes)
        self.squares += distance * (said - self.mean)
        if spread is not None:
            self.squares += resample(spread, self._shape) ** 2

    def spread(self) -> NDArray[np.float32] | None:
        """Standard deviation over the sizes and their views, None where there was but one."""
        return np.sqrt(self.squares / np.float32(self.sizes)) if self.repeated else None

    @property
    def _shape(self) -> tuple[int, int, int]:
        k, j, i = self.mean.shape
        return k, j, i
