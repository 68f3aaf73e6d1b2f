"""Resampling between the source grid and the working grid, both laid over exactly the same extent.

Both grids have the same outer borders (the convention "align corners = False"): the centre of working pixel w lies at
source position (w + 1/2) * n_source / n_working - 1/2. Shrinking averages over the area that a pixel stands for
(triangle filter), growing interpolates linearly; so neither moves anything, whatever the two sizes are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name by which everyone knows it
from numpy.typing import NDArray

LARGEST_BAND = 32 * 2**20
"""Voxels that one band of a volume may hold while it is brought back to the source grid."""


def resample(array: NDArray[np.generic], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """(K, J, I) of any numeric type -> float32 of `shape` over the same extent."""
    out = np.empty(shape, np.float32)
    for band, values in resample_bands(array, shape):
        out[band] = values
    return out


def resample_bands(
    array: NDArray[np.generic], shape: tuple[int, int, int]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """The same in bands along k: yields (slice of k, float32 (k, J, I)), so that only a band is held at once."""
    taps = axis_weights(array.shape[0], shape[0])
    step = max(1, LARGEST_BAND // max(shape[1] * shape[2], array.shape[1] * array.shape[2]))
    for start in range(0, shape[0], step):
        band = slice(start, min(shape[0], start + step))
        weights = taps[band]
        used = np.flatnonzero(weights.any(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        slab = np.asarray(array[first:last]).astype(np.float32, copy=False)
        planes = _resample_planes(slab, shape[1:])
        if weights.shape[0] == last - first and np.array_equal(weights[:, first:last], np.eye(last - first)):
            yield band, planes
            continue
        mixed = weights[:, first:last] @ planes.reshape(last - first, -1)
        yield band, mixed.reshape(-1, shape[1], shape[2])


def _resample_planes(slab: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """(k, J, I) -> (k, *shape), each plane by itself."""
    if slab.shape[1:] == shape:
        return slab
    shrinks = shape[0] < slab.shape[1] or shape[1] < slab.shape[2]
    tensor = torch.from_numpy(np.ascontiguousarray(slab))[:, None]
    grown = F.interpolate(tensor, size=shape, mode="bilinear", align_corners=False, antialias=shrinks)
    return np.asarray(grown[:, 0].numpy())


def axis_weights(n_in: int, n_out: int) -> NDArray[np.float32]:
    """Matrix (n_out, n_in) that resamples one axis: linear interpolation, or a triangle filter when shrinking.

    The same weights as torch's antialiased bilinear interpolation, for an axis that it does not cover.
    """
    scale = n_in / n_out
    centre = (np.arange(n_out) + 0.5) * scale - 0.5
    if scale <= 1:
        centre = np.clip(centre, 0, n_in - 1)  # beyond the outermost centres the edge value holds
    distance = np.abs(np.arange(n_in)[None, :] - centre[:, None])
    weights = np.clip(1.0 - distance / max(scale, 1.0), 0.0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
