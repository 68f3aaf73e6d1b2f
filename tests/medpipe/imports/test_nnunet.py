"""An nnU-Net result folder: plans, transposed axes, numpy numbers in the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medpipe.bundle import find_bundle
from medpipe.errors import BundleError, ConfigError
from medpipe.imports import Choices, import_bundle
from medpipe.inference import load_backend
from medpipe.inference.preprocess import Prepared, WayBack
from medpipe.inference.window import slide
from nets.plain_conv_unet import PlainConvUNet

ARCHITECTURE: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 8, 12],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
}
FULL = {
    "patch_size": [16, 32, 24],
    "spacing": [3.0, 1.0, 1.5],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "architecture": ARCHITECTURE,
}
CT = {"mean": 50.0, "std": 40.0, "percentile_00_5": -100.0, "percentile_99_5": 300.0}
LPS = Choices(orientation="LPS")
EMPTY: Mapping[str, Any] = {}


def built(**changes: Any) -> dict[str, Any]:
    """The configuration with other arguments of its network."""
    return {"architecture": {**ARCHITECTURE, "arch_kwargs": {**ARCHITECTURE["arch_kwargs"], **changes}}}


def network() -> PlainConvUNet:
    torch.manual_seed(0)
    given = ARCHITECTURE["arch_kwargs"]
    return PlainConvUNet(
        1, 3, given["features_per_stage"], given["kernel_sizes"], given["strides"], [2, 2, 2], [2, 2]
    ).eval()


def write(
    folder: Path,
    transpose: Sequence[int] = (0, 1, 2),
    *,
    over_plans: Mapping[str, Any] = EMPTY,
    over_dataset: Mapping[str, Any] = EMPTY,
    over_checkpoint: Mapping[str, Any] = EMPTY,
    **changes: Any,
) -> Path:
    """A result folder as nnU-Net leaves it: weights under both names, heads of deep supervision, a log of numbers."""
    (folder / "fold_0").mkdir(parents=True)
    plans = {
        "dataset_name": "Dataset004_Vessel",
        "transpose_forward": list(transpose),
        "foreground_intensity_properties_per_channel": {"0": CT},
        "configurations": {"3d_fullres": {**FULL, **changes}, "3d_lowres": {"inherits_from": "3d_fullres"}},
    }
    labels = {"background": 0, "vessel": 1, "tumour": 2}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels}
    (folder / "plans.json").write_text(json.dumps({**plans, **over_plans}))
    (folder / "dataset.json").write_text(json.dumps({**dataset, **over_dataset}))
    weights: dict[str, torch.Tensor] = {}
    for name, value in network().state_dict().items():
        theirs = name.replace("decoder.head.", "decoder.seg_layers.1.")
        weights[theirs] = value
        if ".convs." in theirs:
            weights[theirs.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")] = value
        if theirs.startswith("encoder."):
            weights[f"decoder.{theirs}"] = value
    weights["decoder.seg_layers.0.weight"] = torch.zeros(3, 8, 1, 1, 1)
    weights["decoder.seg_layers.0.bias"] = torch.zeros(3)
    numbers = [np.float64(0.5), np.float32(0.25), np.float16(0.5), np.int32(3), np.uint8(1), np.bool_(True)]
    log = {"mean_fg_dice": numbers, "ema": np.zeros(2)}
    checkpoint = {"network_weights": weights, "logging": log, "init_args": {"configuration": "3d_fullres"}}
    torch.save({**checkpoint, **over_checkpoint}, folder / "fold_0" / "checkpoint_final.pth")
    return folder


@pytest.mark.parametrize("transpose", [[0, 1, 2], [2, 0, 1], [1, 0, 2]])
def test_the_network_sees_source_axes_and_gives_the_same(transpose: list[int], tmp_path: Path) -> None:
    bundle = import_bundle(write(tmp_path / "result", transpose), tmp_path / "ours", LPS)
    theirs = np.random.default_rng(0).normal(size=(16, 32, 24)).astype(np.float32)
    with torch.inference_mode():
        expected = torch.softmax(network()(torch.from_numpy(theirs)[None, None]), dim=1)[0, 1:].numpy()
    back = np.argsort(transpose)  # what they transposed by `transpose` lay so in the file
    ran = load_backend(bundle, device="cpu", backend="torch", precision="f32")(
        theirs.transpose(back)[None, None]
    )
    assert bundle.window.patch == theirs.transpose(back).shape
    assert bundle.input.spacing == tuple([3.0, 1.0, 1.5][axis] for axis in back)
    assert np.abs(ran[0].transpose(0, *(1 + axis for axis in transpose)) - expected).max() < 1e-4


def test_what_plans_and_dataset_say_is_in_the_bundle(tmp_path: Path) -> None:
    bundle = import_bundle(write(tmp_path / "result", [0, 1, 2]), tmp_path / "ours", LPS)
    assert bundle.id == "ours"
    assert find_bundle("ours", [tmp_path]).hash == bundle.hash
    assert bundle.class_ids == ("vessel", "tumour")
    assert bundle.exclusive
    assert bundle.input.modality == ("CT",)
    assert bundle.window.padding == "zero", "around a small volume nnU-Net puts zeros, after normalisation"
    normalise = bundle.input.normalise.model_dump()
    for hu in (-100.0, 50.0, 210.0):
        unit = (hu - normalise["low"]) / (normalise["high"] - normalise["low"])
        assert (unit - normalise["mean"]) / normalise["std"] == pytest.approx((hu - 50) / 40)


def test_orientation_is_asked_for_and_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--orientation is needed"):
        import_bundle(write(tmp_path / "result", [0, 1, 2]), tmp_path / "ours")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"previous_stage": "3d_lowres"}, "cascade"),
        ({"normalization_schemes": ["NoNormalization"]}, "NoNormalization"),
        ({"use_mask_for_norm": [True], "normalization_schemes": ["ZScoreNormalization"]}, "within a mask"),
        ({"architecture": None}, "says no architecture"),
        ({"architecture": {**ARCHITECTURE, "network_class_name": "my.Net"}}, "my.Net is not supported"),
        (
            {"architecture": {**ARCHITECTURE, "arch_kwargs": {**ARCHITECTURE["arch_kwargs"], "nonlin": "X"}}},
            "nonlin 'X'",
        ),
        (built(nonlin_kwargs={"negative_slope": 0.2}), "negative_slope 0.2"),
        (built(norm_op_kwargs={"eps": 0.01, "affine": True}), "eps 0.01"),
        (built(norm_op_kwargs={"eps": 1e-5, "affine": False}), "affine False"),
        (built(nonlin_first=True), "nonlin_first True"),
        (built(kernel_sizes=None), "kernel_sizes are not one per stage"),
        (built(strides=[[1, 1], [2, 2], [2, 2]]), "strides are not 3 sizes"),
        (built(features_per_stage=[4, 8]), "features_per_stage are not 3"),
        ({"spacing": None}, "no spacing"),
        ({"inherits_from": "3d_fullres"}, "inherits from itself"),
        ({"over_plans": {"foreground_intensity_properties_per_channel": {}}}, "no intensities of channel 0"),
        ({"over_plans": {"transpose_forward": [2, 1]}}, "no order of three axes"),
        ({"over_plans": {"configurations": []}}, "no configuration '3d_fullres'"),
        ({"over_dataset": {"labels": {"background": 0, "a": "x"}}}, "not whole numbers"),
        ({"over_dataset": {"labels": {"background": 0, "a": 2}}}, "without gaps"),
        ({"over_dataset": {"channel_names": {"0": "T1", "1": "T2"}}}, "takes 2 channels"),
        ({"over_checkpoint": {"init_args": 5}}, "no configuration 'result'"),
        ({"over_checkpoint": {"network_weights": {"a": 3}}}, "a is no tensor"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=said):
        import_bundle(write(tmp_path / "result", [0, 1, 2], **changes), tmp_path / "ours", LPS)


def test_a_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "result", [0, 1, 2])
    torch.save({"network_weights": {}, "trainer": Path}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(BundleError, match="pickled code"):
        import_bundle(folder, tmp_path / "ours", LPS)


def test_a_reader_that_turns_every_file_says_the_orientation(tmp_path: Path) -> None:
    folder = write(tmp_path / "result", over_plans={"image_reader_writer": "NibabelIOWithReorient"})
    with pytest.raises(ConfigError, match="every file was turned to RAS"):
        import_bundle(folder, tmp_path / "ours", LPS)
    assert import_bundle(folder, tmp_path / "ours").input.orientation == "RAS"


def test_plans_of_before_2_4_say_the_same_network(tmp_path: Path) -> None:
    given = ARCHITECTURE["arch_kwargs"]
    old = {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 12,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_kernel_sizes": given["kernel_sizes"],
        "pool_op_kernel_sizes": given["strides"],
    }
    kept = {key: value for key, value in FULL.items() if key != "architecture"}
    folder = write(tmp_path / "result", over_plans={"configurations": {"3d_fullres": {**kept, **old}}})
    newer = import_bundle(write(tmp_path / "newer"), tmp_path / "theirs", LPS)
    older = import_bundle(folder, tmp_path / "ours", LPS)
    assert older.network.hyper == newer.network.hyper
    assert older.weights_sha256 == newer.weights_sha256
    with pytest.raises(BundleError, match="cannot be taken: KeyError 'UNet_base_num_features'"):
        old.pop("UNet_base_num_features")
        lacking = {"configurations": {"3d_fullres": {**kept, **old}}}
        import_bundle(write(tmp_path / "lacking", over_plans=lacking), tmp_path / "none", LPS)


def test_a_list_of_one_label_is_that_label(tmp_path: Path) -> None:
    labels = {"background": 0, "tumour": [2], "vessel": 1, "ignore": 3}
    bundle = import_bundle(
        write(tmp_path / "result", over_dataset={"labels": labels}), tmp_path / "ours", LPS
    )
    assert bundle.class_ids == ("vessel", "tumour")
    assert bundle.exclusive


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_flat_patch_runs_with_mirrored_views(backend: str, tmp_path: Path) -> None:
    bundle = import_bundle(write(tmp_path / "result", patch_size=[6, 32, 24]), tmp_path / "ours", LPS)
    assert bundle.window.patch == (6, 32, 24)
    array = np.random.default_rng(0).normal(size=(1, 5, 40, 20)).astype(np.float32)
    whole = Prepared(array, None, WayBack(array.shape[1:], working=array.shape[1:]))
    ran = load_backend(bundle, device="cpu", backend=backend, precision="f32", cache=tmp_path / "cache")
    seen = slide(whole, bundle, ran, tta=True)
    assert seen.spread is not None
    assert seen.probability.shape == (2, 5, 40, 20)
    assert np.isfinite(seen.probability).all()
    assert 0 < seen.spread.max() < 0.5
    reference = load_backend(bundle, device="cpu", backend="torch", precision="f32")
    assert np.abs(seen.probability - slide(whole, bundle, reference, tta=True).probability).max() < 2e-3
