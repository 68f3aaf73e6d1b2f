"""Positions and orientations of a series -> a regular stack, or the reason why it is none (PS3.3 C.7.6.2).

highdicom's `get_volume_positions` is the judge of regularity; around it stand our own checks, because a person wants
the reason and because it accepts some stacks that a volume must not be made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medpipe.errors import ReasonCode, Refused

_ORIENTATION_TOLERANCE = 1e-4
_UNIT_TOLERANCE = 1e-3
_SAME_POSITION_MM = 1e-3
_POSSIBLE_SPACING_MM = (1e-3, 1e3)
"""Between pixels and between slices. What lies beyond is a slip or an attack, and would overflow further on."""
_FURTHEST_MM = 1e6


@dataclass(frozen=True)
class Tolerances:
    """Of the regularity check: minimum slices, spacing (relative), perpendicularity (1 - cosine)."""

    minimum_slices: int
    spacing: float
    perpendicular: float


@dataclass(frozen=True, eq=False)
class Plane:
    """Where one slice lies: position of the first pixel (mm), row and column direction, spacing (row, column) in mm."""

    position: NDArray[np.float64]
    row_direction: NDArray[np.float64]
    column_direction: NDArray[np.float64]
    spacing: tuple[float, float]
    size: tuple[int, int]

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.row_direction, self.column_direction)


def plane_of(header: Dataset) -> Plane:
    """The plane of a single-frame image. Raises Refused(GEOM_MISSING | GEOM_NOT_ORTHONORMAL)."""
    position = _numbers(header, "ImagePositionPatient", 3)
    orientation = _numbers(header, "ImageOrientationPatient", 6)
    spacing = _numbers(header, "PixelSpacing", 2)
    row, column = orientation[:3], orientation[3:]
    lengths = (float(np.linalg.norm(row)), float(np.linalg.norm(column)))
    if (
        max(abs(length - 1) for length in lengths) > _UNIT_TOLERANCE
        or abs(float(row @ column)) > _UNIT_TOLERANCE
    ):
        raise Refused(
            ReasonCode.GEOM_NOT_ORTHONORMAL,
            "ImageOrientationPatient is no pair of unit vectors at right angles",
        )
    low, high = _POSSIBLE_SPACING_MM
    if min(spacing) < low or max(spacing) > high:
        raise Refused(ReasonCode.GEOM_MISSING, f"PixelSpacing is not between {low:g} and {high:g} mm")
    if np.abs(position).max() > _FURTHEST_MM:
        raise Refused(ReasonCode.GEOM_MISSING, "ImagePositionPatient lies more than a kilometre away")
    return Plane(
        position,
        row,
        column,
        (float(spacing[0]), float(spacing[1])),
        (int(header.get("Rows") or 0), int(header.get("Columns") or 0)),
    )


def stack(planes: Sequence[Plane], tolerances: Tolerances) -> tuple[list[int], NDArray[np.float64]]:
    """Order of the slices along the normal, and the affine (index i, j, k -> LPS mm) of the stacked volume.

    Raises Refused with the reason why these planes are no regular stack. Never sorts by anything but position.
    """
    if len(planes) == 1:
        raise Refused(ReasonCode.GEOM_SINGLE_SLICE, "the series has one slice")
    first = planes[0]
    for plane in planes[1:]:
        if not _same_orientation(plane, first):
            raise Refused(ReasonCode.GEOM_MIXED_ORIENTATION, "the slices of the series differ in orientation")
    for plane in planes[1:]:
        if plane.size != first.size or not np.allclose(plane.spacing, first.spacing, rtol=1e-4, atol=1e-6):
            raise Refused(
                ReasonCode.GEOM_MIXED_SIZE, "the slices of the series differ in size or pixel spacing"
            )
    normal = first.normal / np.linalg.norm(first.normal)
    depth = np.array([float(normal @ plane.position) for plane in planes])
    order = [int(n) for n in np.argsort(depth, kind="stable")]
    steps = np.diff(depth[order])
    if (steps < _SAME_POSITION_MM).any():
        several = int((steps < _SAME_POSITION_MM).sum())
        raise Refused(
            ReasonCode.GEOM_DUPLICATE, f"{several} of {len(planes)} slices lie where another one lies"
        )
    if len(planes) < tolerances.minimum_slices:
        raise Refused(
            ReasonCode.GEOM_TOO_FEW_SLICES, f"{len(planes)} slices are fewer than {tolerances.minimum_slices}"
        )
    _check_tilt(planes, order, normal, first)
    _check_steps(steps, tolerances)
    _ask_the_judge([planes[n] for n in order], tolerances)
    start, end = planes[order[0]].position, planes[order[-1]].position
    affine = np.eye(4)
    affine[:3, 0] = first.row_direction * first.spacing[1]
    affine[:3, 1] = first.column_direction * first.spacing[0]
    affine[:3, 2] = (end - start) / (len(planes) - 1)
    affine[:3, 3] = start
    return order, affine


def _numbers(header: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    value = header.get(keyword)
    try:
        numbers = np.array([float(item) for item in value], dtype=np.float64)
    except (TypeError, ValueError):
        raise Refused(ReasonCode.GEOM_MISSING, f"{keyword} is missing or not a list of numbers") from None
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise Refused(ReasonCode.GEOM_MISSING, f"{keyword} has not {count} finite numbers")
    return numbers


def _same_orientation(one: Plane, other: Plane) -> bool:
    return bool(
        np.allclose(one.row_direction, other.row_direction, atol=_ORIENTATION_TOLERANCE, rtol=0)
        and np.allclose(one.column_direction, other.column_direction, atol=_ORIENTATION_TOLERANCE, rtol=0)
    )


def _check_tilt(
    planes: Sequence[Plane], order: Sequence[int], normal: NDArray[np.float64], first: Plane
) -> None:
    """The line through first and last position against the normal, judged by the shift it causes: half a pixel."""
    along = planes[order[-1]].position - planes[order[0]].position
    aside = along - (along @ normal) * normal
    shift = float(np.linalg.norm(aside))
    if shift > 0.5 * min(first.spacing):
        angle = float(np.degrees(np.arctan2(shift, abs(along @ normal))))
        raise Refused(
            ReasonCode.GEOM_TILT,
            f"the stack is tilted by {angle:.1f} degrees: its last slice lies {shift:.1f} mm off its first one's axis",
        )


def _check_steps(steps: NDArray[np.float64], tolerances: Tolerances) -> None:
    usual = float(np.median(steps))
    if steps.max() > _POSSIBLE_SPACING_MM[1]:
        raise Refused(
            ReasonCode.GEOM_UNEVEN, f"two slices lie more than {_POSSIBLE_SPACING_MM[1]:g} mm apart"
        )
    off = np.abs(steps - usual) > tolerances.spacing * usual
    if not off.any():
        return
    multiples = steps[off] / usual
    whole = np.round(multiples)
    detail = f"distances between slices are {steps.min():.3f} to {steps.max():.3f} mm"
    if (whole >= 2).all() and (np.abs(multiples - whole) <= 2 * tolerances.spacing * whole).all():
        raise Refused(ReasonCode.GEOM_GAP, f"{_slices(int((whole - 1).sum()))} missing: {detail}")
    raise Refused(ReasonCode.GEOM_UNEVEN, detail)


def _slices(count: int) -> str:
    return "1 slice is" if count == 1 else f"{count} slices are"


def _ask_the_judge(planes: Sequence[Plane], tolerances: Tolerances) -> None:
    from highdicom.spatial import get_volume_positions

    spacing, _ = get_volume_positions(
        [plane.position.tolist() for plane in planes],
        [*planes[0].row_direction.tolist(), *planes[0].column_direction.tolist()],
        rtol=tolerances.spacing,
        perpendicular_tol=tolerances.perpendicular,
    )
    if spacing is None:
        raise Refused(ReasonCode.GEOM_UNEVEN, "the slices are not evenly and perpendicularly stacked")
