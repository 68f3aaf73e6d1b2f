"""Reliability and calibration error, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medpipe.training.calibration import Calibration, doubtful


def test_the_error_of_eight_pixels_by_hand() -> None:
    """Half of the pixels say .25 and are true half of the time, half say .85 and are too: (.25 + .35) / 2, not .05."""
    said = np.array([0.25] * 4 + [0.85] * 4, np.float32)
    truth = np.array([1, 1, 0, 0, 1, 1, 0, 0], np.bool_)
    counted = Calibration()
    counted.add(said, truth)
    assert counted.error == pytest.approx((0.25 + 0.35) / 2)
    assert counted.pixels.tolist() == [0, 0, 4, 0, 0, 0, 0, 0, 4, 0]
    assert counted.said[[2, 8]].tolist() == pytest.approx([0.25, 0.85])
    assert counted.seen[[2, 8]].tolist() == pytest.approx([0.5, 0.5])
    assert np.isnan(counted.said[0])


def test_errors_within_a_bin_cancel() -> None:
    """.12 and .18 with a true share of .15 is one bin of no error: the binning is part of the figure."""
    counted = Calibration()
    counted.add(np.array([0.12, 0.18] * 10, np.float32), np.arange(20) < 3)
    assert counted.error == pytest.approx(0, abs=1e-7)


def test_pictures_add_up_and_certainty_has_a_bin() -> None:
    counted = Calibration()
    counted.add(np.array([[1.0]], np.float16), np.array([[True]]))
    counted.add(np.array([[0.0]], np.float16), np.array([[False]]))
    assert counted.pixels[[0, -1]].tolist() == [1, 1]
    assert counted.error == 0
    assert Calibration().error is None


def test_doubtful_pixels_are_likely_or_true() -> None:
    said = np.array([0.0, 0.005, 0.01, 0.6, 0.0], np.float16)
    truth = np.array([0, 0, 0, 0, 1], np.bool_)
    assert doubtful(said, truth).tolist() == [False, False, True, True, True]
