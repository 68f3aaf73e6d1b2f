"""Connected components of one class's mask as lesions: size, axes, probability, uncertainty, an identity from content.

Axes are calipers: the component's extent over directions 3 degrees apart, in the plane of the slice. The long axis is
the largest extent, the short axis the extent at right angles to it; in a volume both are taken in the slice where the
long axis is longest, as radiology measures (RECIST 1.1). A single pixel measures one pixel.

A lesion's uncertainty is the mean over its pixels of the spread of their probability over the network's passes (0: all
passes agree; 0.5: half of them say 0 and half 1): a lesion's measure from those of its voxels, as Nair et al. (Medical
Image Analysis 59, 2020) make it. It tells how far the answers differ, not how often they are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.identity import digest, uid_from
from medpipe.types import Image, Lesion

_ANGLES = np.deg2rad(np.arange(0, 180, 3))
_DIRECTIONS = np.stack([np.sin(_ANGLES), np.cos(_ANGLES)])  # (j, i) by angle
_RIGHT_ANGLE = len(_ANGLES) // 2


@dataclass(frozen=True)
class Identity:
    """What a tracking UID is derived from besides the component itself."""

    uid_root: str
    bundle_id: str
    class_id: str


def least_size(smallest: int, reduction: float) -> int:
    """`smallest` of a class in voxels of an image of which the network sees `reduction` as one."""
    return 1 + round((smallest - 1) * reduction)


def label_components(
    mask: NDArray[np.bool_],
    smallest: int,
    probability: NDArray[np.float32] | None = None,
    peak: float = 0.0,
) -> NDArray[np.int32]:
    """Labels 1..n of the components of a mask, 8-connected in 2-D and 26-connected in 3-D; below `smallest` dropped.

    `mask` is (K, J, I) or (J, I), so is `probability`: what nowhere reaches `peak` is dropped. Numbered in scan order,
    without gaps.
    """
    if mask.ndim == 3 and mask.shape[0] == 1:
        return label_components(mask[0], smallest, None if probability is None else probability[0], peak)[
            None
        ]
    labels = np.zeros(mask.shape, np.int32)
    box = _bounding_box(mask)
    if box is None:
        return labels
    part, count = ndimage.label(mask[box], np.ones((3,) * mask.ndim, np.int8))
    sizes = np.bincount(part.ravel(), minlength=count + 1)
    kept = sizes >= smallest
    if probability is not None:
        sure = np.zeros(count + 1, np.bool_)
        sure[part[probability[box] >= np.float32(peak)]] = True
        kept &= sure
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    np.take(numbers, part, out=labels[box])
    return labels


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    box: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        used = np.flatnonzero(mask.any(axis=others))
        if not used.size:
            return None
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)


def measure(
    labels: NDArray[np.int32],
    probability: NDArray[np.float32],
    image: Image,
    identity: Identity,
    refined: frozenset[int] = frozenset(),
    spread: NDArray[np.float32] | None = None,
) -> tuple[Lesion, ...]:
    """Lesions of one class from labels (K, J, I) and probabilities of the same shape, in scan order of their labels.

    `spread` is the standard deviation of the probabilities over the network's passes, where there were several.
    """
    spacing = image.grid.spacing if image.calibrated else (1.0, 1.0, 1.0)
    area = spacing[1] * spacing[2] if image.calibrated and not image.is_volume else None
    volume = image.grid.voxel_volume_mm3 / 1000 if image.calibrated and image.is_volume else None
    lesions = []
    boxes: Sequence[tuple[slice, ...] | None] = ndimage.find_objects(
        labels
    )  # None for a number that is not there
    for number, found in enumerate(boxes, 1):
        if found is None:
            continue
        own = labels[found] == number
        values = probability[found][own]
        count = int(own.sum())
        k, j, i = found
        box = (k.start, j.start, i.start, k.stop, j.stop, i.stop)
        long_axis, short_axis = axes(own, (spacing[1], spacing[2]))
        lesions.append(
            Lesion(
                class_id=identity.class_id,
                tracking_uid=_tracking_uid(image, identity, box, own),
                box=box,
                voxels=count,
                area_mm2=None if area is None else count * area,
                volume_ml=None if volume is None else count * volume,
                long_axis=long_axis,
                short_axis=short_axis,
                mean_probability=float(values.mean(dtype=np.float64)),
                max_probability=float(values.max()),
                uncertainty=None if spread is None else float(spread[found][own].mean(dtype=np.float64)),
                crf_refined=number in refined,
            )
        )
    return tuple(lesions)


def axes(own: NDArray[np.bool_], spacing: tuple[float, float]) -> tuple[float, float]:
    """Long and short axis of a component (k, j, i), in the unit of `spacing` (j, i)."""
    best = (0.0, 0.0)
    pixel = np.hypot(_DIRECTIONS[0] * spacing[0], _DIRECTIONS[1] * spacing[1])
    for plane in own:
        rows = np.flatnonzero(plane.any(axis=1))
        if not rows.size:
            continue
        # the extent of a set is that of its rows' ends
        first = plane[rows].argmax(axis=1)
        last = plane.shape[1] - 1 - plane[rows, ::-1].argmax(axis=1)
        points = np.stack(
            [np.concatenate([rows, rows]) * spacing[0], np.concatenate([first, last]) * spacing[1]], axis=1
        )
        along = points @ _DIRECTIONS
        extents = along.max(axis=0) - along.min(axis=0) + pixel
        longest = int(np.argmax(extents))
        if extents[longest] > best[0]:
            best = (float(extents[longest]), float(extents[(longest + _RIGHT_ANGLE) % len(_ANGLES)]))
    return best


def _tracking_uid(image: Image, identity: Identity, box: tuple[int, ...], own: NDArray[np.bool_]) -> str:
    shape = digest(np.packbits(own).tobytes())
    return uid_from(
        identity.uid_root,
        "lesion",
        image.study_uid,
        image.name,
        identity.bundle_id,
        identity.class_id,
        str(box),
        shape,
    )
