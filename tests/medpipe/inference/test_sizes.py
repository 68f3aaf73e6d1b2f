"""One picture at several sizes: which class takes which answers, where they meet, and how far they differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.inference import predict
from medpipe.inference.sizes import prepare_finest, see, sizes_of
from medpipe.types import Image

MakeImage = Callable[..., Image]
MakeBundle = Callable[..., Bundle]
FIT: dict[str, Any] = {"working_size": [64, 64], "scale": "fit", "window": {"patch": [256, 256]}}


class LessEachTime:
    """Takes brightness for probability: all of it of the first patch it sees, then a half, then a third."""

    name, precision, device, batch = "less", "f32", "cpu", 1

    def __init__(self, classes: int) -> None:
        self.classes, self.shapes = classes, list[tuple[int, ...]]()

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.shapes.append(batch.shape)
        return np.asarray(np.repeat(batch[:, :1], self.classes, axis=1) / np.float32(len(self.shapes)))


@pytest.fixture
def square(make_image: MakeImage) -> Image:
    """96 x 128 pixels, in which rows 30 to 60 and columns 40 to 80 are white."""
    array = np.zeros((1, 1, 96, 128), np.uint8)
    array[0, 0, 30:60, 40:80] = 255
    return make_image(array)


def test_each_class_takes_the_mean_of_its_own_sizes_on_the_finest_grid(
    square: Image, make_bundle: MakeBundle
) -> None:
    classes: tuple[dict[str, Any], ...] = ({"scales": [1.0, 2.0]}, {"scales": [1.0, 0.5]}, {"scales": [2.0]})
    bundle = make_bundle(classes=classes, **FIT)
    assert sizes_of(bundle) == (2.0, 1.0, 0.5)
    finest = prepare_finest(square, bundle)
    assert finest.way_back.working == (1, 96, 128), "two working sizes are the picture itself here"
    answers = see(square, finest, bundle, LessEachTime(3), tta=False, progress=lambda part: None)
    inside = answers.probability[:, 0, 38:52, 50:70]  # away from edges, which a coarser grid softens
    assert inside[0] == pytest.approx((1 + 1 / 2) / 2), "the first two sizes"
    assert inside[1] == pytest.approx((1 / 2 + 1 / 3) / 2), "the last two"
    assert inside[2] == pytest.approx(1), "the first alone"
    assert not answers.probability[:, 0, :20].any()
    first, second, third = answers.spreads
    assert first is not None and second is not None and third is None
    assert first[0, 38:52, 50:70] == pytest.approx(np.std([1, 1 / 2]))
    assert second[0, 38:52, 50:70] == pytest.approx(np.std([1 / 2, 1 / 3]), abs=1e-6)
    assert not first[0, :20].any()


def test_mirrored_views_are_of_the_working_size_and_sizes_count_alike(
    square: Image, make_bundle: MakeBundle
) -> None:
    """The larger size says all of the brightness; the working size a half of it, and mirrored a third."""
    window = {"patch": [256, 256], "mirrored": ["I"]}
    bundle = make_bundle(classes=({"scales": [1.0, 2.0]},), **{**FIT, "window": window})
    network, told = LessEachTime(1), list[float]()
    finest = prepare_finest(square, bundle)
    answers = see(square, finest, bundle, network, tta=True, progress=told.append)
    assert len(network.shapes) == 3 and told == pytest.approx([4 / 6, 1])
    working = np.array([1 / 2, 1 / 3])
    assert answers.probability[0, 0, 38:52, 50:70] == pytest.approx((1 + working.mean()) / 2)
    expected = np.sqrt(working.var() / 2 + np.var([1, working.mean()]))
    assert answers.spreads[0] is not None
    assert answers.spreads[0][0, 38:52, 50:70] == pytest.approx(expected, abs=1e-6)


def test_progress_goes_on_from_size_to_size(square: Image, make_bundle: MakeBundle) -> None:
    told: list[float] = []
    bundle = make_bundle(classes=({"scales": [0.5, 1.0, 2.0]},), **FIT)
    see(square, prepare_finest(square, bundle), bundle, LessEachTime(1), tta=False, progress=told.append)
    assert told == pytest.approx([4 / 5.25, 5 / 5.25, 1])


def test_only_a_class_that_was_seen_twice_is_uncertain(
    square: Image, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(classes=({"scales": [1.0, 2.0]}, {"scales": [2.0]}), **FIT)
    done = predict(square, bundle, LessEachTime(2), tmp_path)
    assert [lesion.class_id for lesion in done.lesions] == ["C0", "C1"]
    twice, once = done.lesions
    assert twice.uncertainty == pytest.approx(1 / 4, abs=0.02) and once.uncertainty is None
    assert once.voxels == 30 * 40, "at its own size the square is what it is"
