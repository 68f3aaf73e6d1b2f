"""The losses against values worked by hand, where the wording of papers leads astray."""

from __future__ import annotations

import math

import pytest
import torch

from nets.losses import FocalDice, dice_loss, focal_loss


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
    loss = FocalDice()(torch.randn(1, 2, 4, 4), torch.ones(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
    assert loss.item() == 0


def test_the_sum_is_weighted_and_averaged_over_classes() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 8, 8), (torch.rand(1, 3, 8, 8) > 0.8).float()
    valid = torch.ones(1, 1, 8, 8)
    expected = (10 * focal_loss(logits, target, valid) + dice_loss(logits, target, valid)).mean()
    assert torch.allclose(FocalDice(10.0)(logits, target, valid), expected)


def test_a_thousandth_of_foreground_still_pulls() -> None:
    """At 0.1 % foreground and a network that says 'nothing', the positives' gradient is not drowned.

    Its sum over the positives is at least a tenth of that over the thousand times as many negatives.
    """
    logits = torch.full((1, 1, 100, 100), logit(0.01), requires_grad=True)
    target = torch.zeros(1, 1, 100, 100)
    target[..., 50, 45:55] = 1
    FocalDice()(logits, target, torch.ones(1, 1, 100, 100)).backward()
    assert logits.grad is not None
    positive = logits.grad[target > 0]
    assert (positive < 0).all(), "the positives must be pulled up"
    assert -positive.sum() > 0.1 * logits.grad[target == 0].abs().sum()


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([[[80.0, -80.0]]], requires_grad=True)
    loss = FocalDice()(logits, torch.tensor([[[0.0, 1.0]]]), torch.ones(1, 1, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
