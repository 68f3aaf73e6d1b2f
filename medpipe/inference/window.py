"""The sliding window over the working grid: MONAI's, with Gaussian blending, feeding a Backend."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.inferers.inferer import SlidingWindowInferer
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.inference.backends import Backend
from medpipe.inference.preprocess import Prepared

Progress = Callable[[float], None]


def slide(
    prepared: Prepared,
    bundle: Bundle,
    backend: Backend,
    *,
    tta: bool = False,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Probabilities float32 (classes, k, j, i) on the working grid.

    A 2-D network sees each slice by itself. Windows without any field of view are not computed and give 0; what lies
    outside the field is 0. `tta` averages over flips. Deterministic for one backend, device and thread count.
    """
    flat = bundle.input.spatial_dims == 2
    array, inside = prepared.array, prepared.inside
    # 2-D: each slice is an item (1, C, J, I); 3-D: the whole is one item (1, C, K, J, I)
    items = [array[None, :, k] for k in range(array.shape[1])] if flat else [array[None]]
    fields = (
        [None] * len(items)
        if inside is None
        else ([i[None, None] for i in inside] if flat else [inside[None, None]])
    )
    windows = len(items) * _window_count(items[0].shape[2:], bundle.window.patch, bundle.window.overlap)
    predictor = _Predictor(backend, inside is not None, len(bundle.classes), tta, windows, progress)
    out = np.empty((len(bundle.classes), *array.shape[1:]), np.float32)
    for number, (item, field) in enumerate(zip(items, fields, strict=True)):
        fed = item if field is None else np.concatenate([item, field.astype(np.float32)], axis=1)
        blended = _inferer(bundle, backend)(torch.from_numpy(np.ascontiguousarray(fed)), predictor)
        if flat:
            out[:, number] = blended[0].numpy()
        else:
            out[:] = blended[0].numpy()
    np.clip(out, 0.0, 1.0, out=out)  # blending may leave 1 + 1e-7
    if inside is not None:
        out *= inside
    return out


def _inferer(bundle: Bundle, backend: Backend) -> Callable[[torch.Tensor, _Predictor], torch.Tensor]:
    inferer = SlidingWindowInferer(
        roi_size=bundle.window.patch,
        sw_batch_size=backend.batch,
        overlap=bundle.window.overlap,
        mode="gaussian",
        padding_mode="replicate",
    )

    def run(item: torch.Tensor, predictor: _Predictor) -> torch.Tensor:
        blended = inferer(item, predictor)
        assert isinstance(blended, torch.Tensor)  # one output of the predictor, one tensor
        return blended

    return run


def _window_count(size: Sequence[int], patch: Sequence[int], overlap: float) -> int:
    count = 1
    for n, p in zip(size, patch, strict=True):
        step = max(1, int(p * (1 - overlap)))
        count *= max(0, math.ceil((n - p) / step)) + 1
    return count


class _Predictor:
    """What MONAI calls for each batch of windows: skips those outside the field, averages over flips, counts."""

    def __init__(
        self,
        backend: Backend,
        has_field: bool,
        classes: int,
        tta: bool,
        windows: int,
        progress: Progress | None,
    ) -> None:
        self._backend, self._has_field, self._classes = backend, has_field, classes
        self._tta, self._windows, self._progress = tta, windows, progress
        self._done = 0

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        patches = batch.numpy()
        wanted: NDArray[np.bool_] = np.ones(len(patches), np.bool_)
        if self._has_field:
            wanted = patches[:, -1].reshape(len(patches), -1).max(axis=1) > 0
            patches = patches[:, :-1]
        out = np.zeros((len(patches), self._classes, *patches.shape[2:]), np.float32)
        if wanted.any():
            chosen = patches if wanted.all() else patches[wanted]
            out[wanted] = average_over_flips(self._backend, chosen) if self._tta else self._backend(chosen)
        self._done += len(patches)
        if self._progress is not None:
            self._progress(min(1.0, self._done / self._windows))
        return torch.from_numpy(out)


def average_over_flips(backend: Backend, patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean probability over the mirrored patches: all 4 of a picture; as it is and along each axis of a volume (4)."""
    axes = tuple(range(2, patches.ndim))
    flips: list[tuple[int, ...]] = [(), *((a,) for a in axes)]
    if len(axes) == 2:
        flips = [chosen for n in range(3) for chosen in itertools.combinations(axes, n)]
    total = np.zeros(0, np.float32)
    for chosen in flips:
        mirrored = np.ascontiguousarray(np.flip(patches, chosen))
        back = np.flip(backend(mirrored), chosen)
        total = back + total if total.size else back.copy()
    total /= len(flips)
    return total
