"""The frozen types refuse what is not sound, so that nobody has to check later."""

import numpy as np
import pytest

from medpipe.types import Grid, Image, Prediction, Provenance, SourceFrame

AFFINE = np.array([[0.5, 0, 0, -10], [0, 0.7, 0, 20], [0, 0, 3, 5], [0, 0, 0, 1]], dtype=np.float64)


def test_a_grid_takes_indices_to_the_patient() -> None:
    grid = Grid((4, 3, 2), AFFINE)
    np.testing.assert_allclose(grid.to_patient(np.array([2.0, 1.0, 4.0])), [-8.0, 20.7, 11.0])
    assert grid.spacing == pytest.approx((3.0, 0.7, 0.5))
    assert grid.voxel_volume_mm3 == pytest.approx(1.05)


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((0, 3, 2), AFFINE),
        ((4, 3, 2), AFFINE.astype(np.float32)),
        ((4, 3, 2), np.zeros((4, 4))),
        ((4, 3, 2), AFFINE * np.nan),
    ],
)
def test_an_unsound_grid_cannot_be_built(shape: tuple[int, int, int], affine: np.ndarray) -> None:
    with pytest.raises(ValueError, match="grid"):
        Grid(shape, affine)


def test_grids_compare_by_the_places_they_sample() -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 0.01
    assert Grid((4, 3, 2), AFFINE).same_as(Grid((4, 3, 2), AFFINE.copy()))
    assert not Grid((4, 3, 2), AFFINE).same_as(Grid((4, 3, 2), moved))


def image(slices: int = 1) -> Image:
    from pathlib import Path

    sources = tuple(SourceFrame(f"1.2.{k}", "1.2", None, Path("header")) for k in range(slices))
    grid = Grid((slices, 5, 6), np.eye(4), spatial=False)
    return Image(
        np.zeros((3, slices, 5, 6), np.uint8), grid, sources, "1", "2", "1.2.0", "OP", "RGB", calibrated=False
    )


def test_an_image_lies_on_its_grid_with_a_source_for_each_slice() -> None:
    good = image(2)
    with pytest.raises(ValueError, match="does not lie on grid"):
        Image(good.array[:, :1], good.grid, good.sources, "1", "2", "n", "OP", "RGB", calibrated=False)
    with pytest.raises(ValueError, match="1 sources for 2 slices"):
        Image(good.array, good.grid, good.sources[:1], "1", "2", "n", "OP", "RGB", calibrated=False)


def test_a_prediction_covers_its_image() -> None:
    provenance = Provenance("b", "1", "h", "w", "0", "torch", "f32", False, {}, {}, {}, "d")
    with pytest.raises(ValueError, match="is not bool"):
        Prediction(image(), ("MA",), np.zeros((1, 1, 5, 5), np.bool_), None, (), provenance)
    sound = Prediction(image(), ("MA", "HE"), np.zeros((2, 1, 5, 6), np.bool_), None, (), provenance)
    assert sound.counts() == {"MA": 0, "HE": 0}
