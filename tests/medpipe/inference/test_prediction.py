"""One image through a bundle, with a backend that takes brightness for probability."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from medpipe.bundle import Bundle
from medpipe.errors import BundleError, Refused
from medpipe.inference import predict
from medpipe.inference.passes import Ensemble
from medpipe.types import Image
from tests.medpipe.inference.conftest import A, B, spots

MakeImage = Callable[..., Image]
MakeBundle = Callable[..., Bundle]


def test_lesions_are_found_where_they_are(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    image = make_image(spots((1, 151, 203), A, B))
    done = predict(image, make_bundle(), brightness(), tmp_path)
    assert done.mask.dtype == np.bool_ and done.mask.sum() == 20 * 30 + 10 * 5
    assert [lesion.box for lesion in done.lesions] == [(0, 30, 40, 1, 50, 70), (0, 100, 150, 1, 110, 155)]
    assert done.counts() == {"C0": 2} and done.probability is None
    assert done.lesions[0].mean_probability == pytest.approx(220 / 255, abs=1e-3)
    assert set(done.seconds) == {"preprocess", "network", "crf", "lesions"}


def test_the_working_size_moves_nothing(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    array = spots((1, 151, 203), A)
    for working in ((64, 77), (300, 401)):
        done = predict(
            make_image(array), make_bundle(scale="fit", working_size=working), brightness(), tmp_path
        )
        truth = array[0] > 100
        assert 2 * (done.mask[0] & truth).sum() / (done.mask[0].sum() + truth.sum()) > 0.93


def test_components_below_the_smallest_size_are_dropped(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    image = make_image(spots((1, 151, 203), A, B))
    done = predict(image, make_bundle(classes=({"smallest": 51},)), brightness(), tmp_path)
    assert done.counts() == {"C0": 1} and done.mask.sum() == 600


@pytest.mark.parametrize("finer", [1, 2, 3])
def test_the_smallest_size_is_of_what_the_network_sees(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path, finer: int
) -> None:
    """B has 50 of the pixels of the working size, whatever the camera's resolution; or 1.25 where seen larger, too."""
    array = np.kron(spots((1, 150, 200), A, B), np.ones((1, 1, finer, finer), np.uint8))
    for smallest, found in ((45, 2), (55, 1)):
        for scales in ((1.0,), (1.0, 1.25)):
            row = {"smallest": smallest, "scales": scales}
            bundle = make_bundle(scale="fit", working_size=(150, 200), classes=(row,))
            done = predict(make_image(array), bundle, brightness(), tmp_path)
            assert done.counts() == {"C0": found}
            assert done.reduction == pytest.approx(finer**2, rel=0.01)
            assert done.provenance.smallest["C0"] == pytest.approx(smallest * finer**2, rel=0.1)


def test_another_field_of_view_is_told_and_counts_in_the_smallest_size(
    make_image: MakeImage,
    make_bundle: MakeBundle,
    brightness: Callable[..., Any],
    fundus: NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    row = {"smallest": 51, "threshold": 0.99}
    bundle = make_bundle(
        channels=3, scale="fit", working_size=(150, 150), field="fundus", field_degrees=50, classes=(row,)
    )
    reductions, notes = [], []
    for degrees in (None, 30.0):
        image = make_image(fundus[:, None], field_degrees=degrees)
        done = predict(image, bundle, brightness(), tmp_path)
        assert done.provenance.smallest["C0"] == 1 + round(50 * done.reduction)
        reductions.append(done.reduction)
        notes += done.provenance.notes
    assert reductions[1] / reductions[0] == pytest.approx(0.6**-2, rel=0.02)
    assert notes == ["field of view of 30 degrees: seen at 0.6 of the working size"]


@pytest.mark.parametrize(("times", "notes"), [(1, []), (0.5, ["dark photograph: seen 1.8 times as bright"])])
def test_a_dark_photograph_is_told(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path,
    fundus: NDArray[np.uint8], times: float, notes: list[str],
) -> None:  # fmt: skip
    bundle = make_bundle(channels=3, scale="fit", working_size=(240, 240), field="fundus")
    image = make_image((times * fundus).astype(np.uint8)[:, None])
    assert list(predict(image, bundle, brightness(), tmp_path).provenance.notes) == notes


@pytest.mark.parametrize("crf", [False, True])
def test_a_lesion_that_is_nowhere_sure_is_dropped_and_the_others_stay_as_they_are(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path, crf: bool
) -> None:
    array = spots((1, 151, 203), A, B) * 0.6
    array[0, 0, 35:39, 45:49] = 255  # within A
    image = make_image(array.astype(np.uint8))
    without = predict(image, make_bundle(), brightness(), tmp_path)
    assert without.counts() == {"C0": 2}
    bundle = make_bundle(classes=({"peak": 0.9, "crf": crf},), crf={"smallest": 10**6})
    done = predict(image, bundle, brightness(), tmp_path)
    assert done.counts() == {"C0": 1} and done.mask.sum() == 600
    assert done.provenance.peaks == {"C0": 0.9}
    assert predict(make_image((array * 0.8).astype(np.uint8)), bundle, brightness(), tmp_path).lesions == ()


def test_padding_holds_no_lesion(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    padding = np.zeros((1, 151, 203), bool)
    padding[0, :90] = True
    done = predict(
        make_image(spots((1, 151, 203), A, B), padding=padding), make_bundle(), brightness(), tmp_path
    )
    assert done.counts() == {"C0": 1} and not (done.mask[0] & padding).any()


@pytest.mark.parametrize("bad", [0, 3])
def test_a_network_that_gives_no_numbers_is_an_error_and_no_picture_without_lesions(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path, bad: int
) -> None:
    """As where half precision overflows, in one batch of windows or in all of them."""
    backend = brightness()

    class Overflowing:
        name, precision, device, batch = "overflowing", "fp16", "cuda", 1

        def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            values: NDArray[np.float32] = backend(batch)
            return np.full_like(values, np.nan) if backend.patches > bad else values

    with pytest.raises(BundleError, match=r"no numbers \(NaN\) in fp16 on cuda"):
        predict(make_image(spots((1, 151, 203), A, B)), make_bundle(), Overflowing(), tmp_path)


def test_no_lesion_outside_the_field(
    make_image: MakeImage,
    make_bundle: MakeBundle,
    brightness: Callable[..., Any],
    tmp_path: Path,
    fundus: NDArray[np.uint8],
) -> None:
    fundus[0, 100:110, 100:110] = 255
    fundus[0, 5:15, 340:350] = 255  # a light spot beside the field
    bundle = make_bundle(
        channels=3, field="fundus", scale="fit", working_size=(240, 300), classes=({"threshold": 0.8},)
    )
    done = predict(make_image(fundus[:, None]), bundle, brightness(), tmp_path)
    assert done.counts() == {"C0": 1} and done.mask[0, 0, 104, 104]


def test_probabilities_are_kept_when_asked_for(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    array = spots((1, 90, 101), A)
    bundle = make_bundle(classes=({}, {"threshold": 0.95}))
    done = predict(make_image(array), bundle, brightness(2), tmp_path, keep_probability=True)
    assert isinstance(done.probability, np.memmap) and done.probability.dtype == np.float16
    assert np.abs(done.probability - array.astype(np.float32) / 255).max() < 1e-3
    assert done.counts() == {"C0": 1, "C1": 0}


def test_large_arrays_lie_in_scratch_and_give_the_same(
    make_image: MakeImage,
    make_bundle: MakeBundle,
    brightness: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    image = make_image(spots((3, 80, 81), (slice(0, 2), slice(10, 30), slice(10, 30))))
    small = predict(image, make_bundle(), brightness(), tmp_path)
    monkeypatch.setattr("medpipe.inference.prediction.MAPPED_FROM", 1)
    large = predict(image, make_bundle(), brightness(), tmp_path)
    assert isinstance(large.mask, np.memmap) and (large.mask == small.mask).all()
    assert large.lesions == small.lesions


def test_classes_that_exclude_each_other_share_no_pixel(
    make_image: MakeImage, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    class Two:
        name, precision, device, batch = "two", "f32", "cpu", 1

        def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.concatenate([batch * 0.6, (1 - batch) * 0.6], axis=1).astype(np.float32)

    class Even(Two):
        def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.full((len(batch), 2, *batch.shape[2:]), 0.4, np.float32)

    ramp = np.linspace(0, 255, 96).astype(np.uint8)[None, None, None].repeat(96, axis=2)
    classes = ({"threshold": 0.2}, {"threshold": 0.2})
    plain = make_bundle(classes=classes, scale="fit", working_size=(50, 50))
    exclusive = make_bundle(
        classes=classes, scale="fit", working_size=(50, 50), network={"activation": "softmax"}
    )
    assert predict(make_image(ramp), plain, Two(), tmp_path).mask.all(axis=0).any()
    done = predict(make_image(ramp), exclusive, Two(), tmp_path)
    assert not done.mask.all(axis=0).any() and done.mask.any(axis=0).mean() > 0.98
    assert done.mask[1, 0, 50, :40].all() and done.mask[0, 0, 50, 56:].all()
    tie = predict(make_image(np.full_like(ramp, 128)), exclusive, Even(), tmp_path)
    assert tie.mask[0].all() and not tie.mask[1].any()


def test_with_argmax_a_class_is_marked_where_the_background_is_less_probable(
    make_image: MakeImage, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """Left it is background (.4 to .35 and .25); right no class reaches a half, but one is the likeliest (.45)."""

    class Three:
        name, precision, device, batch = "three", "f32", "cpu", 1

        def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            left, right = [0.35, 0.25], [0.27, 0.45]
            values = np.where(
                batch < 0.5, *(np.reshape(v, (2, 1, 1)).astype(np.float32) for v in (left, right))
            )
            return np.asarray(values, np.float32)

    halves = np.zeros((1, 1, 96, 96), np.uint8)
    halves[..., 48:] = 255
    classes = ({"threshold": 0.333}, {"threshold": 0.333})
    bundle = make_bundle(classes=classes, network={"activation": "softmax", "argmax": True})
    mask = predict(make_image(halves), bundle, Three(), tmp_path).mask
    assert not mask[0].any() and mask[1, 0, :, 48:].all() and not mask[1, 0, :, :48].any()
    thresholds = make_bundle(classes=classes, network={"activation": "softmax"})
    assert predict(make_image(halves), thresholds, Three(), tmp_path).mask[0, 0, :, :48].all()
    with pytest.raises(ValidationError, match="argmax: goes with"):
        make_bundle(network={"argmax": True})


def test_the_same_again_is_the_same(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    array = (spots((1, 151, 203), A, B) + rng.integers(0, 35, (1, 1, 151, 203))).astype(np.uint8)
    bundle = make_bundle(classes=({"crf": True},), crf={"smallest": 1, "bilateral_compat": 10})
    first, second = (predict(make_image(array), bundle, brightness(), tmp_path) for _ in range(2))
    assert first.lesions == second.lesions and (first.mask == second.mask).all()
    assert first.provenance == second.provenance


def test_a_refused_image_says_which_bundle_and_why(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="bundle spots is for OP, CT, not US"):
        predict(make_image(spots((1, 64, 64)), modality="US"), make_bundle(), brightness(), tmp_path)


def test_the_classes_are_never_all_at_source_size_in_float32(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    side, classes = 1200, 8
    image = make_image(spots((1, side, side), A, B))
    bundle = make_bundle(classes=tuple({} for _ in range(classes)), scale="fit", working_size=(120, 120))
    predict(image, bundle, brightness(classes), tmp_path)  # what is loaded once is not counted
    tracemalloc.start()
    predict(image, bundle, brightness(classes), tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    masks, one = classes * side**2, 4 * side**2
    assert peak < masks + 4 * one < classes * one


def test_progress_ends_at_one(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    told: list[float] = []
    predict(make_image(spots((1, 151, 203), A)), make_bundle(), brightness(), tmp_path, progress=told.append)
    assert told == sorted(told) and told[-1] == 1.0


class DimAtTheLeft:
    """Takes brightness for probability, but in the far left of what it is shown only the half of it."""

    name, precision, device, batch = "one-sided", "f32", "cpu", 1

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        seen = batch[:, :1].copy()
        seen[..., :16] *= 0.5
        return np.asarray(seen, np.float32)


def test_a_lesion_that_only_some_views_see_is_the_uncertain_one(
    make_image: MakeImage, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """One lies in the middle; one at the left edge, dim in two of the four views: 3/4 of its brightness, +- 1/4."""
    middle, edge = (slice(0, 1), slice(5, 15), slice(27, 37)), (slice(0, 1), slice(40, 50), slice(2, 10))
    image = make_image(spots((1, 64, 64), middle, edge))
    bundle = make_bundle(classes=({"threshold": 0.4},))
    once = predict(image, bundle, DimAtTheLeft(), tmp_path)
    assert [lesion.uncertainty for lesion in once.lesions] == [None, None]
    done = predict(image, bundle, DimAtTheLeft(), tmp_path, tta=True)
    sure, unsure = done.lesions
    assert sure.uncertainty == 0
    assert unsure.uncertainty == pytest.approx(220 / 255 / 4, abs=1e-3)
    assert unsure.mean_probability == pytest.approx(220 / 255 * 3 / 4, abs=1e-3)
    assert done.lesions == predict(image, bundle, DimAtTheLeft(), tmp_path, tta=True).lesions


def test_a_bundle_may_ask_for_views_itself(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    bundle = make_bundle(window={"tta": True})
    done = predict(make_image(spots((1, 151, 203), A, B)), bundle, brightness(), tmp_path)
    assert done.provenance.tta and [lesion.uncertainty for lesion in done.lesions] == [0, 0]


def test_members_that_differ_give_the_mean_and_an_uncertainty(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    """One member sees all, the other half as bright: the lesion's mean is 3/4 and its spread 1/4 of its brightness."""

    class Half:
        name, precision, device, batch = "half", "f32", "cpu", 1

        def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.asarray(brightness()(batch) / 2, np.float32)

    image = make_image(spots((1, 151, 203), A))
    ensemble = Ensemble((brightness(), Half()))
    done = predict(image, make_bundle(classes=({"threshold": 0.6},)), ensemble, tmp_path)
    (lesion,) = done.lesions
    assert lesion.mean_probability == pytest.approx(220 / 255 * 0.75, abs=1e-3)
    assert lesion.uncertainty == pytest.approx(220 / 255 * 0.25, abs=1e-3)
    assert "2 networks" in done.provenance.backend and not done.provenance.tta


def test_many_passes_need_no_more_memory_than_two(
    make_image: MakeImage, make_bundle: MakeBundle, brightness: Callable[..., Any], tmp_path: Path
) -> None:
    image = make_image(spots((1, 600, 600), A, B))
    bundle = make_bundle(window={"patch": [256, 256]})
    peaks = []
    for members in (2, 16):
        ensemble = Ensemble(tuple(brightness() for _ in range(members)))
        predict(image, bundle, ensemble, tmp_path)  # what is loaded once is not counted
        tracemalloc.start()
        predict(image, bundle, ensemble, tmp_path, tta=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
