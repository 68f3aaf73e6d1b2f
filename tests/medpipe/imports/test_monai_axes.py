"""A network of MONAI's sees the same arrays here: axes, their directions and spacings, in 3-D and slice by slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import SliceInferer
from monai.transforms.spatial.array import Orientation, Spacing
from numpy.typing import NDArray

from medpipe.bundle import InputSpec
from medpipe.errors import BundleError, ConfigError
from medpipe.imports.monai_config import Config
from medpipe.imports.monai_transforms import Preprocessing
from medpipe.imports.monai_window import Window
from medpipe.inference.preprocess import to_working_grid
from medpipe.types import Grid, Image, SourceFrame

SIZES = {"L": 1.2, "R": 1.2, "P": 0.8, "A": 0.8, "S": 5.0, "I": 5.0}
"""mm between voxels along each axis of the body."""
LPS = {"L": (0, 1.0), "R": (0, -1.0), "P": (1, 1.0), "A": (1, -1.0), "S": (2, 1.0), "I": (2, -1.0)}


def configured(before: list[dict[str, Any]], **inferer: Any) -> Config:
    scaled = {
        "_target_": "ScaleIntensityRanged",
        "a_min": 0,
        "a_max": 1,
        "b_min": 0,
        "b_max": 1,
        "clip": True,
    }
    chain = {"_target_": "Compose", "transforms": [{"_target_": "LoadImaged"}, *before, scaled]}
    return Config(
        {"preprocessing": chain, "inferer": inferer} if inferer else {"preprocessing": chain}, Path("c")
    )


def spec_of(config: Config, shape: Any = None, said: str | None = None) -> InputSpec:
    window = Window.of(config, shape)
    before = Preprocessing.of(config)
    axes = window.input_axes(before, said, config)
    dims = len(window.patch)
    return InputSpec.model_validate(
        {"modality": ["CT"], "channels": 1, "spatial_dims": dims, "normalise": before.normalise, **axes}
    )


def scanned(along: str, smooth: bool = False) -> Image:
    """A volume whose indices (i, j, k) run along these directions of the body, of other sizes along each."""
    extent = {"L": 11, "R": 11, "P": 15, "A": 15, "S": 19, "I": 19}
    shape = tuple(extent[letter] for letter in reversed(along))
    affine = np.eye(4)
    affine[:3, :3] = 0
    for index, letter in enumerate(along):
        axis, sign = LPS[letter]
        affine[axis, index] = sign * SIZES[letter]
    if smooth:
        k, j, i = (np.linspace(0, 1, n) for n in shape)
        array = (np.sin(3 * k)[:, None, None] + j[:, None] ** 2 + 0.5 * i) / 3
    else:
        array = np.random.default_rng(0).random(shape)
    frames = tuple(SourceFrame(f"1.2.{k}", "1.2", None, Path("none")) for k in range(shape[0]))
    array = array[None].astype(np.float32)
    return Image(array, Grid(shape, affine), frames, "1", "1", "n", "CT", "MONOCHROME2", True)  # type: ignore[arg-type]


def in_monai(image: Image, axcodes: str) -> NDArray[np.float32]:
    """The (x, y, z) array that MONAI makes of the file: as LoadImage reads it, turned by its own Orientation."""
    stored = torch.from_numpy(image.array[0].transpose(2, 1, 0).copy())[None]
    ras = torch.from_numpy(np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.grid.affine)
    turned = Orientation(axcodes=axcodes, labels=(("L", "R"), ("P", "A"), ("I", "S")))
    return np.asarray(turned(MetaTensor(stored, affine=ras))[0], dtype=np.float32)


@pytest.mark.parametrize("scan", ["LPS", "RAS", "PIR"])
@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR"])
def test_a_volume_has_the_same_array(scan: str, axcodes: str) -> None:
    pixdim = [SIZES[letter] for letter in axcodes]
    turned = {"_target_": "Orientationd", "axcodes": axcodes}
    spaced = {"_target_": "Spacingd", "pixdim": pixdim}
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]}
    image = scanned(scan)
    theirs = in_monai(image, axcodes)
    assert np.array_equal(
        to_working_grid(image, spec_of(configured([turned, spaced], **inferer))).array[0], theirs
    )
    # without Orientationd the axes are those of the files that the network learned from
    asked = spec_of(configured([spaced], **inferer), said=axcodes)
    assert np.array_equal(to_working_grid(image, asked).array[0], theirs)


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR"])
def test_a_spacing_goes_with_its_axis(axcodes: str) -> None:
    pixdim = [2 * SIZES[letter] for letter in axcodes]
    transforms: list[dict[str, Any]] = [
        {"_target_": "Orientationd", "axcodes": axcodes},
        {"_target_": "Spacingd", "pixdim": pixdim},
    ]
    image = scanned("LPS", smooth=True)
    affine = torch.diag(torch.tensor([*(SIZES[letter] for letter in axcodes), 1.0], dtype=torch.float64))
    volume = MetaTensor(torch.from_numpy(in_monai(image, axcodes).copy())[None], affine=affine)
    theirs = np.asarray(Spacing(pixdim=pixdim)(volume)[0])
    config = configured(transforms, _target_="SlidingWindowInferer", roi_size=16)
    ours = to_working_grid(image, spec_of(config, [16, 16, 16])).array[0]
    assert ours.shape == theirs.shape
    # theirs begins at the first voxel's centre, ours at the volume's edge: half a voxel of a smooth volume
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("across", [0, 1, 2])
@pytest.mark.parametrize("axcodes", ["RAS", "PIR"])
def test_a_slice_is_the_same_picture(across: int, axcodes: str) -> None:
    image = scanned("LPS")
    theirs = in_monai(image, axcodes)
    plane = [n for axis, n in enumerate(theirs.shape) if axis != across]
    seen: list[NDArray[np.float32]] = []

    def network(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch[0, 0].numpy())
        return batch

    SliceInferer(spatial_dim=across, roi_size=plane)(torch.from_numpy(theirs.copy())[None, None], network)
    pixdim = [-1.0 if axis == across else SIZES[letter] for axis, letter in enumerate(axcodes)]
    transforms: list[dict[str, Any]] = [
        {"_target_": "Orientationd", "axcodes": axcodes},
        {"_target_": "Spacingd", "pixdim": pixdim},
    ]
    config = configured(transforms, _target_="SliceInferer", roi_size=plane, spatial_dim=across)
    assert np.array_equal(to_working_grid(image, spec_of(config)).array[0], np.stack(seen))


def test_a_slice_inferer_goes_along_the_first_axis_unless_told() -> None:
    turned = [{"_target_": "Orientationd", "axcodes": "RAS"}]
    config = configured(turned, _target_="SliceInferer", roi_size=32)
    assert spec_of(config).orientation == "SAR", (
        "slices run to the right, rows to the front, columns to the head"
    )
    last = configured(turned, _target_="SliceInferer", roi_size=[32, 32], spatial_dim=2)
    assert spec_of(last).orientation == "ARS"


SLIDING = {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]}
SLICED = {"_target_": "SliceInferer", "roi_size": [16, 16], "spatial_dim": 2}
RAS = {"_target_": "Orientationd", "axcodes": "RAS"}


def spaced(*pixdim: float | None, **more: Any) -> dict[str, Any]:
    return {"_target_": "Spacingd", "pixdim": list(pixdim), **more}


@pytest.mark.parametrize(
    ("before", "inferer", "said"),
    [
        ([RAS, spaced(1, 1, -1)], SLIDING, "one axis kept as it is"),
        ([RAS, spaced(1, None, 1)], SLIDING, "one axis kept as it is"),
        ([RAS, spaced(1, 1, 3)], SLICED, "makes new slices"),
        ([RAS, spaced(1, 1, 1, diagonal=True)], SLIDING, "diagonal"),
        ([RAS, spaced(1, 1, 1, max_pixdim=[2, 2, 2])], SLIDING, "max_pixdim"),
        ([RAS, spaced("1", 1, 1)], SLIDING, "not a list of sizes"),  # type: ignore[arg-type]
        ([spaced(1, 1, 3), RAS], SLIDING, "Spacing before Orientation"),
        ([RAS, RAS], SLIDING, "twice"),
        ([{"_target_": "Orientationd", "axcodes": "RAR"}], SLIDING, "three letters"),
        ([{"_target_": "Orientationd"}], SLIDING, "three letters"),
        ([{"_target_": "LoadImaged", "reverse_indexing": True}, RAS], SLIDING, "reverse_indexing"),
        ([{"_target_": "LoadImaged", "reader": "my.Reader"}, RAS], SLIDING, "my.Reader"),
        ([RAS], {**SLICED, "spatial_dim": 3}, "spatial_dim 3"),
        ([RAS], {**SLICED, "roi_size": [16, 16, 16]}, "two sizes"),
        ([RAS], {**SLIDING, "roi_size": [16, 16]}, "sees pictures as"),
    ],
)
def test_what_our_axes_cannot_say_is_refused(
    before: list[dict[str, Any]], inferer: dict[str, Any], said: str
) -> None:
    with pytest.raises(BundleError, match=said):
        spec_of(configured(before, **inferer))


def test_equal_spacings_may_come_before_the_orientation() -> None:
    assert spec_of(configured([spaced(2, 2, 2), RAS], **SLIDING)).spacing == (2.0, 2.0, 2.0)
    assert spec_of(configured([{"_target_": "Spacingd", "pixdim": 2}, RAS], **SLIDING)).spacing == (
        2.0,
        2.0,
        2.0,
    )
    assert spec_of(configured([RAS, spaced(-1, -1, -1)], **SLIDING)).scale == "none"


def test_pictures_come_by_rows_or_not_at_all() -> None:
    rows = {"_target_": "LoadImaged", "reader": "PILReader", "reverse_indexing": False}
    config = configured([rows], _target_="SlidingWindowInferer", roi_size=[32, 48])
    assert spec_of(config).orientation == "source"
    with pytest.raises(ConfigError, match="come as they are"):
        spec_of(config, said="RAS")


def test_the_user_and_the_bundle_must_not_differ() -> None:
    config = configured([RAS], **SLIDING)
    assert spec_of(config, said="RAS").orientation == "SAR"
    with pytest.raises(ConfigError, match=r"says RAS \(Orientationd\)"):
        spec_of(config, said="LPS")
    with pytest.raises(ConfigError, match="three letters"):
        spec_of(config, said="ras")
    for inferer in (SLIDING, SLICED):
        with pytest.raises(ConfigError, match="--orientation source"):
            spec_of(configured([], **inferer), said="source")
    with pytest.raises(ConfigError, match="--orientation is needed"):
        spec_of(configured([], **SLIDING))
