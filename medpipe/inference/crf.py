"""The guarded conditional random field: it may move a lesion's boundary, it may not decide about the lesion.

Fully connected CRF (Kraehenbuehl and Koltun 2011) through `pydensecrf`, on merged crops around components. Unguarded
it erases small lesions; so here a component changes only within a band around its own boundary, never touches a
neighbour, small ones are left alone, and one that was confident can neither vanish nor lose most of itself.

The time budget is counted in work (pixels x iterations at a fixed, calibrated rate), largest components first, so the
same input gives the same bytes on any machine and under any load; a slow machine takes longer than the budget says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.bundle import CrfSpec
from medpipe.errors import ConfigError

PROBABILITY_FLOOR = 1e-5
"""Probabilities are clipped to floor..1 - floor: an infinite unary would make a pixel immovable."""
WORK_PER_SECOND = 20e6
"""Units of work that one second of the budget buys; a pixel costs (10 + iterations) units per kernel."""
WORK_PER_PIXEL = 10
WORK_PER_COMPONENT = 20_000

Box = tuple[slice, ...]
Values = Callable[[Box], NDArray[np.float32]]
"""Box of the grid -> the picture's values there, float32 (channels, ...), 0..255."""


@dataclass(frozen=True)
class Kernel:
    """One pairwise term: spatial sigma in px (2-D) or mm (3-D), colour sigma in grey values or None, weight."""

    sxy: float
    srgb: float | None
    compat: float


SEED_KERNELS = (Kernel(3.0, None, 3.0), Kernel(20.0, 10.0, 10.0))
SEED_ITERATIONS = 5
"""The unguarded setting of the literature."""


@dataclass(frozen=True)
class Refinement:
    """Labels of the components that the CRF was run on, how many the budget left alone, and the work in seconds."""

    refined: frozenset[int]
    unrefined: int
    seconds: float


def unary_energy(probability: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Unary potentials -log p, class first: float32 (2, voxels), C-contiguous; row 0 is background.

    The odds are divided by those of the class's threshold, so that without pairwise terms the CRF decides exactly as
    the threshold does.
    """
    p = np.clip(probability.ravel().astype(np.float64), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    odds = p / (1 - p) * ((1 - threshold) / threshold)
    lesion = np.clip(odds / (1 + odds), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return np.ascontiguousarray(np.stack([-np.log1p(-lesion), -np.log(lesion)]), dtype=np.float32)


def infer(
    probability: NDArray[np.float32],
    values: NDArray[np.float32],
    kernels: tuple[Kernel, ...],
    iterations: int,
    threshold: float,
    spacing: tuple[float, ...],
) -> NDArray[np.bool_]:
    """The CRF's own decision over one crop of any dimension; `values` (channels, *crop) 0..255."""
    densecrf = _densecrf()
    field = densecrf.DenseCRF(probability.size, 2)
    field.setUnaryEnergy(unary_energy(probability, threshold))
    axes = np.indices(probability.shape, dtype=np.float32).reshape(probability.ndim, -1)
    places = axes * np.asarray(spacing, np.float32)[:, None]
    for kernel in kernels:
        parts = [places / np.float32(kernel.sxy)]
        if kernel.srgb is not None:
            parts.append(values.reshape(values.shape[0], -1) / np.float32(kernel.srgb))
        features = np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)
        field.addPairwiseEnergy(
            features,
            compat=kernel.compat,
            kernel=densecrf.DIAG_KERNEL,
            normalization=densecrf.NORMALIZE_SYMMETRIC,
        )
    beliefs = np.asarray(field.inference(iterations))
    return np.asarray((beliefs[1] > beliefs[0]).reshape(probability.shape))


def refine_unguarded(
    probability: NDArray[np.float32], values: Values, threshold: float, spacing: tuple[float, ...]
) -> NDArray[np.bool_]:
    """The seed setting over everything at once: for comparison only (memory about 200 bytes a pixel)."""
    everything = tuple(slice(0, n) for n in probability.shape)
    return infer(probability, values(everything), SEED_KERNELS, SEED_ITERATIONS, threshold, spacing)


def refine(
    labels: NDArray[np.int32],
    probability: NDArray[np.float32],
    values: Values,
    spec: CrfSpec,
    *,
    threshold: float,
    smallest: int,
    spacing: tuple[float, ...],
    budget: float,
    forbidden: NDArray[np.bool_] | None = None,
) -> Refinement:
    """Moves the boundaries of labelled components (1..n, 0 background) of one class, in place; never adds or joins any.

    `spacing` is the size of a pixel along each axis in the unit of the bundle's distances (1 for pictures, mm for
    volumes); `budget` is in seconds of work. `smallest` is the class's: what shrinks below it is left as it was where
    it was confident and dropped where it was not. Nothing grows into what is `forbidden`.
    """
    boxes = ndimage.find_objects(labels)
    counts = np.bincount(labels.ravel(), minlength=len(boxes) + 1)
    candidates = [n for n, box in enumerate(boxes, 1) if box is not None and counts[n] >= spec.smallest]
    groups: dict[int, list[int]] = {}
    for n in candidates:
        groups.setdefault(_octave(int(counts[n]), spacing), []).append(n)
    refined: set[int] = set()
    spent = 0.0
    for octave in sorted(groups, reverse=True):
        kernels = _kernels(2.0 ** (octave + 0.5), spec)
        # beyond it little is said about the band
        margin = max(spec.band + kernels[0].sxy, _seen(spec, spacing))
        crops = [_grown(boxes[n - 1], margin, spacing, labels.shape) for n in groups[octave]]
        for crop, members in _merged(crops, groups[octave]):
            pixels = math.prod(s.stop - s.start for s in crop)
            work = pixels * len(kernels) * (WORK_PER_PIXEL + spec.iterations) + WORK_PER_COMPONENT * len(
                members
            )
            if (spent + work) / WORK_PER_SECOND > budget:
                continue
            spent += work
            decided = infer(probability[crop], values(crop), kernels, spec.iterations, threshold, spacing)
            for n in members:
                _guard(
                    n, boxes[n - 1], crop, labels, probability, decided, spec, smallest, spacing, forbidden
                )
                refined.add(n)
    return Refinement(frozenset(refined), len(candidates) - len(refined), spent / WORK_PER_SECOND)


def _seen(spec: CrfSpec, spacing: tuple[float, ...]) -> float:
    """How far around a component is looked: by the band in which it may grow, and whom it would touch then."""
    return spec.band + max(spacing)


def _kernels(diameter: float, spec: CrfSpec) -> tuple[Kernel, ...]:
    sxy = float(np.clip(diameter * spec.bilateral_diameters, *spec.bilateral_sxy))
    bilateral = Kernel(sxy, spec.bilateral_srgb, spec.bilateral_compat)
    gaussian = Kernel(spec.gaussian_sxy, None, spec.gaussian_compat)
    return (bilateral, gaussian) if spec.gaussian_compat else (bilateral,)


def _octave(count: int, spacing: tuple[float, ...]) -> int:
    """Which power of two the diameter of the disc (ball) of this many pixels (voxels) lies above."""
    size = count * math.prod(spacing)
    diameter = 2 * math.sqrt(size / math.pi) if len(spacing) == 2 else (6 * size / math.pi) ** (1 / 3)
    return math.floor(math.log2(diameter))


def _grown(box: Box, margin: float, spacing: tuple[float, ...], shape: tuple[int, ...]) -> Box:
    steps = [math.ceil(margin / size) for size in spacing]
    return tuple(
        slice(max(0, s.start - step), min(n, s.stop + step))
        for s, step, n in zip(box, steps, shape, strict=True)
    )


def _merged(crops: list[Box], members: list[int]) -> list[tuple[Box, list[int]]]:
    """Joins crops whose common box is no larger than they are together; gives the labels that each crop serves."""
    low = np.array([[s.start for s in crop] for crop in crops])
    high = np.array([[s.stop for s in crop] for crop in crops])
    owned = [[n] for n in members]
    current = 0
    while current < len(owned):
        union_low, union_high = np.minimum(low, low[current]), np.maximum(high, high[current])
        volumes = (high - low).prod(axis=1)
        gain = volumes + volumes[current] - (union_high - union_low).prod(axis=1)
        gain[: current + 1] = -1
        other = int(np.argmax(gain))
        if gain[other] < 0:
            current += 1
            continue
        low[current], high[current] = union_low[other], union_high[other]
        owned[current] += owned.pop(other)
        low, high = np.delete(low, other, axis=0), np.delete(high, other, axis=0)
        current = 0  # the larger box may now swallow an earlier one
    return [
        (tuple(slice(int(a), int(b)) for a, b in zip(low[n], high[n], strict=True)), owned[n])
        for n in range(len(owned))
    ]


def _guard(
    label: int,
    box: Box,
    crop: Box,
    labels: NDArray[np.int32],
    probability: NDArray[np.float32],
    decided: NDArray[np.bool_],
    spec: CrfSpec,
    smallest: int,
    spacing: tuple[float, ...],
    forbidden: NDArray[np.bool_] | None,
) -> None:
    """Takes over what the CRF decided for one component as far as the guard allows, in `labels`."""
    local = _grown(box, _seen(spec, spacing), spacing, labels.shape)
    here, wanted = labels[local], decided[tuple(
        slice(s.start - c.start, s.stop - c.start) for s, c in zip(local, crop, strict=True)
    )]  # fmt: skip
    touching = np.ones((3,) * here.ndim, bool)
    own = here == label
    taken = ndimage.binary_dilation((here != 0) & ~own, touching)
    if forbidden is not None:
        taken |= forbidden[local]
    core = own & (_distance_inside(own, spacing) > spec.band)
    near = ndimage.distance_transform_edt(~own, sampling=spacing) <= spec.band
    new = core | (own & wanted) | (wanted & near & ~own & ~taken)
    pieces, count = ndimage.label(new, touching)
    if count > 1:
        new = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    confident = float(probability[local][own].mean()) >= spec.confident
    kept = int((new & own).sum()) / int(own.sum())
    if (core & ~new).any() or (confident and (kept < spec.keep or new.sum() < smallest)):
        return
    here[own & ~new] = 0
    if new.sum() >= smallest:
        here[new] = label
    else:
        here[own] = 0


def _distance_inside(own: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Distance to the nearest pixel that is not the component's; beyond the picture's border counts as its own."""
    if own.all():
        return np.full(own.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(own, sampling=spacing))


def _densecrf() -> Any:
    try:
        import pydensecrf.densecrf as densecrf
    except ImportError as error:
        raise ConfigError(
            "the CRF needs the package pydensecrf2 (import name pydensecrf; built with g++, Python below 3.13): "
            "install it, or set crf = false for the bundle's classes"
        ) from error
    return densecrf
