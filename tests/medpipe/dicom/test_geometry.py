"""A stack of planes becomes a volume only if it is one; every trap has its own reason."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medpipe.dicom.geometry import Plane, Tolerances, plane_of, stack
from medpipe.errors import Refused

TOLERANCES = Tolerances(minimum_slices=3, spacing=0.01, perpendicular=1e-3)
ORIENTATIONS = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "columns to the right": ((-1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": ((0.8, 0.6, 0), (-0.36, 0.48, 0.8)),
}


def planes(
    depths: list[float], orientation: str = "axial", shear: float = 0.0, size: tuple[int, int] = (4, 6)
) -> list[Plane]:
    row, column = (np.array(v, dtype=np.float64) for v in ORIENTATIONS[orientation])
    normal = np.cross(row, column)
    start = np.array([10.0, -20.0, 30.0])
    return [Plane(start + d * normal + shear * d * column, row, column, (0.7, 0.5), size) for d in depths]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_affine_takes_each_slice_to_its_own_position(orientation: str) -> None:
    shuffled = planes([6.0, 0.0, 3.0, 9.0], orientation)
    order, affine = stack(shuffled, TOLERANCES)
    assert order == [1, 2, 0, 3]
    for k, n in enumerate(order):
        np.testing.assert_allclose((affine @ [0, 0, k, 1])[:3], shuffled[n].position, atol=1e-9)
    row, column = shuffled[0].row_direction, shuffled[0].column_direction
    np.testing.assert_allclose(
        affine[:3, 0], row * 0.5
    )  # along a row the column spacing, not the row spacing
    np.testing.assert_allclose(affine[:3, 1], column * 0.7)


def reason(stacked: list[Plane]) -> str:
    with pytest.raises(Refused) as refused:
        stack(stacked, TOLERANCES)
    return refused.value.code


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (planes([0.0]), "GEOM_SINGLE_SLICE"),
        (planes([0.0, 3.0]), "GEOM_TOO_FEW_SLICES"),
        (planes([0.0, 3.0, 9.0, 12.0]), "GEOM_GAP"),
        (planes([0.0, 3.0, 7.0, 9.0]), "GEOM_UNEVEN"),
        (planes([0.0, 3.0, 3.0, 6.0]), "GEOM_DUPLICATE"),
        (planes([0.0, 3.0, 6.0], shear=0.2), "GEOM_TILT"),
        (planes([0.0, 3.0]) + planes([6.0, 9.0], "coronal"), "GEOM_MIXED_ORIENTATION"),
        (planes([0.0, 3.0]) + planes([6.0, 9.0], size=(4, 7)), "GEOM_MIXED_SIZE"),
    ],
)
def test_an_irregular_stack_is_refused_with_its_reason(made: list[Plane], code: str) -> None:
    assert reason(made) == code


def test_a_tilt_is_told_as_an_angle_and_a_shift() -> None:
    with pytest.raises(Refused, match=r"tilted by 11\.3 degrees: its last slice lies 1\.2 mm off"):
        stack(planes([0.0, 3.0, 6.0], shear=0.2), TOLERANCES)


def test_a_tilt_of_less_than_half_a_pixel_is_none() -> None:
    stack(planes([0.0, 3.0, 6.0], shear=0.02), TOLERANCES)


def header(**changes: object) -> NDArray[np.float64] | object:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    dataset.ImagePositionPatient = [0, 0, 0]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [1, 1]
    dataset.Rows = dataset.Columns = 4
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ImagePositionPatient": None}, "GEOM_MISSING"),
        ({"ImagePositionPatient": [0, 0]}, "GEOM_MISSING"),
        ({"PixelSpacing": [0, 1]}, "GEOM_MISSING"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, "GEOM_NOT_ORTHONORMAL"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, "GEOM_NOT_ORTHONORMAL"),
        ({"PixelSpacing": ["1e300", "1e300"]}, "GEOM_MISSING"),
        ({"PixelSpacing": ["0.0001", "1"]}, "GEOM_MISSING"),
        ({"ImagePositionPatient": ["0", "0", "1e150"]}, "GEOM_MISSING"),
    ],
)
def test_a_plane_without_sound_geometry_is_refused(changes: dict[str, object], code: str) -> None:
    with pytest.raises(Refused) as refused:
        plane_of(header(**changes))  # type: ignore[arg-type]
    assert refused.value.code == code


def test_slices_that_no_scanner_is_long_enough_for_are_refused() -> None:
    with pytest.raises(Refused) as refused:
        stack(planes([0.0, 1500.0, 3000.0]), TOLERANCES)
    assert refused.value.code == "GEOM_UNEVEN"
