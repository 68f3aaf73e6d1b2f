"""Rotation, zoom and elastic deformation move image, truth and field together; values vary, truth does not."""

from __future__ import annotations

import os
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from medpipe.training.cases import TrainingCase
from medpipe.training.deform import deformed
from medpipe.training.experiment import Patches
from medpipe.training.intensity import vary_colour, vary_scores

STILL = Patches(size=32, zoom=(1, 1.0001), rotation=0, elastic=0)


def ball(shape: tuple[int, int, int], centre: tuple[int, int, int], radius: float = 6) -> TrainingCase:
    """A bright ball (disc, where shape[0] is 1) that is also the truth."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    inside = ((grid - np.array(centre)) ** 2).sum(-1) <= radius**2
    values = (inside * 200).astype(np.uint8)[None]
    return TrainingCase(
        "ball",
        values,
        (inside * 255).astype(np.uint8)[None],
        np.ones(shape, np.bool_),
        (np.argwhere(inside),),
    )


@pytest.mark.parametrize(
    ("shape", "centre", "size"),
    [((1, 60, 80), (0, 30, 50), (1, 32, 32)), ((30, 40, 50), (15, 20, 30), (16, 24, 20))],
)
def test_without_turn_and_bend_a_patch_is_what_lies_there(
    shape: tuple[int, int, int], centre: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    case = ball(shape, centre)
    middle = np.array(centre) + (np.array(size) % 2 - 1) / 2
    middle[0] = centre[0] if size[0] == 1 else middle[0]
    patch = deformed(case, middle, 1.0, size, np.random.default_rng(0), STILL)
    corner = [round(float(m - (n - 1) / 2)) for m, n in zip(middle, size, strict=True)]
    box = tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))
    assert torch.allclose(patch[0] * 255, torch.from_numpy(case.image[0][box]).float(), atol=0.1)
    assert (patch[-1] == 1).all()


@pytest.mark.parametrize("size", [(1, 48, 48), (24, 24, 24)])
def test_image_and_truth_bend_together(size: tuple[int, int, int]) -> None:
    case = ball((1, 90, 90), (0, 45, 45)) if size[0] == 1 else ball((40, 40, 40), (20, 20, 20))
    spec = STILL.model_copy(update={"rotation": 90.0, "elastic": 4.0})
    shapes = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        patch = deformed(case, np.array(case.shape) / 2, 1.2, size, rng, spec)
        assert torch.allclose(patch[0] * 255 / 200, patch[1], atol=1e-3)
        shapes.append(patch[1])
    assert not torch.allclose(shapes[0], shapes[1], atol=0.1), "every patch is bent in its own way"


def test_a_process_forked_after_threads_that_multiplied_does_not_hang() -> None:
    """With torch's matrix products (MKL) in `deformed` one such process in four waited for ever."""
    case = ball((40, 50, 45), (20, 25, 22))
    spec = STILL.model_copy(update={"rotation": 15.0, "elastic": 2.0})

    def bend() -> None:
        for seed in range(10):
            deformed(case, np.array(case.shape) / 2, 1.2, (24, 32, 24), np.random.default_rng(seed), spec)

    def multiply(_: int) -> None:
        for _ in range(200):
            torch.rand(768, 5) @ torch.rand(5, 384)
            torch.einsum("ab,b...->a...", torch.rand(3, 3), torch.rand(3, 10, 50, 40))

    ends = []
    for _ in range(12):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(multiply, range(2)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
            child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)  # ends one that hangs
            torch.set_num_threads(1)
            bend()
            os._exit(0)
        ends.append(os.waitpid(child, 0)[1])
    assert ends == [0] * 12


def test_a_zoom_above_one_shows_more_of_the_picture() -> None:
    case = ball((1, 90, 90), (0, 45, 45))
    middle = np.array([0.0, 44.5, 44.5])
    near, far = (
        deformed(case, middle, zoom, (1, 48, 48), np.random.default_rng(0), STILL)[1].sum()
        for zoom in (1.0, 2.0)
    )
    assert float(near / far) == pytest.approx(4, rel=0.15)


def test_beyond_the_picture_nothing_is_valid() -> None:
    case = ball((1, 40, 40), (0, 5, 5))
    patch = deformed(case, np.array([0.0, 0.0, 0.0]), 1.0, (1, 32, 32), np.random.default_rng(0), STILL)
    assert patch[-1, 0, :14, :].max() == 0
    assert patch[-1, 0, 20:, 20:].min() == 1


@pytest.mark.parametrize("k", [0, 5, 11])
def test_one_slice_of_a_volume_is_turned_within_its_plane(k: int) -> None:
    case = ball((12, 60, 60), (k, 30, 30))
    spec = STILL.model_copy(update={"rotation": 30.0})
    patch = deformed(case, np.array([k, 30.0, 30.0]), 1.0, (1, 48, 48), np.random.default_rng(0), spec)
    assert float(patch[1].sum()) == pytest.approx(float(case.masks[0, k].sum()) / 255, rel=0.05)


def test_every_slice_of_a_volume_is_compressed_by_itself() -> None:
    """As JPEG leaves a ramp nearly as it was, each slice must come back in its own place and brightness."""
    ramp = torch.linspace(0.2, 0.8, 16).view(1, 16, 1, 1) + torch.linspace(-0.1, 0.1, 32).view(1, 1, 1, 32)
    volume = ramp.expand(1, 16, 32, 32).contiguous()
    spec = STILL.model_copy(update={"jpeg": 1.0})
    kept = vary_colour(volume, np.random.default_rng(0), spec)
    assert kept.shape == volume.shape
    assert 0 < float((kept - volume).abs().max()) < 0.1


def test_jpeg_noise_and_light_change_values_within_bounds() -> None:
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.random((1, 1, 40, 48), dtype=np.float32))
    spec = STILL.model_copy(update={"noise": 0.1, "jpeg": 1.0, "blur": 1.0})
    varied = vary_colour(image, rng, spec)
    assert varied.shape == image.shape
    assert 0 <= float(varied.min()) <= float(varied.max()) <= 1
    assert not torch.allclose(varied, image, atol=0.02)


def test_scores_are_scaled_and_shifted() -> None:
    image = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    spec = STILL.model_copy(update={"gain": (2.0, 2.0001), "shift": 0.0, "noise": 0.0})
    assert torch.allclose(vary_scores(image, np.random.default_rng(0), spec), 2 * image, atol=1e-3)
