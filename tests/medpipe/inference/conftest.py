"""Small pictures, volumes and bundles, and a backend without any network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medpipe.bundle import (
    Bundle,
    ClassSpec,
    CrfSpec,
    InputSpec,
    Network,
    PrecisionSpec,
    ProvenanceSpec,
    WindowSpec,
)
from medpipe.types import Grid, Image, SourceFrame

OP = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


A = (slice(0, 1), slice(30, 50), slice(40, 70))
B = (slice(0, 1), slice(100, 110), slice(150, 155))
"""A larger and a smaller lesion of a picture of 151 x 203."""


def spots(shape: tuple[int, int, int], *boxes: tuple[slice, ...], ground: int = 20) -> NDArray[np.uint8]:
    """Bright boxes on a dark ground: (1, K, J, I)."""
    array = np.full((1, *shape), ground, np.uint8)
    for box in boxes:
        array[0][box] = 220
    return array


def build_image(array: NDArray[Any], affine: NDArray[np.float64] | None = None, **other: Any) -> Image:
    """An image around (channels, K, J, I): a CT volume where K > 1 or an affine is given, else a photograph."""
    spatial = affine is not None or array.shape[1] > 1
    grid = Grid(array.shape[1:], np.eye(4) if affine is None else affine, spatial)
    kind = CT if spatial else OP
    fields: dict[str, Any] = {
        "sources": tuple(SourceFrame(f"1.2.3.{k}", kind, None, Path("none")) for k in range(array.shape[1])),
        "study_uid": "1.2", "series_uid": "1.2.3", "name": "1.2.3.4", "modality": "CT" if spatial else "OP",
        "photometric": "RGB" if array.shape[0] == 3 else "MONOCHROME2", "calibrated": spatial, "bits_stored": 8,
    }  # fmt: skip
    return Image(array=array, grid=grid, **{**fields, **other})


def build_bundle(
    dims: int = 2,
    channels: int = 1,
    classes: tuple[dict[str, Any], ...] = ({},),
    window: dict[str, Any] | None = None,
    crf: dict[str, Any] | None = None,
    network: dict[str, Any] | None = None,
    **spec: Any,
) -> Bundle:
    """A bundle in memory; its weights are in no file, so it needs a backend of the test's own."""
    inputs: dict[str, Any] = {
        "modality": ["OP", "CT"], "channels": channels, "spatial_dims": dims,
        "normalise": {"kind": "mean-std", "mean": [0.0] * channels, "std": [1.0] * channels},
    }  # fmt: skip
    code = ("49755003", "SCT", "Morphologically abnormal structure")
    base = {"name": "Spot", "category": code, "type": code, "colour_cielab": (50, 60, 40), "threshold": 0.5}
    made = [ClassSpec.model_validate({"id": f"C{n}", **base, **given}) for n, given in enumerate(classes)]
    return Bundle(
        id="spots", version="1.0.0", title="Spots", folder=Path("/nowhere"),
        network=Network.model_validate({"name": "phantom", **(network or {})}),
        input=InputSpec.model_validate({**inputs, **spec}), classes=tuple(made),
        window=WindowSpec.model_validate({"patch": [64] * dims, **(window or {})}),
        crf=CrfSpec.model_validate(crf or {}), precision=PrecisionSpec(),
        provenance=ProvenanceSpec(data="drawn", licence="Apache-2.0"),
        weights=Path("/nowhere/model.safetensors"), weights_sha256="0" * 64, hash="1" * 64,
    )  # fmt: skip


class Brightness:
    """A backend whose probability is the first channel itself, so that a test knows what to expect where."""

    name, precision, device, batch = "brightness", "f32", "cpu", 2

    def __init__(self, classes: int = 1) -> None:
        self.classes = classes
        self.patches = 0

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.patches += len(batch)
        return np.repeat(np.clip(batch[:, :1], 0, 1), self.classes, axis=1).astype(np.float32)


@pytest.fixture
def make_image() -> Callable[..., Image]:
    return build_image


@pytest.fixture
def make_bundle() -> Callable[..., Bundle]:
    return build_bundle


@pytest.fixture
def brightness() -> Callable[..., Brightness]:
    return Brightness


@pytest.fixture
def fundus() -> NDArray[np.uint8]:
    """A red disc on black, cut off at top and bottom: (3, 240, 361), centre (120, 170), radius 150."""
    j, i = np.mgrid[:240, :361]
    disc = np.hypot(j - 120, i - 170) < 150
    return (np.array([160, 70, 30])[:, None, None] * disc).astype(np.uint8)
