"""Mirrored views and members of an ensemble: their mean, how far they differ, and a bundle that holds several."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from medpipe.bundle import SHIPPED, Bundle, load_bundle
from medpipe.inference import load_backend
from medpipe.inference.passes import AS_IT_IS, Ensemble, mean_and_spread, members_of, mirrored_views


class Says:
    """A network that says one probability everywhere."""

    name, precision, device, batch = "says", "f32", "cpu", 2

    def __init__(self, value: float) -> None:
        self.value = np.float32(value)

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full(batch.shape, self.value)


class LeftIsBright(Says):
    """Half the probability of a pixel comes from its left neighbour."""

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray((batch + np.roll(batch, 1, axis=-1)) / 2)


@pytest.mark.parametrize(("shape", "share"), [((1, 1, 16, 16), 2), ((1, 1, 8, 8, 8), 4)])
def test_flips_average_out_a_preference_for_one_side(shape: tuple[int, ...], share: int) -> None:
    """Of a picture's four views two are mirrored along the last axis, of a volume's four one."""
    impulse = np.zeros(shape, np.float32)
    middle = tuple(n // 2 for n in shape[2:])
    impulse[(0, 0, *middle)] = 1
    views = mirrored_views(len(middle), ("K", "J", "I")[-len(middle) :])
    mean, spread = mean_and_spread(LeftIsBright(0), impulse, views)
    line = mean[0, 0][middle[:-1]]
    assert line[middle[-1] - 1] == pytest.approx(0.5 / share)
    assert mean.sum() == pytest.approx(1)
    answers = [0.5] + [0.0] * (share - 1)
    assert spread[0, 0][middle[:-1]][middle[-1] - 1] == pytest.approx(float(np.std(answers)))
    assert spread[(0, 0, *middle)] == 0, "every view says 1/2 there"


def test_an_ensemble_says_the_mean_and_how_far_its_members_differ() -> None:
    patches = np.zeros((2, 1, 4, 4), np.float32)
    says = (0.1, 0.1, 0.9, 0.7)
    ensemble = Ensemble(tuple(Says(value) for value in says))
    assert ensemble(patches) == pytest.approx(np.full(patches.shape, np.mean(says)))
    for views in (AS_IT_IS, mirrored_views(2, ("J", "I"))):
        mean, spread = mean_and_spread(ensemble, patches, views)
        assert mean == pytest.approx(np.full(patches.shape, np.mean(says)))
        assert spread == pytest.approx(np.full(patches.shape, np.std(says)), abs=1e-6)


def test_members_that_agree_leave_no_doubt_at_all() -> None:
    patches = np.zeros((1, 1, 4, 4), np.float32)
    assert not mean_and_spread(Ensemble((Says(0.3),) * 3), patches, mirrored_views(2, ("J", "I")))[1].any()


def test_only_the_named_axes_are_mirrored() -> None:
    """An ultrasound picture turned upside down is none that a network knows."""
    assert mirrored_views(2, ("I",)) == ((), (-1,))
    assert mirrored_views(2, ("J", "I")) == ((), (-2,), (-1,), (-2, -1))
    assert mirrored_views(3, ("I",)) == ((), (-1,))
    assert mirrored_views(3, ("K", "J", "I")) == ((), (-3,), (-2,), (-1,))


@pytest.fixture
def three(tmp_path: Path) -> Bundle:
    """The 2-D test bundle with two more members that mark from a brighter, and a darker, level on."""
    folder = Path(shutil.copytree(SHIPPED / "phantom-2d", tmp_path / "phantom-2d"))
    weights = load_file(folder / "model.safetensors")
    for number, shift in enumerate((-2.0, 1.0), 1):
        moved = {**weights, "compare.bias": weights["compare.bias"] + shift}
        save_file(moved, folder / f"model-{number}.safetensors")
    text = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(text.replace('name = "phantom"', 'name = "phantom"\nmembers = 3'))
    return load_bundle(folder)


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_a_bundle_of_three_networks_says_the_mean_of_theirs(three: Bundle, kind: str, tmp_path: Path) -> None:
    patch = np.random.default_rng(0).random((1, 3, 256, 256)).astype(np.float32)
    backend = load_backend(three, "cpu", kind, cache=tmp_path)
    single = dataclasses.replace(three, member_weights=())
    alone = [
        load_backend(
            dataclasses.replace(single, weights=path, weights_sha256=sha), "cpu", kind, cache=tmp_path
        )(patch)
        for path, sha in three.member_weights
    ]
    assert len(members_of(backend)) == 3 and backend.name.endswith("3 networks")
    assert not np.allclose(alone[0], alone[1], atol=0.01)
    assert np.abs(backend(patch) - np.mean(alone, axis=0)).max() < 1e-6
