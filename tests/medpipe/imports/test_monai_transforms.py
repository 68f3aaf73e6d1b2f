"""What a MONAI bundle does to values and masks: taken where ours comes to the same, else refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import intensity
from numpy.typing import NDArray

from medpipe.bundle import InputSpec
from medpipe.errors import BundleError, ConfigError
from medpipe.imports.monai_config import Config
from medpipe.imports.monai_transforms import Postprocessing, Preprocessing
from medpipe.imports.monai_window import Window
from medpipe.inference.preprocess import to_unit_scale
from medpipe.types import Grid, Image, SourceFrame

RANGE = {
    "_target_": "ScaleIntensityRanged",
    "a_min": -100,
    "a_max": 300,
    "b_min": -1,
    "b_max": 1,
    "clip": True,
}
UNCLIPPED = {**RANGE, "clip": False}
RANKS = {
    "_target_": "ScaleIntensityRangePercentilesd",
    "lower": 5,
    "upper": 95,
    "b_min": 0,
    "b_max": 1,
    "clip": True,
}
WHOLE = {"_target_": "ScaleIntensityd"}
SCORE = {"_target_": "NormalizeIntensityd"}


def config(**content: Any) -> Config:
    return Config(content, Path("inference.json"))


def before(*transforms: Any) -> Preprocessing:
    return Preprocessing.of(config(preprocessing={"_target_": "Compose", "transforms": list(transforms)}))


def after(*transforms: Any, without: tuple[str, ...] = ()) -> Postprocessing:
    composed = {"_target_": "monai.transforms.Compose", "transforms": list(transforms)}
    return Postprocessing.of(config(postprocessing=composed), without)


def monai_gives(values: NDArray[np.float32], *transforms: dict[str, Any]) -> NDArray[np.float32]:
    here = torch.from_numpy(values.copy())[None]
    for given in transforms:
        name = given["_target_"].removesuffix("d")
        arguments = {key: value for key, value in given.items() if key != "_target_"}
        here = getattr(intensity.array, name)(**arguments)(here)
    return np.asarray(here[0], dtype=np.float32)


@pytest.mark.parametrize(
    "transforms",
    [
        [RANGE],
        [RANKS],
        [WHOLE],
        [SCORE],
        [WHOLE, SCORE],
        [UNCLIPPED, SCORE],
        [SCORE, WHOLE],
        [UNCLIPPED, WHOLE],
    ],
)
def test_values_become_what_they_become_in_monai(transforms: list[dict[str, Any]]) -> None:
    values = np.random.default_rng(0).normal(60, 200, (6, 20, 24)).astype(np.float32)
    frames = tuple(SourceFrame(f"1.2.{k}", "1.2", None, Path("none")) for k in range(6))
    image = Image(
        values[None], Grid(values.shape, np.eye(4)), frames, "1", "1", "n", "CT", "MONOCHROME2", True
    )
    given = {"modality": ["CT"], "channels": 1, "spatial_dims": 3, "normalise": before(*transforms).normalise}
    spec = InputSpec.model_validate(given)
    ours = values.copy()
    to_unit_scale(image, spec).apply(ours, 0)
    assert np.abs(ours - monai_gives(values, *transforms)).max() < 1e-3


@pytest.mark.parametrize(
    ("transforms", "said"),
    [
        ([], "how values are normalised"),
        ([RANGE, SCORE], "NormalizeIntensity after ScaleIntensityRange is not supported"),
        ([RANKS, SCORE], "NormalizeIntensity after ScaleIntensityRangePercentiles"),
        ([WHOLE, RANGE], "ScaleIntensityRange after ScaleIntensity"),
        ([UNCLIPPED], "without clip"),
        ([{**RANGE, "b_min": None, "b_max": None}], "clip needs b_min and b_max"),
        ([{**RANGE, "b_min": 1}], "b_min is not below b_max"),
        ([{**RANGE, "a_min": 300}], "a_min is not below a_max"),
        ([{**RANGE, "a_min": [0, 1]}], "is not a number"),
        ([{**RANKS, "clip": False}], "only with clip true"),
        ([{**RANKS, "relative": True}], "relative false"),
        ([{**RANKS, "b_max": 2}], "b_max 1"),
        ([{**RANKS, "lower": None}], "lower: None is not a number"),
        ([{**SCORE, "divisor": 500}], "subtrahend and divisor"),
        ([{**SCORE, "nonzero": True}], "nonzero"),
        ([{**WHOLE, "minv": None, "maxv": None, "factor": 2}], "factor"),
        ([{**WHOLE, "maxv": 255}], "ScaleIntensity .as set here."),
        ([{"_target_": "scripts.transforms.ScaleIntensityd"}], "not MONAI's own"),
        ([{"_target_": "GaussianSmoothd"}], "GaussianSmoothd is not supported"),
        ([{**WHOLE, "_disabled_": "$not True"}], "never evaluated"),
        (["@nowhere"], "refers to 'nowhere'"),
    ],
)
def test_other_values_are_refused(transforms: list[Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        before(*transforms)


def test_what_is_switched_off_does_not_count() -> None:
    for off in (True, "true", "True", "@off"):
        composed = {"_target_": "Compose", "transforms": [RANGE, {**SCORE, "_disabled_": off}]}
        taken = Preprocessing.of(config(preprocessing=composed, off=True))
        assert taken.normalise["kind"] == "window"


def test_references_are_followed_to_their_end() -> None:
    found = config(a="@b", b={"c": ["@d"]}, d={"e": 3}, list=["@a::c::0#e", {"x": "@a"}])
    assert found.value("@list", "list") == [3, {"x": {"c": [{"e": 3}]}}]


@pytest.mark.parametrize(
    "content",
    [
        {"a": "@a"},
        {"a": ["@a"]},
        {"a": {"b": "@a"}},
        {"a": "@b::c", "b": "@a"},
        {f"a{n}" if n else "a": [f"@a{n + 1}"] * 9 for n in range(12)} | {"a12": 1},
    ],
)
def test_what_refers_to_itself_or_without_end_is_one_line(content: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="refers to itself") as refusal:
        config(**content).value("@a", "a")
    assert "\n" not in str(refusal.value)


SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
LARGEST = {"_target_": "KeepLargestConnectedComponentd", "applied_labels": [1]}


def discrete(**given: Any) -> dict[str, Any]:
    return {"_target_": "AsDiscreted", "keys": "pred", **given}


def test_the_activation_and_its_threshold_are_taken() -> None:
    saved = [{"_target_": "Invertd", "transform": "$@pre"}, {"_target_": "SaveImaged", "output_dir": "$@out"}]
    assert after(SIGMOID, *saved, discrete(threshold=0.2)) == Postprocessing("sigmoid", 0.2, ())
    assert after(SIGMOID).threshold == 0.5
    assert after(discrete(argmax=[True])).activation == "softmax"
    assert after(SOFTMAX, discrete(threshold=0.5)).activation == "softmax"


@pytest.mark.parametrize(
    ("transforms", "said"),
    [
        ([], "no Activationsd"),
        ([{"_target_": "Activationsd", "other": "$torch.exp"}], "other is not supported"),
        ([{**SIGMOID, "softmax": True}], "at once"),
        ([SIGMOID, discrete(argmax=True)], "argmax after sigmoid"),
        ([SIGMOID, discrete(threshold=1)], "threshold 1"),
        ([SIGMOID, discrete(threshold=0)], "threshold 0"),
        ([SOFTMAX, discrete(threshold=0.3)], "threshold 0.3 after softmax"),
        ([discrete(threshold=0.3), SIGMOID], "before AsDiscrete"),
        (
            [SOFTMAX, {"_target_": "MapLabelValued", "orig_labels": [1], "target_labels": [2]}],
            "MapLabelValue",
        ),
        ([SOFTMAX, {"_target_": "scripts.Lambda"}], "not MONAI's own"),
        ([SOFTMAX, LARGEST], "`--without KeepLargestConnectedComponentd`"),
        ([SOFTMAX, {"_target_": "FillHolesd"}], "`--without FillHolesd`"),
        ([SOFTMAX, {"_target_": "RemoveSmallObjectsd"}], "`--without RemoveSmallObjectsd`"),
    ],
)
def test_other_postprocessing_is_refused(transforms: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        after(*transforms)


def test_cleaning_is_left_out_where_the_user_says_so() -> None:
    taken = after(SOFTMAX, LARGEST, without=("KeepLargestConnectedComponentd",))
    assert taken.left_out == ("KeepLargestConnectedComponent",)
    with pytest.raises(ConfigError, match="only FillHoles, KeepLargest"):
        after(SOFTMAX, without=("Invertd",))
    with pytest.raises(ConfigError, match="the bundle has none"):
        after(SOFTMAX, without=("FillHolesd",))


@pytest.mark.parametrize(
    ("inferer", "patch", "overlap"),
    [
        ({"_target_": "SlidingWindowInferer", "roi_size": 32, "overlap": [0.1, 0.6, 0.5]}, [32, 32, 32], 0.6),
        (
            {"_target_": "monai.inferers.SlidingWindowInfererAdapt", "roi_size": [16, 32, 48]},
            [16, 32, 48],
            0.25,
        ),
        ({"_target_": "SimpleInferer"}, [64, 64, 32], 0.25),
        ("@another", [8, 8, 8], 0.25),
        (None, [64, 64, 32], 0.25),
    ],
)
def test_the_window_is_the_inferer_s_else_the_metadata_s(
    inferer: Any, patch: list[int], overlap: float
) -> None:
    given = config(inferer=inferer, another={"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8]})
    window = Window.of(given, [64, 64, 32])
    assert (window.patch, window.overlap) == (patch, overlap)


@pytest.mark.parametrize(
    ("inferer", "said"),
    [
        ("$monai.inferers.SlidingWindowInferer([96] * 3)", "never evaluated"),
        ({"_target_": "scripts.MyInferer", "roi_size": [32, 32, 32]}, "not MONAI's own"),
        ({"_target_": "SaliencyInferer"}, "SaliencyInferer is not supported"),
        ({"_target_": "SlidingWindowInferer", "roi_size": [32, -1, 32]}, "not a list of sizes"),
        ({"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "overlap": 1.5}, "overlap 1.5"),
    ],
)
def test_other_inferers_are_refused(inferer: Any, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        Window.of(config(inferer=inferer), ["*", "*", "*"])
