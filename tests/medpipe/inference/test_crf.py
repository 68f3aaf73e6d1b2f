"""The guarded CRF: it may move a boundary, it may not decide; and the traps of its inputs."""

import math
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medpipe.bundle import CrfSpec
from medpipe.errors import ConfigError
from medpipe.inference import crf
from medpipe.inference.lesions import label_components

densecrf = pytest.importorskip("pydensecrf.densecrf")
FULL = np.ones((3, 3), bool)
Scene = tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]


def discs(diameters: tuple[float, ...], contrast: float = 45.0, confident: float = 0.75) -> Scene:
    """Truth, blurred probability and a noisy picture (1, J, I) with dark discs on a grid 50 px apart."""
    rng = np.random.default_rng(5)
    truth = np.zeros((50 * math.ceil(len(diameters) / 4), 200), bool)
    j, i = np.indices(truth.shape)
    for n, diameter in enumerate(diameters):
        truth |= np.hypot(j - 25 - 50 * (n // 4), i - 25 - 50 * (n % 4)) <= diameter / 2
    picture = (
        128 - contrast * ndimage.gaussian_filter(truth.astype(float), 0.5) + rng.normal(0, 4, truth.shape)
    )
    probability = ndimage.gaussian_filter(np.where(truth, confident, 0.04), 0.8)
    return truth, probability.astype(np.float32), picture[None].astype(np.float32)


def refine(
    scene: Scene, spec: CrfSpec, budget: float = 100, smallest: int = 1
) -> tuple[NDArray[np.int32], crf.Refinement]:
    _, probability, picture = scene
    labels = label_components(probability >= 0.5, 1)
    done = crf.refine(
        labels, probability, lambda box: picture[(slice(None), *box)], spec,
        threshold=0.5, smallest=smallest, spacing=(1.0, 1.0), budget=budget,
    )  # fmt: skip
    return labels, done


def test_unary_is_minus_log_of_clipped_probabilities_class_first() -> None:
    probability = np.array([[0.0, 0.2, 1.0], [0.5, 0.9, 0.4]], np.float32)
    unary = crf.unary_energy(probability, 0.5)
    assert unary.shape == (2, 6) and unary.dtype == np.float32 and unary.flags.c_contiguous
    assert np.allclose(unary[1], -np.log(np.clip(probability.ravel(), 1e-5, 1 - 1e-5)), atol=1e-4)
    assert np.allclose(np.exp(-unary).sum(axis=0), 1, atol=1e-4) and np.isfinite(unary).all()
    assert np.allclose(unary[0, [1, 4]], -np.log([0.8, 0.1]), atol=1e-4)  # row 0 is background, in scan order


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.83])
def test_without_pairwise_terms_it_decides_as_the_threshold_does(threshold: float) -> None:
    probability = np.random.default_rng(0).random((20, 31)).astype(np.float32)
    decided = crf.infer(probability, np.zeros((1, 20, 31), np.float32), (), 2, threshold, (1.0, 1.0))
    assert (decided == (probability > threshold)).all()


def test_it_is_the_published_model() -> None:
    """Features of our own against DenseCRF2D's bilateral and Gaussian terms, on an RGB picture that is no square."""
    rng = np.random.default_rng(2)
    probability = rng.random((24, 37)).astype(np.float32)
    picture = np.repeat(np.repeat(rng.integers(0, 255, (6, 10, 3)), 4, 0), 4, 1)[:24, :37].astype(np.uint8)
    reference = densecrf.DenseCRF2D(37, 24, 2)
    reference.setUnaryEnergy(crf.unary_energy(probability, 0.5))
    reference.addPairwiseGaussian(sxy=3, compat=3)
    reference.addPairwiseBilateral(sxy=20, srgb=10, rgbim=np.ascontiguousarray(picture), compat=10)
    beliefs = np.array(reference.inference(5)).reshape(2, 24, 37)
    values = picture.transpose(2, 0, 1).astype(np.float32)
    ours = crf.infer(probability, values, crf.SEED_KERNELS, crf.SEED_ITERATIONS, 0.5, (1.0, 1.0))
    assert (ours == (beliefs[1] > beliefs[0])).mean() > 0.999
    assert 0 < ours.sum() < ours.size


def test_unguarded_it_erases_small_lesions_and_guarded_it_does_not() -> None:
    scene = discs((3, 4, 5, 6, 8, 10, 3, 4), contrast=15, confident=0.95)
    _, probability, picture = scene
    unguarded = crf.refine_unguarded(probability, lambda box: picture[(slice(None), *box)], 0.5, (1.0, 1.0))
    assert label_components(unguarded, 1).max() < 4
    labels, done = refine(scene, CrfSpec(smallest=1))
    assert label_components(labels > 0, 1).max() == 8 and len(done.refined) == 8


@pytest.mark.parametrize("contrast", [45, 15, 0])
def test_changes_stay_within_the_band(contrast: float) -> None:
    scene = discs((10, 14, 20, 30), contrast)
    before = scene[1] >= 0.5
    labels, _ = refine(scene, CrfSpec(smallest=20, bilateral_compat=10, band=2))
    changed = before != (labels > 0)
    outside = ndimage.distance_transform_edt(~before)
    inside = ndimage.distance_transform_edt(before)
    assert (np.maximum(outside, inside)[changed] <= 2).all()


def test_it_grows_no_further_than_the_band_even_if_the_picture_says_so() -> None:
    truth = np.zeros((60, 60), bool)
    truth[24:36, 24:36] = True
    picture = np.full((1, 60, 60), 128, np.float32)
    picture[0, 10:50, 10:50] = 60  # one dark block, of which the network saw the middle
    probability = np.where(picture[0] < 100, 0.48, 0.02)
    probability[truth] = 0.95
    scene = (truth, probability.astype(np.float32), picture)
    labels, _ = refine(scene, CrfSpec(smallest=1, bilateral_compat=20, band=4))
    reach = ndimage.distance_transform_edt(~truth)[labels > 0].max()
    assert 3 < reach <= 4


def test_it_shrinks_no_further_than_the_band_even_if_it_would_take_all() -> None:
    truth = np.zeros((60, 60), bool)
    truth[20:40, 20:40] = True
    probability = np.where(truth, 0.52, 0.04).astype(np.float32)
    labels, _ = refine((truth, probability, np.full((1, 60, 60), 128, np.float32)), CrfSpec(
        smallest=1, bilateral_compat=30, band=2.5, bilateral_sxy=(20, 40)
    ))  # fmt: skip
    depth = ndimage.distance_transform_edt(truth)
    assert ((labels > 0) == (depth > 2.5)).all()


def test_sigma_is_in_the_unit_of_the_spacing() -> None:
    rng = np.random.default_rng(6)
    probability = ndimage.gaussian_filter(rng.random((40, 40)), 1).astype(np.float32)
    values = np.zeros((1, 40, 40), np.float32)

    def decided(sxy: float, spacing: float) -> NDArray[np.bool_]:
        return crf.infer(probability, values, (crf.Kernel(sxy, None, 3.0),), 5, 0.5, (spacing, spacing))

    assert (decided(4.0, 2.0) == decided(2.0, 1.0)).all()
    assert (decided(4.0, 2.0) != decided(4.0, 1.0)).any()


def test_a_boundary_that_the_picture_contradicts_is_moved() -> None:
    truth, probability, picture = discs((30, 30, 30, 30))
    wrong = np.roll(probability, 2, axis=1)  # the network is two pixels off
    labels, _ = refine((truth, wrong, picture), CrfSpec(smallest=20, bilateral_compat=10))
    assert ((labels > 0) != truth).sum() < 0.5 * ((wrong >= 0.5) != truth).sum()


def test_small_components_are_left_alone() -> None:
    scene = discs((6, 30, 6, 30))
    labels, done = refine(scene, CrfSpec(smallest=120, bilateral_compat=10))
    before = label_components(scene[1] >= 0.5, 1)
    small = [n for n in range(1, 5) if (before == n).sum() < 120]
    assert len(small) == 2 and not done.refined & set(small)
    for n in small:
        assert ((labels == n) == (before == n)).all()


def test_a_confident_component_keeps_most_of_itself_and_an_unsure_one_may_go() -> None:
    """On a picture without any contrast a strong CRF would take both away."""
    spec = CrfSpec(smallest=1, bilateral_compat=30, band=6)
    sure, _ = refine(discs((7, 7, 7, 7), contrast=0, confident=0.95), spec)
    unsure, _ = refine(discs((7, 7, 7, 7), contrast=0, confident=0.62), spec)
    assert sure.max() == 4 and len(np.unique(sure)) == 5
    assert len(np.unique(unsure)) < 5


@pytest.mark.parametrize("band", [2, 3, 4])
@pytest.mark.parametrize("gap", [2, 3, 4, 5, 6, 8, 9])
def test_neighbours_are_never_joined(gap: int, band: int) -> None:
    truth = np.zeros((60, 80), bool)
    truth[15:45, 10:38], truth[15:45, 38 + gap : 70] = True, True
    probability = np.where(truth, 0.9, 0.45).astype(np.float32)
    picture = np.full((1, 60, 80), 128, np.float32)
    picture[0, 15:45, 10:70] = 60  # the picture shows one dark block
    labels, _ = refine((truth, probability, picture), CrfSpec(smallest=1, bilateral_compat=20, band=band))
    assert (labels > 0).sum() > truth.sum()
    assert ndimage.label(labels > 0, FULL)[1] == 2


def test_what_the_budget_leaves_out_is_counted_and_larger_ones_come_first() -> None:
    scene = discs((30, 12, 12, 12))
    spec = CrfSpec(smallest=20)
    _, whole = refine(scene, spec)
    assert whole.unrefined == 0
    before = label_components(scene[1] >= 0.5, 1)
    largest = int(np.argmax(np.bincount(before.ravel())[1:])) + 1
    _, part = refine(scene, spec, budget=whole.seconds * 0.75)
    assert part.unrefined > 0 and largest in part.refined and part.seconds <= whole.seconds * 0.75
    labels, none = refine(scene, spec, budget=0)
    assert none.unrefined == 4 and (labels == before).all()


def test_the_same_input_gives_the_same_labels() -> None:
    scene = discs((10, 14, 20, 30), contrast=15)
    spec = CrfSpec(smallest=1, bilateral_compat=10)
    assert (refine(scene, spec)[0] == refine(scene, spec)[0]).all()


def test_a_volume_is_refined_in_millimetres() -> None:
    k, j, i = np.indices((12, 40, 40))
    spacing = (3.0, 1.0, 1.0)
    truth = np.sqrt(((k - 6) * 3.0) ** 2 + (j - 20) ** 2 + (i - 20) ** 2) < 12
    picture = 100 + 60 * truth + np.random.default_rng(0).normal(0, 3, truth.shape)
    probability = np.roll(ndimage.gaussian_filter(np.where(truth, 0.9, 0.1), (0.3, 1, 1)), 2, axis=2).astype(
        np.float32
    )
    labels = label_components(probability >= 0.5, 1)
    before = labels > 0
    crf.refine(
        labels, probability, lambda box: picture[None][(slice(None), *box)].astype(np.float32),
        CrfSpec(smallest=1, bilateral_compat=10, band=2.5), threshold=0.5, smallest=1, spacing=spacing, budget=100,
    )  # fmt: skip
    assert ((labels > 0) != truth).sum() < 0.6 * (before != truth).sum()
    changed_slices = (before != (labels > 0)) & ~before & ~ndimage.binary_dilation(before, np.ones((1, 7, 7)))
    assert not changed_slices.any()  # a slice is 3 mm away: beyond the band of 2.5 mm


def test_merged_crops_cover_their_components_and_no_more_than_they_did() -> None:
    boxes = [(slice(0, 20), slice(0, 20)), (slice(10, 30), slice(5, 22)), (slice(100, 120), slice(100, 120))]
    merged = crf._merged(boxes, [7, 8, 9])
    assert merged == [((slice(0, 30), slice(0, 22)), [7, 8]), ((slice(100, 120), slice(100, 120)), [9])]


def test_without_pydensecrf_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    monkeypatch.delattr("pydensecrf.densecrf", raising=False)
    with pytest.raises(ConfigError, match="pydensecrf2"):
        refine(discs((30, 30, 30, 30)), CrfSpec())
