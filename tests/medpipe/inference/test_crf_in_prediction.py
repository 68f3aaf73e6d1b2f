"""The CRF within a prediction: which classes use it, what it may not mark, and what its budget leaves out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.inference import predict, with_crf
from medpipe.types import Image
from tests.medpipe.inference.conftest import A, B, spots

MakeImage = Callable[..., Image]
MakeBundle = Callable[..., Bundle]


def test_the_crf_is_used_where_the_class_says_so_and_is_on_record(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    image = make_image(spots((1, 151, 203), A, B))
    bundle = make_bundle(classes=({"crf": True}, {"threshold": 0.7}), crf={"smallest": 100})
    done = predict(image, bundle, brightness(2), tmp_path)
    assert [lesion.crf_refined for lesion in done.lesions] == [True, False, False, False]
    assert done.provenance.crf["classes"] == ["C0"] and not done.provenance.notes
    off = predict(image, with_crf(bundle, "off"), brightness(2), tmp_path)
    assert not off.provenance.crf and not any(lesion.crf_refined for lesion in off.lesions)


def test_what_the_crf_budget_left_out_is_on_record(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    bundle = make_bundle(classes=({"crf": True},), crf={"smallest": 1, "seconds": 0.002})
    done = predict(make_image(spots((1, 151, 203), A, B)), bundle, brightness(), tmp_path)
    assert done.provenance.notes and "left unrefined" in done.provenance.notes[0]


@pytest.mark.parametrize("marked", [0, 3])
def test_classes_without_any_mark_leave_the_crf_budget_to_the_others(
    make_image: MakeImage,
    make_bundle: MakeBundle,
    brightness: Callable[..., Any],
    tmp_path: Path,
    marked: int,
) -> None:
    class Only:
        name, precision, device, batch = "only", "f32", "cpu", 2

        def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            seen = brightness(4)(batch)
            seen[:, [c for c in range(4) if c != marked]] = 0
            return np.asarray(seen)

    def refined(classes: int, backend: Any, seconds: float) -> list[bool]:
        bundle = make_bundle(classes=({"crf": True},) * classes, crf={"smallest": 1, "seconds": seconds})
        done = predict(make_image(spots((1, 151, 203), A, B)), bundle, backend, tmp_path)
        return [lesion.crf_refined for lesion in done.lesions]

    enough = next(s for s in np.arange(0.005, 1, 0.005) if all(refined(1, brightness(), float(s))))
    assert all(refined(4, Only(), float(enough) * (1 if marked == 3 else 4)))


@pytest.mark.parametrize("mode", ["guarded", "seed"])
def test_the_crf_marks_no_padding(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path, mode: str
) -> None:
    padding = np.zeros((1, 64, 64), bool)
    padding[..., 40:] = True
    image = make_image(
        spots((1, 64, 64), (slice(0, 1), slice(20, 44), slice(20, 44)), ground=60), padding=padding
    )
    crf = {"smallest": 1, "bilateral_compat": 5.0, "seconds": 60, "mode": mode}
    done = predict(image, make_bundle(classes=({"crf": True},), crf=crf), brightness(), tmp_path)
    assert done.mask.any() and not (done.mask[0] & padding).any()


@pytest.mark.parametrize("mode", ["guarded", "seed"])
@pytest.mark.parametrize("edge", [28, 36])
def test_the_crf_leaves_classes_apart_that_exclude_each_other(
    make_image: MakeImage, make_bundle: MakeBundle, tmp_path: Path, edge: int, mode: str
) -> None:
    """The picture's edge lies beside the border that the network sees between them."""

    class Halves:
        name, precision, device, batch = "halves", "f32", "cpu", 1

        def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            first = np.where(np.arange(batch.shape[-1]) < 32, 0.55, 0.44)
            first = np.broadcast_to(first, (len(batch), 1, *batch.shape[2:]))
            return np.concatenate([first, 0.995 - first], axis=1).astype(np.float32)

    picture = np.full((1, 1, 64, 64), 60, np.uint8)
    picture[..., edge:] = 200
    bundle = make_bundle(
        classes=({"threshold": 0.4, "crf": True},) * 2,
        network={"activation": "softmax"},
        crf={"smallest": 1, "bilateral_compat": 20.0, "seconds": 60, "mode": mode},
    )
    done = predict(make_image(picture), bundle, Halves(), tmp_path)
    assert done.mask.any() and not done.mask.all(axis=0).any()


@pytest.mark.parametrize("mode", ["guarded", "seed"])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_crf_runs_on_volumes_by_slice_and_in_space(
    make_image: MakeImage,
    make_bundle: MakeBundle,
    brightness: Callable[..., Any],
    tmp_path: Path,
    dims: int,
    mode: Any,
) -> None:
    box = (slice(3, 8), slice(10, 30), slice(10, 30))
    image = make_image(spots((12, 48, 50), box).astype(np.int16), value_range=(0, 255))
    bundle = make_bundle(
        dims=dims, classes=({"crf": True},), crf={"smallest": 1, "mode": mode, "seconds": 30}
    )
    done = predict(image, bundle, brightness(), tmp_path)
    assert done.counts() == {"C0": 1} and not done.provenance.notes
    assert done.lesions[0].volume_ml == pytest.approx(5 * 20 * 20 / 1000, rel=0.1)
