"""MONAI's networks by name are built as they were trained, and nothing is fetched for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks import nets
from monai.networks.nets.unet import UNet

from medpipe.imports import import_bundle
from medpipe.imports.monai_config import Config
from medpipe.imports.monai_network import network_of
from medpipe.inference import load_backend
from medpipe.inference.backends import load_network
from medpipe.inference.foreign import build_monai

from .conftest import NETWORK, write


def test_a_layer_with_settings_is_built_as_it_was(tmp_path: Path) -> None:
    layers = {"norm": ["instance", {"affine": True}], "act": ["PRELU", {"init": 0.1}], "dropout": 0.0}
    network = UNet(**{**NETWORK, **layers}).eval()  # type: ignore[arg-type]
    folder, _ = write(
        tmp_path / "theirs", made=network, network_def={"_target_": "UNet", **NETWORK, **layers}
    )
    bundle = import_bundle(folder, tmp_path / "ours")
    assert bundle.network.hyper["norm"] == ["instance", {"affine": True}]
    patch = torch.randn(1, 1, 32, 48, 32)
    with torch.inference_mode():
        assert torch.equal(load_network(bundle)(patch), network(patch))


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"spatial_dims": 2, "out_channels": 3, "backbone": "efficientnet-b0", "pretrained": True}
    config = Config({"network_def": {"_target_": "FlexibleUNet", **given}}, Path("inference.json"))
    network, _ = network_of(write(tmp_path / "theirs")[0], config, 3)
    assert network["hyper"]["pretrained"] is False
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("asked for the network"))
    small = {"decoder_channels": (4, 4, 4, 4, 4), "in_channels": 1, "classes": 3}
    build_monai("monai", **{**network["hyper"], **small, "pretrained": True})  # whatever a bundle.toml says


def test_what_this_monai_gave_up_is_left_out(tmp_path: Path) -> None:
    given = {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "feature_size": 12,
        "img_size": [32, 32, 32],
    }
    config = Config({"network_def": {"_target_": "SwinUNETR", **given}}, Path("inference.json"))
    folder, _ = write(tmp_path / "theirs")
    network, _ = network_of(folder, config, 3)
    assert network["hyper"] == {"target": "SwinUNETR", "spatial_dims": 3, "feature_size": 12}
    null = {"_target_": "SegResNet", "out_channels": 3, "dropout_prob": None}
    network, _ = network_of(folder, Config({"network_def": null}, Path("inference.json")), 3)
    assert network["hyper"] == {"target": "SegResNet"}


@pytest.mark.parametrize("name", [pytest.param("SwinUNETR", marks=pytest.mark.slow), "UNETR"])
def test_a_transformer_is_built_as_it_was(name: str, tmp_path: Path) -> None:
    """SwinUNETR of MONAI before 1.5 states the size of its images, which changes nothing; UNETR hangs on it."""
    hyper: dict[str, Any] = {
        "in_channels": 1,
        "out_channels": 3,
        "img_size": [64, 32, 32],
        "feature_size": 12,
    }
    if name == "UNETR":
        hyper |= {"feature_size": 4, "hidden_size": 24, "mlp_dim": 32, "num_heads": 2}
    torch.manual_seed(0)
    made = getattr(nets, name)(
        **{k: v for k, v in hyper.items() if name == "UNETR" or k != "img_size"}
    ).eval()
    folder, _ = write(
        tmp_path / "theirs",
        made=made,
        network_def={"_target_": name, **hyper},
        inferer={"_target_": "SlidingWindowInferer", "roi_size": [64, 32, 32]},
    )
    bundle = import_bundle(folder, tmp_path / "ours")
    patch = np.random.default_rng(0).normal(size=(1, 1, 64, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = torch.softmax(made(torch.from_numpy(patch)), dim=1)[:, 1:].numpy()
    ran = load_backend(bundle, device="cpu", backend="torch", precision="f32")(patch)
    assert np.abs(ran - expected).max() < 1e-4
