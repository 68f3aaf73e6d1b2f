"""Pasted lesions: no seam, truth where the picture changed, only on free places inside the field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medpipe.bundle import InputSpec
from medpipe.training.cases import TrainingCase
from medpipe.training.experiment import Paste, Patches
from medpipe.training.pasting import Paster, cut_outs, seamless
from medpipe.training.patches import PatchSampler

INPUT = InputSpec.model_validate(
    {
        "modality": ["OP"],
        "channels": 3,
        "spatial_dims": 2,
        "normalise": {"kind": "mean-std", "mean": [0, 0, 0], "std": [1, 1, 1]},
    }
)
ALWAYS = Paste(share=1.0, most=3)
CLASSES = ("DARK", "BRIGHT")


def picture(level: int, *, spot: tuple[int, int, int, int] | None = None, size: int = 160) -> TrainingCase:
    """Lighter from left to right around `level`, outside the field in the left quarter; `spot`: class, j, i, radius."""
    j, i = np.mgrid[:size, :size]
    image = np.repeat((level + 20 * i / size).astype(np.uint8)[None, None], 3, axis=0)
    masks = np.zeros((2, 1, size, size), np.uint8)
    if spot is not None:
        of, row, column, radius = spot
        lesion = (j - row) ** 2 + (i - column) ** 2 <= radius**2
        masks[of, 0][lesion] = 255
        image[:, 0][:, lesion] += np.uint8(60)
    inside = np.ones((1, size, size), np.bool_)
    inside[:, :, : size // 4] = False
    return TrainingCase(f"{level}", image, masks, inside, tuple(np.argwhere(m >= 128) for m in masks))


def patch(case: TrainingCase) -> torch.Tensor:
    """A whole picture as the sampler stacks it: image, masks, field."""
    parts = [case.image / 255, case.masks / 255, case.inside[None]]
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))


def jump(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """The largest step between neighbouring pixels across the edge of a mask."""
    steps = [np.abs(np.diff(values, axis=axis))[np.diff(mask, axis=axis)] for axis in (0, 1)]
    return float(np.concatenate(steps).max())


def test_the_border_of_a_pasted_rectangle_is_seamless() -> None:
    """A spot .3 above its surroundings, from a picture .5 lighter: the step at the rectangle's border is below .01."""
    rng = np.random.default_rng(0)
    there = (0.2 + rng.normal(0, 0.005, (1, 40, 50))).astype(np.float32)
    near = np.zeros((40, 50), np.bool_)
    near[15:25, 20:30] = True
    lesion = np.full((1, 40, 50), 0.5, np.float32) + np.where(near, np.float32(0.3), np.float32(0))
    solved = seamless(there, lesion, near)
    border = np.zeros_like(near)
    border[1:-1, 1:-1] = True
    assert np.array_equal(solved[0][~border], there[0][~border])
    naive = np.where(border, lesion[0], there[0])
    assert jump(naive, border) > 0.25
    assert jump(solved[0], border) < 0.03
    inner, outer = solved[0, 17:23, 22:28].mean(), solved[0, 10:13].mean()
    assert inner - outer == pytest.approx(0.3, abs=0.03), "the lesion keeps its contrast and takes the light"


def test_what_lies_beside_the_lesion_keeps_its_texture() -> None:
    there = np.random.default_rng(1).uniform(0.4, 0.6, (1, 30, 30)).astype(np.float32)
    near = np.zeros((30, 30), np.bool_)
    near[12:18, 12:18] = True
    lesion = np.zeros_like(there)
    lesion[0, 13:17, 13:17] = 0.3
    added = (seamless(there, lesion, near) - there)[0]
    assert np.abs(np.diff(added[:8], axis=1)).max() < 0.02
    assert np.abs(np.diff(there[0, :8], axis=1)).max() > 0.15


def test_the_truth_comes_with_the_lesion() -> None:
    target, source = picture(60), picture(120, spot=(1, 80, 100, 6))
    paster = Paster([source], ALWAYS, CLASSES)
    before = patch(target)
    after = paster.into(before, np.random.default_rng(2), 1.0)
    changed = (after[0, 0] - before[0, 0]).abs() > 0.1
    truth = after[4, 0] > 0.5
    assert truth.any()
    assert after[3].max() == 0
    assert not (changed & ~truth).any(), "beside the truth nothing changes much"
    assert (changed & truth).sum() > 0.9 * truth.sum()
    assert torch.equal(before[-1], after[-1])


def test_a_lesion_on_darker_ground_is_darker_by_the_same_factor() -> None:
    """A spot at .4 of its surroundings of .6, pasted where it is .24: about .1 (a sum would give a black one)."""
    source, target = picture(153, spot=(0, 80, 100, 6)), picture(61)
    source.image[:, 0][:, source.masks[0, 0] > 0] = 61
    target.image[:] = 61
    after = Paster([source], Paste(share=1, most=1), CLASSES).into(
        patch(target), np.random.default_rng(2), 1.0
    )
    assert after[0, 0][after[3, 0] > 0.5].median() == pytest.approx(0.09, abs=0.02)


def test_nothing_is_pasted_outside_the_field_or_on_a_lesion() -> None:
    target, source = picture(60, spot=(0, 80, 90, 25)), picture(120, spot=(1, 80, 100, 6))
    paster = Paster([source], ALWAYS.model_copy(update={"most": 8}), CLASSES)
    before = patch(target)
    lesion, outside = before[3, 0] > 0, before[-1, 0] < 1
    pasted = 0
    for seed in range(40):
        after = paster.into(before, np.random.default_rng(seed), 1.0)
        assert torch.equal(after[:, 0, lesion], before[:, 0, lesion])
        assert torch.equal(after[:, 0, outside], before[:, 0, outside])
        pasted += bool(after[4].any())
    assert pasted > 30


def test_a_lesion_is_scaled_as_the_patch_was() -> None:
    paster = Paster([picture(120, spot=(1, 80, 100, 8))], Paste(share=1, most=1), CLASSES)
    near, far = (
        paster.into(patch(picture(60)), np.random.default_rng(3), zoom)[4].sum() for zoom in (1.0, 2.0)
    )
    assert float(near / far) == pytest.approx(4, rel=0.2)


def test_lesions_are_cut_out_whole_and_from_inside_the_field() -> None:
    def found(column: int, radius: int) -> int:
        return len(cut_outs(picture(100, spot=(0, 80, column, radius)), 0))

    assert found(100, 6) == 1
    assert found(100, 0) == 0, "a single pixel is no lesion to paste"
    assert found(44, 6) == 0, "it touches what is outside the field"
    assert found(154, 6) == 0, "it touches the border"


def test_lesions_of_a_volume_are_cut_out_of_their_slices() -> None:
    plain, first, last = picture(60), picture(120, spot=(1, 80, 100, 6)), picture(180, spot=(1, 60, 90, 6))
    image, masks, inside = (
        np.concatenate([getattr(case, part) for case in (plain, first, last)], axis=-3)
        for part in ("image", "masks", "inside")
    )
    case = TrainingCase("volume", image, masks, inside, tuple(np.argwhere(m >= 128) for m in masks))
    found = cut_outs(case, 1)
    assert [cut.k for cut in found] == [1, 2]
    assert cut_outs(case, 0) == []
    pasted = Paster([case], Paste(share=1, most=1), CLASSES).into(patch(plain), np.random.default_rng(2), 1.0)
    assert pasted[4].sum() == pytest.approx((first.masks[1] > 0).sum(), rel=0.05)


def test_only_the_named_classes_are_pasted() -> None:
    sources = [picture(120, spot=(0, 80, 100, 6)), picture(110, spot=(1, 80, 100, 6))]
    paster = Paster(sources, Paste(share=1, classes=("DARK",)), CLASSES)
    for seed in range(10):
        after = paster.into(patch(picture(60)), np.random.default_rng(seed), 1.0)
        assert after[3].any()
        assert not after[4].any()


def sampled(paste: Paste | None, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    cases = [picture(60, size=100), picture(120, spot=(1, 50, 70, 6), size=100)]
    spec = Patches(size=64, batch=8, background=1.0, paste=paste)
    batch = PatchSampler(cases, spec, INPUT, seed=1, classes=CLASSES).batch(step)
    return batch.image, batch.target


def test_pasting_is_off_by_default_and_follows_from_seed_and_step() -> None:
    assert Patches().paste is None
    (image, target), (again, _), (other, _) = sampled(ALWAYS), sampled(ALWAYS), sampled(ALWAYS, 1)
    assert torch.equal(image, again)
    assert not torch.equal(image, other)
    assert target[:, 1].sum() > sampled(None)[1][:, 1].sum()


def test_the_share_of_patches_with_pasted_lesions_is_kept() -> None:
    paster = Paster([picture(120, spot=(1, 80, 100, 6))], Paste(share=0.25), CLASSES)
    plain = patch(picture(60))
    changed = [bool(paster.into(plain, np.random.default_rng(n), 1.0)[4].any()) for n in range(200)]
    assert 0.17 < np.mean(changed) < 0.33
