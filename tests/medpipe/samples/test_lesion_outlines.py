"""The truth of a drawn fundus has the shape of what was drawn, not only its place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medpipe.samples.fundus import CLASSES, draw_fundus


@pytest.mark.parametrize("seed", [0, 3])
def test_the_picture_changes_where_the_truth_says_and_hardly_elsewhere(seed: int) -> None:
    """The same eye with and without lesions, smoothed against the camera's grain, which differs."""
    ill = draw_fundus(seed, 2144, 1424)
    well = draw_fundus(seed, 2144, 1424, lesions=False)
    change = ndimage.uniform_filter(ill.picture[..., 1].astype(np.float32) - well.picture[..., 1], 5)
    truth = ill.truth.any(axis=0)
    near = ndimage.binary_dilation(truth, iterations=8)
    changed = np.abs(change) > 6
    assert changed[truth].mean() > 0.97, "outlines hold what was drawn"
    assert changed[near & ~truth].mean() < 0.17, "and little else, close by"
    assert changed[~near].mean() < 0.001, "and nothing far away"
    for name, mask in zip(CLASSES, ill.truth, strict=True):
        alone = mask & (ill.truth.sum(axis=0) == 1)
        sign = -1 if name in ("MA", "HE") else 1
        assert (sign * change[alone] > 0).mean() > 0.9, name
