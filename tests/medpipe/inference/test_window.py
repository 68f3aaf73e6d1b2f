"""The sliding window: blending, skipped windows, flips, progress."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.inference.preprocess import Prepared, WayBack
from medpipe.inference.window import slide

MakeBundle = Callable[..., Bundle]


def prepared(array: NDArray[np.float32], inside: NDArray[np.bool_] | None = None) -> Prepared:
    shape = array.shape[1:]
    return Prepared(array, inside, WayBack(shape, working=shape))


@pytest.mark.parametrize("shape", [(1, 200, 170), (3, 64, 64), (1, 20, 500), (2, 65, 63)])
def test_blended_windows_give_back_what_each_saw(
    make_bundle: MakeBundle, brightness: Callable[..., Any], shape: tuple[int, int, int]
) -> None:
    array = np.random.default_rng(0).random((1, *shape)).astype(np.float32)
    out = slide(prepared(array), make_bundle(), brightness()).probability
    assert out.shape == (1, *shape) and np.abs(out[0] - array[0]).max() < 1e-5


def test_a_volume_is_seen_in_blocks(make_bundle: MakeBundle, brightness: Callable[..., Any]) -> None:
    array = np.random.default_rng(0).random((1, 40, 70, 50)).astype(np.float32)
    bundle = make_bundle(dims=3, window={"patch": [32, 32, 32]})
    out = slide(prepared(array), bundle, brightness()).probability
    assert np.abs(out[0] - array[0]).max() < 1e-5


def test_windows_without_field_are_not_computed(
    make_bundle: MakeBundle, brightness: Callable[..., Any]
) -> None:
    array = np.ones((3, 1, 256, 256), np.float32)
    inside = np.zeros((1, 256, 256), bool)
    inside[0, 100:120, 100:120] = True
    all_windows, few = brightness(), brightness()
    bundle = make_bundle(channels=3)
    slide(prepared(array), bundle, all_windows)
    out = slide(prepared(array, inside), bundle, few).probability
    assert 0 < few.patches <= all_windows.patches / 4
    assert np.allclose(out[0][inside], 1) and not out[0][~inside].any()


def test_progress_grows_to_one(make_bundle: MakeBundle, brightness: Callable[..., Any]) -> None:
    told: list[float] = []
    array = np.zeros((1, 2, 150, 200), np.float32)
    slide(prepared(array), make_bundle(), brightness(), progress=told.append)
    assert told == sorted(told) and told[-1] == 1.0 and told[0] < 0.2


class LeftIsBright:
    """Knows left from right: half the probability of a pixel comes from its left neighbour."""

    name, precision, device, batch = "left", "f32", "cpu", 2

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        one = batch[:, :1]
        return np.asarray((one + np.roll(one, 1, axis=-1)) / 2)


@pytest.mark.parametrize(("padding", "beyond"), [("edge", 1.0), ("zero", 0.0), ("black", -1.5)])
def test_a_picture_smaller_than_the_patch_is_surrounded_as_its_network_learned(
    make_bundle: MakeBundle, padding: str, beyond: float
) -> None:
    seen: list[NDArray[np.float32]] = []

    class Watching(LeftIsBright):
        def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            seen.append(batch)
            return batch

    normalise = {"kind": "mean-std", "mean": [0.3], "std": [0.2]}
    bundle = make_bundle(window={"patch": [64, 64], "padding": padding}, normalise=normalise)
    out = slide(prepared(np.ones((1, 1, 64, 40), np.float32)), bundle, Watching()).probability
    assert out.shape == (1, 1, 64, 40) and np.allclose(out, 1)
    assert seen[0].shape == (1, 1, 64, 64) and np.allclose(seen[0][0, 0, :, [0, -1]], beyond)


def test_asked_once_there_is_no_spread(make_bundle: MakeBundle, brightness: Callable[..., Any]) -> None:
    array = np.ones((1, 1, 80, 90), np.float32)
    assert slide(prepared(array), make_bundle(), brightness()).spread is None


@pytest.mark.parametrize("dims", [2, 3])
def test_the_spread_is_nothing_where_all_passes_agree(
    make_bundle: MakeBundle, brightness: Callable[..., Any], dims: int
) -> None:
    """Also in the overlap of windows, and whatever the rounding."""
    array = np.random.default_rng(0).random((1, 3, 150, 130)).astype(np.float32)
    bundle = make_bundle(dims=dims, window={"patch": [16, 64, 64][-dims:]})
    seen = slide(prepared(array), bundle, brightness(), tta=True)
    assert seen.spread is not None and not seen.spread.any()
    assert np.abs(seen.probability - array).max() < 1e-5


def test_the_spread_lies_where_views_differ_and_nowhere_outside_the_field(make_bundle: MakeBundle) -> None:
    array = np.zeros((3, 1, 128, 128), np.float32)
    array[:, :, 60:70, 60:70] = 1
    inside = np.zeros((1, 128, 128), bool)
    inside[:, :, :66] = True
    seen = slide(prepared(array, inside), make_bundle(channels=3), LeftIsBright(), tta=True)
    assert seen.spread is not None
    # at the square's left edge half the views say 1/2 and half 1
    assert seen.spread[0, 0, 65, 60] == pytest.approx(0.25, abs=1e-6)
    assert seen.spread[0, 0, 65, 66] == pytest.approx(0, abs=1e-6)
    assert not seen.spread[0][~inside].any()
