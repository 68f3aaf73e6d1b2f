"""The sliding window: blending, skipped windows, flips, progress."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.inference.preprocess import Prepared, WayBack
from medpipe.inference.window import average_over_flips, slide

MakeBundle = Callable[..., Bundle]


def prepared(array: NDArray[np.float32], inside: NDArray[np.bool_] | None = None) -> Prepared:
    shape = array.shape[1:]
    return Prepared(array, inside, WayBack(shape, working=shape))


@pytest.mark.parametrize("shape", [(1, 200, 170), (3, 64, 64), (1, 20, 500), (2, 65, 63)])
def test_blended_windows_give_back_what_each_saw(
    make_bundle: MakeBundle, brightness: Callable[..., Any], shape: tuple[int, int, int]
) -> None:
    array = np.random.default_rng(0).random((1, *shape)).astype(np.float32)
    out = slide(prepared(array), make_bundle(), brightness())
    assert out.shape == (1, *shape) and np.abs(out[0] - array[0]).max() < 1e-5


def test_a_volume_is_seen_in_blocks(make_bundle: MakeBundle, brightness: Callable[..., Any]) -> None:
    array = np.random.default_rng(0).random((1, 40, 70, 50)).astype(np.float32)
    out = slide(prepared(array), make_bundle(dims=3, window={"patch": [32, 32, 32]}), brightness())
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
    out = slide(prepared(array, inside), bundle, few)
    assert 0 < few.patches <= all_windows.patches / 4
    assert np.allclose(out[0][inside], 1) and not out[0][~inside].any()


def test_progress_grows_to_one(make_bundle: MakeBundle, brightness: Callable[..., Any]) -> None:
    told: list[float] = []
    array = np.zeros((1, 2, 150, 200), np.float32)
    slide(prepared(array), make_bundle(), brightness(), progress=told.append)
    assert told == sorted(told) and told[-1] == 1.0 and told[0] < 0.2


class LeftIsBright:
    """Knows left from right: half the probability of a pixel comes from its left neighbour."""

    name, precision, device, batch = "left", "f32", "cpu", 1

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray((batch + np.roll(batch, 1, axis=-1)) / 2)


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (1, 1, 8, 8, 8)])
def test_flips_average_out_a_preference_for_one_side(shape: tuple[int, ...]) -> None:
    impulse = np.zeros(shape, np.float32)
    impulse[(0, 0, *(n // 2 for n in shape[2:]))] = 1
    plain = LeftIsBright()(impulse)
    mean = average_over_flips(LeftIsBright(), impulse)
    middle = shape[-1] // 2
    line = tuple(n // 2 for n in shape[2:-1])
    assert plain[0, 0][line][middle - 1] == 0 and plain[0, 0][line][middle + 1] == 0.5
    share = (
        4 if len(shape) == 5 else 2
    )  # of a volume's four views one is mirrored along the last axis, of a picture's two
    assert mean[0, 0][line][middle - 1] == pytest.approx(0.5 / share)
    assert mean.sum() == pytest.approx(1)
