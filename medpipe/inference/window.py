"""The sliding window over the working grid: MONAI's, with Gaussian blending, feeding a Backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.inferers.inferer import SlidingWindowInferer
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.errors import BundleError
from medpipe.inference.backends import Backend
from medpipe.inference.passes import AS_IT_IS, View, mean_and_spread, members_of, mirrored_views
from medpipe.inference.preprocess import Prepared

Progress = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the network says on the working grid: `probability` float32 (classes, k, j, i), and where it was asked more
    than once (mirrored views, several members) the `spread` of its answers, of the same shape."""

    probability: NDArray[np.float32]
    spread: NDArray[np.float32] | None


def slide(
    prepared: Prepared,
    bundle: Bundle,
    backend: Backend,
    *,
    tta: bool = False,
    progress: Progress | None = None,
) -> Seen:
    """Probabilities on the working grid.

    A 2-D network sees each slice by itself. Windows without any field of view are not computed and give 0; what lies
    outside the field is 0. `tta` averages over the bundle's mirrored views. The spread of each window's passes is
    blended as their mean is. Deterministic for one backend, device and thread count.
    """
    flat = bundle.input.spatial_dims == 2
    array, inside = prepared.array, prepared.inside
    around = _around(bundle)
    if around is not None:
        array = array - around
    # 2-D: each slice is an item (1, C, J, I); 3-D: the whole is one item (1, C, K, J, I)
    items = [array[None, :, k] for k in range(array.shape[1])] if flat else [array[None]]
    fields = (
        [None] * len(items)
        if inside is None
        else ([i[None, None] for i in inside] if flat else [inside[None, None]])
    )
    windows = len(items) * _window_count(items[0].shape[2:], bundle.window.patch, bundle.window.overlap)
    classes = len(bundle.classes)
    views = mirrored_views(bundle.input.spatial_dims, bundle.window.mirrored_axes) if tta else AS_IT_IS
    predictor = _Predictor(backend, inside is not None, classes, views, windows, progress, around)
    out = np.empty((predictor.channels, *array.shape[1:]), np.float32)
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
    return Seen(out[:classes], out[classes:] if predictor.repeated else None)


def _around(bundle: Bundle) -> NDArray[np.float32] | None:
    """What surrounds a small image where it is neither 0 nor its edge: float32 (channels, 1, 1, 1).

    MONAI puts one value around all channels, 0: so it is given the image less this, and the network the sum.
    """
    if bundle.window.padding != "black":
        return None
    return np.asarray(bundle.input.black, np.float32).reshape(-1, 1, 1, 1)


def _inferer(bundle: Bundle, backend: Backend) -> Callable[[torch.Tensor, _Predictor], torch.Tensor]:
    inferer = SlidingWindowInferer(
        roi_size=bundle.window.patch,
        sw_batch_size=backend.batch,
        overlap=bundle.window.overlap,
        mode="gaussian",
        padding_mode="replicate" if bundle.window.padding == "edge" else "constant",
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
    """What MONAI calls for each batch of windows: skips those outside the field, averages over passes, counts.

    Where there are several passes the channels of their spread follow those of the mean.
    """

    def __init__(
        self,
        backend: Backend,
        has_field: bool,
        classes: int,
        views: Sequence[View],
        windows: int,
        progress: Progress | None,
        around: NDArray[np.float32] | None,
    ) -> None:
        self._backend, self._has_field, self._classes, self._around = backend, has_field, classes, around
        self._views, self._windows, self._progress = views, windows, progress
        self.repeated = len(views) * len(members_of(backend)) > 1
        self.channels = 2 * classes if self.repeated else classes
        self._done = 0

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        patches = batch.numpy()
        wanted: NDArray[np.bool_] = np.ones(len(patches), np.bool_)
        if self._has_field:
            wanted = patches[:, -1].reshape(len(patches), -1).max(axis=1) > 0
            patches = patches[:, :-1]
        out = np.zeros((len(patches), self.channels, *patches.shape[2:]), np.float32)
        if wanted.any():
            chosen = patches if wanted.all() else patches[wanted]
            if self._around is not None:
                chosen = chosen + (self._around if chosen.ndim == 5 else self._around[:, 0])
            if self.repeated:
                out[wanted] = np.concatenate(mean_and_spread(self._backend, chosen, self._views), axis=1)
            else:
                out[wanted] = self._backend(chosen)
            if np.isnan(out).any():
                backend = self._backend
                raise BundleError(
                    f"the network gives values that are no numbers (NaN) in {backend.precision} on {backend.device}: "
                    'nothing is marked by such a result; try precision = "f32"'
                )
        self._done += len(patches)
        if self._progress is not None:
            self._progress(min(1.0, self._done / self._windows))
        return torch.from_numpy(out)
