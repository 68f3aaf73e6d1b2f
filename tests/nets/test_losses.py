"""The losses against values worked by hand, where the wording of papers leads astray."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nets.losses import (
    WeightedLoss,
    blob_loss,
    consistency_loss,
    deep_supervision,
    dice_loss,
    distillation_loss,
    focal_loss,
    tversky_loss,
)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_focal_loss_of_two_pixels_by_hand() -> None:
    """p = .9 where it is positive, p = .2 where it is not: -a (1-p)^2 log p and -(1-a) p^2 log(1-p), averaged."""
    logits = torch.tensor([[[logit(0.9), logit(0.2)]]])
    target = torch.tensor([[[1.0, 0.0]]])
    value = focal_loss(logits, target, torch.ones(1, 1, 2), gamma=2.0, alpha=0.75)
    expected = (-0.75 * 0.1**2 * math.log(0.9) - 0.25 * 0.2**2 * math.log(0.8)) / 2
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_focus_is_half_the_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 9, 9), (torch.rand(2, 3, 9, 9) > 0.7).float()
    value = focal_loss(logits, target, torch.ones(2, 1, 9, 9), gamma=0.0, alpha=0.5).mean()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    assert value.item() == pytest.approx(0.5 * entropy.item(), rel=1e-5)


def test_focus_is_per_pixel_not_of_the_mean() -> None:
    """One very wrong pixel among many right ones keeps its full weight."""
    logits = torch.full((1, 1, 100), logit(0.01))
    logits[..., 0] = logit(0.99)
    target = torch.zeros(1, 1, 100)
    value = focal_loss(logits, target, torch.ones(1, 1, 100), gamma=2.0, alpha=0.75)
    wrong = -0.25 * 0.99**2 * math.log(0.01) / 100
    assert value.item() == pytest.approx(wrong, rel=1e-3)


def test_alpha_weighs_the_positive_class() -> None:
    one_missed = focal_loss(torch.tensor([[[-2.0]]]), torch.ones(1, 1, 1), torch.ones(1, 1, 1), alpha=0.75)
    one_false = focal_loss(torch.tensor([[[2.0]]]), torch.zeros(1, 1, 1), torch.ones(1, 1, 1), alpha=0.75)
    assert one_missed.item() == pytest.approx(3 * one_false.item(), rel=1e-5)


def test_dice_loss_by_hand() -> None:
    """Probabilities 1, 1, 0, 0 against 1, 0, 1, 0, smoothing 1: 1 - (2 * 1 + 1) / (2 + 2 + 1)."""
    logits = torch.tensor([[[50.0, 50.0, -50.0, -50.0]]])
    target = torch.tensor([[[1.0, 0.0, 1.0, 0.0]]])
    assert dice_loss(logits, target, torch.ones(1, 1, 4), smooth=1.0).item() == pytest.approx(0.4)


def test_a_class_that_is_absent_is_not_punished() -> None:
    logits = torch.full((2, 2, 8, 8), -4.0, requires_grad=True)
    target = torch.zeros(2, 2, 8, 8)
    target[:, 0, 2:5, 2:5] = 1
    loss = dice_loss(logits, target, torch.ones(2, 1, 8, 8))
    assert loss[0] > 0.5
    assert loss[1] == 0
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[:, 1].abs().max() == 0


def test_dice_is_of_the_batch_not_of_each_picture() -> None:
    """A class that only one picture of the batch has still counts, and the other picture's misses count with it."""
    logits = torch.full((2, 1, 4), -50.0)
    logits[0] = 50.0
    target = torch.zeros(2, 1, 4)
    target[0] = 1
    assert dice_loss(logits, target, torch.ones(2, 1, 4)).item() == pytest.approx(0.0, abs=1e-6)


def test_what_is_not_valid_does_not_count() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 2, 6, 6), (torch.rand(1, 2, 6, 6) > 0.5).float()
    valid = torch.zeros(1, 1, 6, 6)
    valid[..., :3, :] = 1
    other = logits.clone()
    other[..., 3:, :] = 9
    for loss in (focal_loss, dice_loss):
        assert torch.allclose(loss(logits, target, valid), loss(other, target, valid))
    cropped = focal_loss(logits[..., :3, :], target[..., :3, :], torch.ones(1, 1, 3, 6))
    assert torch.allclose(focal_loss(logits, target, valid), cropped)


def test_nothing_valid_gives_zero_not_nan() -> None:
    loss = WeightedLoss()(torch.randn(1, 2, 4, 4), torch.ones(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
    assert loss.item() == 0


def test_the_sum_is_weighted_and_averaged_over_classes() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 8, 8), (torch.rand(1, 3, 8, 8) > 0.8).float()
    valid = torch.ones(1, 1, 8, 8)
    expected = (10 * focal_loss(logits, target, valid) + dice_loss(logits, target, valid)).mean()
    assert torch.allclose(WeightedLoss(10.0)(logits, target, valid), expected)


def test_one_output_is_judged_as_it_is() -> None:
    logits, target, valid = torch.randn(1, 2, 8, 8), torch.ones(1, 2, 8, 8), torch.ones(1, 1, 8, 8)
    loss = WeightedLoss()
    assert torch.equal(deep_supervision(loss, [logits], target, valid), loss(logits, target, valid))


def test_a_coarser_output_weighs_half_and_answers_for_the_shares_of_its_pixels() -> None:
    """A pixel of four, of which two are valid and one of these is of the class, has the target 1/2 and counts half."""
    target, valid = torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 2, 4)
    target[..., 0, 0] = target[..., 1, 0] = 1
    valid[..., 1, :2] = 0  # the second positive is not valid either
    seen: list[tuple[Tensor, Tensor]] = []

    def loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        seen.append((target, valid))
        return logits.mean()

    total = deep_supervision(
        loss, [torch.full((1, 1, 2, 4), 3.0), torch.full((1, 1, 1, 2), 6.0)], target, valid
    )
    assert float(total) == pytest.approx((3 + 6 / 2) / 1.5)
    shares, inside = seen[1]
    assert shares.flatten().tolist() == [0.5, 0]
    assert inside.flatten().tolist() == [0.5, 1]


@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 8)])
def test_the_truth_loses_least_at_every_size_of_pictures_and_volumes(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    target = (torch.rand(1, 2, *shape) > 0.5).float()
    valid = torch.ones(1, 1, *shape)
    coarse = functional.max_pool2d if len(shape) == 2 else functional.max_pool3d
    right = [10 * (2 * target - 1), 10 * (2 * coarse(target, 2) - 1)]
    wrong = [-logits for logits in right]
    loss = WeightedLoss()
    assert deep_supervision(loss, right, target, valid) < deep_supervision(loss, wrong, target, valid)


def test_a_thousandth_of_foreground_still_pulls() -> None:
    """At 0.1 % foreground and a network that says 'nothing', the positives' gradient is not drowned.

    Its sum over the positives is at least a tenth of that over the thousand times as many negatives.
    """
    logits = torch.full((1, 1, 100, 100), logit(0.01), requires_grad=True)
    target = torch.zeros(1, 1, 100, 100)
    target[..., 50, 45:55] = 1
    WeightedLoss()(logits, target, torch.ones(1, 1, 100, 100)).backward()
    assert logits.grad is not None
    positive = logits.grad[target > 0]
    assert (positive < 0).all(), "the positives must be pulled up"
    assert -positive.sum() > 0.1 * logits.grad[target == 0].abs().sum()


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([[[80.0, -80.0]]], requires_grad=True)
    loss = WeightedLoss()(logits, torch.tensor([[[0.0, 1.0]]]), torch.ones(1, 1, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_tversky_by_hand() -> None:
    """p = .8 on the lesion's pixel, .5 beside it: overlap .8, missed .2, false .5; a = .7."""
    logits, target = torch.tensor([[[logit(0.8), 0.0]]]), torch.tensor([[[1.0, 0.0]]])
    value = tversky_loss(logits, target, torch.ones(1, 1, 2), missed=0.7, smooth=0.0)
    index = 0.8 / (0.8 + 0.7 * 0.2 + 0.3 * 0.5)
    assert value.item() == pytest.approx(1 - index, rel=1e-5)
    focal = tversky_loss(logits, target, torch.ones(1, 1, 2), missed=0.7, smooth=0.0, exponent=0.75)
    assert focal.item() == pytest.approx((1 - index) ** 0.75, rel=1e-5)


def test_tversky_of_one_half_is_dice() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 8, 8), (torch.rand(2, 3, 8, 8) > 0.8).float()
    valid = torch.ones(2, 1, 8, 8)
    half = tversky_loss(logits, target, valid, missed=0.5, smooth=0.0)
    assert torch.allclose(half, dice_loss(logits, target, valid, smooth=0.0), atol=1e-6)


def test_blob_loss_by_hand() -> None:
    """A lesion of four pixels found at .5 and one of one pixel at .9; .1 on the single background pixel between."""
    row = [logit(0.5)] * 4 + [logit(0.1)] + [logit(0.9)]
    logits = torch.tensor(row).view(1, 1, 1, 6)
    target = torch.tensor([1.0, 1, 1, 1, 0, 1]).view(1, 1, 1, 6)
    value = blob_loss(logits, target, torch.ones(1, 1, 1, 6), smooth=0.0)
    large, small = 2 * 2.0 / (2.0 + 0.1 + 4), 2 * 0.9 / (0.9 + 0.1 + 1)
    assert value.item() == pytest.approx(1 - (large + small) / 2, rel=1e-5)


def test_blob_loss_weighs_a_small_lesion_like_a_large_one() -> None:
    """Missing the small one of two costs Dice next to nothing, and the blob loss half of all."""
    target = torch.zeros(1, 1, 40, 40)
    target[..., 5:25, 5:25] = target[..., 35:37, 35:37] = 1
    logits = torch.where(target > 0, 8.0, -8.0)
    logits[..., 35:37, 35:37] = -8.0
    valid = torch.ones(1, 1, 40, 40)
    assert dice_loss(logits, target, valid).item() < 0.02
    assert blob_loss(logits, target, valid, smooth=0.01).item() > 0.45


def test_hardest_pixels_by_hand() -> None:
    """Of four pixels the quarter of the largest loss counts: the one at .9 where nothing is."""
    logits = torch.tensor([logit(0.1), logit(0.9), logit(0.2), logit(0.3)]).view(1, 1, 4)
    zeros, valid = torch.zeros(1, 1, 4), torch.ones(1, 1, 4)
    value = focal_loss(logits, zeros, valid, gamma=2.0, alpha=0.75, hardest=0.25)
    assert value.item() == pytest.approx(-0.25 * 0.9**2 * math.log(0.1), rel=1e-5)


def test_distillation_by_hand_and_none_from_itself() -> None:
    student, teacher, valid = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2 * logit(0.8)), torch.ones(1, 1, 1)
    value = distillation_loss(student, teacher, valid, temperature=2.0)
    divergence = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert value.item() == pytest.approx(4 * divergence, rel=1e-4)
    assert distillation_loss(teacher, teacher, valid).item() == pytest.approx(0, abs=1e-6)


def test_consistency_by_hand_and_the_average_is_not_moved() -> None:
    student = torch.tensor([[[logit(0.9)]]], requires_grad=True)
    average = torch.tensor([[[logit(0.4)]]], requires_grad=True)
    value = consistency_loss(student, average, torch.ones(1, 1, 1))
    value.sum().backward()
    assert value.item() == pytest.approx(0.25, rel=1e-5)
    assert average.grad is None


@pytest.mark.parametrize("term", ["focal", "dice", "tversky", "blob"])
@pytest.mark.parametrize("shape", [(64, 64), (16, 16, 16)])
def test_every_term_pulls_at_a_thousandth_of_foreground(term: str, shape: tuple[int, ...]) -> None:
    """At .1 % foreground a step down the gradient raises the lesion's logits against the background's."""
    torch.manual_seed(0)
    target = torch.zeros(1, 1, *shape)
    target.view(-1)[1000:1004] = 1
    logits = torch.full_like(target, -3.0).requires_grad_()
    weights = {name: float(name == term) for name in ("focal", "dice", "tversky", "blob")}
    WeightedLoss(**weights)(logits, target, torch.ones(1, 1, *shape)).backward()
    assert logits.grad is not None
    lesion, background = logits.grad[target > 0], logits.grad[target == 0]
    assert torch.isfinite(logits.grad).all()
    assert (lesion < 0).all()
    assert lesion.abs().min() > 10 * background.abs().max()


@pytest.mark.parametrize("loss", [dice_loss, tversky_loss, blob_loss])
def test_an_absent_class_is_not_punished(loss: Callable[..., Tensor]) -> None:
    logits, target = torch.randn(2, 2, 12, 12), torch.zeros(2, 2, 12, 12)
    target[:, 0, 3:6, 3:6] = 1
    value = loss(logits, target, torch.ones(2, 1, 12, 12))
    assert value[1] == 0
    assert value[0] > 0


@pytest.mark.parametrize("loss", [focal_loss, dice_loss, tversky_loss, blob_loss])
def test_pixels_that_do_not_count_change_nothing(loss: Callable[..., Tensor]) -> None:
    torch.manual_seed(1)
    logits, target = torch.randn(1, 2, 10, 10), (torch.rand(1, 2, 10, 10) > 0.7).float()
    valid = torch.ones(1, 1, 10, 10)
    valid[..., 5:] = 0
    other_logits, other_target = logits.clone(), target.clone()
    other_logits[..., 5:] += 3
    other_target[..., 5:] = 1 - other_target[..., 5:]
    assert torch.allclose(loss(logits, target, valid), loss(other_logits, other_target, valid), atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_pixel_that_is_perfectly_sure_has_a_finite_slope(gamma: float) -> None:
    """A power below 1 has none at 0, where 1 - p_t is from logits of 17 on."""
    logits = torch.tensor([[[-20.0, 20.0, -40.0]]], requires_grad=True)
    target = torch.tensor([[[0.0, 1.0, 1.0]]])
    WeightedLoss(gamma=gamma)(logits, target, torch.ones(1, 1, 3)).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [dice_loss, tversky_loss, blob_loss])
def test_a_perfect_answer_where_pixels_count_by_half_costs_nothing(loss: Callable[..., Tensor]) -> None:
    """As at the border of the field in the coarser outputs of deep supervision."""
    target = torch.zeros(1, 1, 8, 8)
    target[..., 2:5, 2:5] = 1
    valid = torch.full((1, 1, 8, 8), 0.5)
    perfect = torch.where(target > 0, 40.0, -40.0)
    assert loss(perfect, target, valid, smooth=0.0).item() == pytest.approx(0, abs=1e-6)
