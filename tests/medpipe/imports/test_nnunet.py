"""An nnU-Net result folder: plans, transposed axes, numpy numbers in the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medpipe.errors import BundleError, ConfigError
from medpipe.imports import Choices, import_bundle
from medpipe.inference import load_backend
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


def network() -> PlainConvUNet:
    torch.manual_seed(0)
    given = ARCHITECTURE["arch_kwargs"]
    return PlainConvUNet(
        1, 3, given["features_per_stage"], given["kernel_sizes"], given["strides"], [2, 2, 2], [2, 2]
    ).eval()


def write(folder: Path, transpose: list[int], **changes: Any) -> Path:
    """A result folder as nnU-Net leaves it: weights under both names, heads of deep supervision, a log of numbers."""
    (folder / "fold_0").mkdir(parents=True)
    plans = {
        "dataset_name": "Dataset004_Vessel",
        "transpose_forward": transpose,
        "foreground_intensity_properties_per_channel": {"0": CT},
        "configurations": {"3d_fullres": {**FULL, **changes}, "3d_lowres": {"inherits_from": "3d_fullres"}},
    }
    labels = {"background": 0, "vessel": 1, "tumour": 2}
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
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
    log = {"mean_fg_dice": [np.float64(0.5)], "ema": np.float32(0.25)}
    checkpoint = {"network_weights": weights, "logging": log, "init_args": {"configuration": "3d_fullres"}}
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
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
    assert bundle.id == "dataset004-vessel"
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
        ({"architecture": None}, "before 2.4"),
        ({"architecture": {**ARCHITECTURE, "network_class_name": "my.Net"}}, "my.Net is not supported"),
        (
            {"architecture": {**ARCHITECTURE, "arch_kwargs": {**ARCHITECTURE["arch_kwargs"], "nonlin": "X"}}},
            "nonlin 'X'",
        ),
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
