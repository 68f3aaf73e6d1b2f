"""Where patches are cut and how they are varied."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from medpipe.bundle import InputSpec
from medpipe.errors import ConfigError
from medpipe.training.cases import TrainingCase
from medpipe.training.experiment import Patches, Stage
from medpipe.training.patches import PatchSampler, picture_weights

PLAIN = Patches(
    size=32, batch=4, zoom=(1, 1.0001), gain=(1, 1.0001), channel_gain=(1, 1.0001), gamma=(1, 1.0001), blur=0
)

PLAIN_INPUT = InputSpec.model_validate(
    {
        "modality": ["OP"],
        "channels": 3,
        "spatial_dims": 2,
        "normalise": {"kind": "mean-std", "mean": [0, 0, 0], "std": [1, 1, 1]},
    }
)


def picture(
    name: str = "one", size: int = 100, spots: dict[int, tuple[int, int]] | None = None
) -> TrainingCase:
    """Grey, with the left third outside the field, and per class a spot of 3 x 3 pixels that is also bright."""
    image = np.full((3, 1, size, size), 100, np.uint8)
    masks = np.zeros((2, 1, size, size), np.uint8)
    for c, (j, i) in (spots or {}).items():
        masks[c, 0, j - 1 : j + 2, i - 1 : i + 2] = 255
        image[:, 0, j - 1 : j + 2, i - 1 : i + 2] = 200 + 50 * c
    inside = np.ones((1, size, size), np.bool_)
    inside[:, :, : size // 3] = False
    return TrainingCase(name, image, masks, inside, tuple(np.argwhere(m >= 128) for m in masks))


def sampler(pictures: list[TrainingCase], spec: Patches = PLAIN, **more: object) -> PatchSampler:
    return PatchSampler(pictures, spec, PLAIN_INPUT, seed=1, **more)  # type: ignore[arg-type]


def test_a_batch_has_the_sizes_it_says() -> None:
    batch = sampler([picture(spots={0: (50, 50)})], Patches(size=48, batch=3)).batch(0)
    assert batch.image.shape == (3, 3, 48, 48)
    assert batch.target.shape == (3, 2, 48, 48)
    assert batch.valid.shape == (3, 1, 48, 48)
    assert set(batch.valid.unique().tolist()) <= {0.0, 1.0}


def test_a_batch_follows_from_seed_and_step_alone() -> None:
    pictures = [picture(spots={0: (50, 50), 1: (20, 70)})]
    one, two = sampler(pictures, Patches(size=32)), sampler(pictures, Patches(size=32))
    two.batch(4)
    assert torch.equal(one.batch(7).image, two.batch(7).image)
    assert not torch.equal(one.batch(7).image, one.batch(8).image)


def test_lesion_patches_hold_a_lesion_at_no_fixed_place() -> None:
    spec = PLAIN.model_copy(update={"background": 0.0})
    chosen = sampler([picture(spots={0: (50, 50)})], spec)
    targets = torch.cat([chosen.batch(step).target[:, :1] for step in range(20)])
    assert (targets.amax(dim=(1, 2, 3)) > 0.5).all()
    rows = {int(t[0].amax(dim=1).argmax()) for t in targets}
    assert len(rows) > 10, "the lesion is always at the same place of the patch"


def test_a_rare_class_is_as_frequent_as_a_common_one() -> None:
    """One of ten pictures has class 1; half of the lesion patches are for it."""
    pictures = [picture(str(n), spots={0: (50, 50)}) for n in range(9)] + [picture("9", spots={1: (50, 50)})]
    chosen = sampler(pictures, PLAIN.model_copy(update={"background": 0.0}))
    targets = torch.cat([chosen.batch(step).target for step in range(50)])
    rare = (targets[:, 1].amax(dim=(1, 2)) > 0.5).float().mean()
    assert 0.4 < rare < 0.6


def test_image_target_and_field_are_turned_together() -> None:
    chosen = sampler(
        [picture(spots={0: (50, 60), 1: (52, 40)})], PLAIN.model_copy(update={"background": 0.0})
    )
    for step in range(10):
        batch = chosen.batch(step)
        bright = batch.image[:, 0] > 0.6
        assert torch.equal(bright, batch.target.amax(dim=1) > 0.5)


def test_pictures_without_any_lesion_give_background() -> None:
    batch = sampler([picture()]).batch(0)
    assert batch.target.max() == 0


def test_what_lies_beyond_a_small_picture_is_not_valid() -> None:
    batch = sampler([picture(size=20, spots={0: (10, 10)})]).batch(0)
    assert batch.image.shape[-1] == 32
    assert (batch.valid.mean(dim=(1, 2, 3)) < 20 * 20 / 32 / 32 + 0.05).all()


def test_the_share_of_drawn_patches_is_kept() -> None:
    real, drawn = picture("real"), picture("drawn")
    drawn.image[:] = 200
    chosen = sampler([real], drawn=[drawn], drawn_share=0.25)
    images = torch.cat([chosen.batch(step).image for step in range(100)])
    share = (images.amax(dim=(1, 2, 3)) > 0.6).float().mean()
    assert 0.18 < share < 0.32


def test_light_varies_but_not_the_truth() -> None:
    spec = PLAIN.model_copy(update={"gain": (0.5, 1.5), "background": 0.0})
    chosen = sampler([picture(spots={0: (50, 50)})], spec)
    batches = [chosen.batch(step) for step in range(10)]
    means = torch.stack([b.image.median() for b in batches])
    assert means.std() > 0.05
    assert all(set(b.target.unique().tolist()) <= {0.0, 1.0} for b in batches)


def test_weights_of_pictures_by_lesion_area_are_tempered() -> None:
    """One spot of 9 pixels, and four times as much: twice the weight; background is cut from all alike."""
    one, much = picture("one", spots={0: (50, 50)}), picture("much", spots={0: (50, 50)})
    much.masks[0, 0, 20:23, 60:69] = 255
    much = dataclasses.replace(much, places=tuple(np.argwhere(m >= 128) for m in much.masks))
    equal = picture_weights([one, much, picture("none")], "equal", {})
    assert np.allclose(equal, [[1 / 2, 1 / 2, 0], [0, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    tempered = picture_weights([one, much, picture("none")], "lesions", {})
    assert np.allclose(tempered, [[1 / 3, 2 / 3, 0], [0, 0, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_a_hard_picture_is_cut_more_often() -> None:
    easy, hard = picture("easy", spots={0: (50, 50)}), picture("hard", spots={0: (50, 50)})
    hard.image[:] = 200
    for background in (0.0, 1.0):
        spec = PLAIN.model_copy(update={"background": background})
        chosen = sampler([easy, hard], spec, weights={"hard": 3.0, "held out": 9.0})
        images = torch.cat([chosen.batch(step).image for step in range(100)])
        assert 0.68 < (images.amin(dim=(1, 2, 3)) > 0.6).float().mean() < 0.82


def volume(slices: int, there: int) -> TrainingCase:
    """Slice k has the value 10 k everywhere; on slice `there` lies a spot of class 0."""
    image = np.broadcast_to(10 * np.arange(slices, dtype=np.uint8)[:, None, None], (3, slices, 64, 64))
    masks = np.zeros((1, slices, 64, 64), np.uint8)
    masks[0, there, 30:34, 30:34] = 255
    inside = np.ones((slices, 64, 64), np.bool_)
    return TrainingCase("volume", np.array(image), masks, inside, (np.argwhere(masks[0] >= 128),))


@pytest.mark.parametrize("way", [{}, {"rotation": 10.0}, {"elastic": 1.0}, {"zoom": (0.7, 1.4)}])
@pytest.mark.parametrize("there", [0, 4, 5])
def test_a_flat_network_sees_the_slice_on_which_the_class_lies(there: int, way: dict[str, object]) -> None:
    spec = PLAIN.model_copy(update={"background": 0.0, **way})
    chosen = sampler([volume(6, there)], spec)
    batches = [chosen.batch(step) for step in range(5)]
    seen = torch.cat([batch.image.amax(dim=(1, 2, 3)) for batch in batches])
    assert (seen * 25.5).round().unique().tolist() == [there]
    assert all((batch.target.amax(dim=(1, 2, 3)) > 0.5).all() for batch in batches)


@pytest.mark.parametrize("slices", [1, 4, 8])
@pytest.mark.parametrize("zoom", [0.75, 1.0, 1.25])
def test_thin_patches_of_volumes_keep_the_distance_of_slices(slices: int, zoom: float) -> None:
    """A slice is 10 brighter than the one below: cut straight or bent a hair, a patch spans what it shows."""
    spec = PLAIN.model_copy(update={"size": (slices, 32, 32), "zoom": (zoom, zoom), "background": 0.0})
    given = PLAIN_INPUT.model_copy(update={"spatial_dims": 3})
    for way in ({}, {"elastic": 1e-9}):
        chosen = PatchSampler([volume(20, 10)], spec.model_copy(update={**way, "flips": (2,)}), given, seed=1)
        image = chosen.batch(0).image * 25.5
        assert image.shape == (4, 3, slices, 32, 32)
        if slices > 1:
            middle = image[:, :, :, 16, 16].diff(dim=2)[:, :, 1:-1]
            assert middle.mean() == pytest.approx(zoom, abs=0.05), way


def test_background_is_cut_from_every_slice() -> None:
    chosen = sampler([volume(6, 2)], PLAIN.model_copy(update={"background": 1.0}))
    seen = torch.cat([chosen.batch(step).image.amax(dim=(1, 2, 3)) for step in range(20)])
    assert (seen * 25.5).round().unique().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            Patches(size=(1, 32, 48)),
            "32 x 48 pixels cannot be turned by a quarter; say quarter_turns = false",
        ),
        (Patches(stages=(Stage(until=0.5, size=(1, 64, 32), batch=1),)), "64 x 32 pixels cannot be turned"),
        (Patches(size=(4, 32, 32)), r"4 slices, but a 2-D network sees one: \[1, 32, 32\]"),
    ],
)
def test_patches_that_a_flat_network_cannot_be_shown_are_refused(spec: Patches, said: str) -> None:
    with pytest.raises(ConfigError, match=f"patches.size: {said}"):
        sampler([picture()], spec)


def test_oblong_patches_are_cut_without_quarter_turns() -> None:
    spec = Patches(size=(1, 32, 48), batch=2, quarter_turns=False)
    assert sampler([picture(spots={0: (50, 50)})], spec).batch(0).image.shape == (2, 3, 32, 48)
