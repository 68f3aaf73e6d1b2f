"""A TorchScript or ONNX file with a description runs through the pipeline; without one it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from torch import nn

from medpipe.errors import BundleError, ConfigError
from medpipe.imports import Choices, import_bundle
from medpipe.inference import load_backend

DESCRIPTION = {
    "title": "Spots",
    "network": {"activation": "sigmoid"},
    "input": {
        "modality": ["US"],
        "channels": 1,
        "spatial_dims": 2,
        "normalise": {"kind": "percentile", "low": 0.0, "high": 100.0},
    },
    "classes": [
        {
            "id": "SPOT",
            "name": "Spot",
            "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
            "type": ["52988006", "SCT", "Lesion"],
            "colour_cielab": [60.0, 60.0, 40.0],
            "threshold": 0.5,
        }
    ],
    "window": {"patch": [32, 48]},
}


def small(channels: int = 1) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, channels, 1)).eval()


def described(folder: Path, **changes: object) -> Path:
    path = folder / "description.toml"
    path.write_text(tomli_w.dumps({**DESCRIPTION, **changes}))
    return path


def onnx_file(network: nn.Module, path: Path) -> Path:
    torch.onnx.export(network, (torch.zeros(1, 1, 32, 48),), str(path), dynamo=False)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("activation", "channels"), [("sigmoid", 1), ("softmax", 2)])
def test_an_onnx_file_gives_what_the_network_gave(activation: str, channels: int, tmp_path: Path) -> None:
    network = small(channels)
    description = described(tmp_path, network={"activation": activation})
    bundle = import_bundle(
        onnx_file(network, tmp_path / "net.onnx"), tmp_path / "spots", Choices(description=description)
    )
    patch = np.random.default_rng(0).normal(size=(1, 1, 32, 48)).astype(np.float32)
    with torch.inference_mode():
        logits = network(torch.from_numpy(patch))
    expected = torch.sigmoid(logits) if activation == "sigmoid" else torch.softmax(logits, 1)[:, 1:]
    ran = load_backend(bundle, device="cpu", precision="f32", cache=tmp_path / "cache")(patch)
    assert np.abs(ran - expected.numpy()).max() < 1e-4
    with pytest.raises(BundleError, match="openvino"):
        load_backend(bundle, device="cpu", backend="torch")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_file_gives_what_the_network_gave(tmp_path: Path) -> None:
    network = small()
    torch.jit.script(network).save(tmp_path / "net.pt")
    choices = Choices(description=described(tmp_path), licence="CC0")
    bundle = import_bundle(tmp_path / "net.pt", tmp_path / "spots", choices)
    patch = np.random.default_rng(0).normal(size=(1, 1, 32, 48)).astype(np.float32)
    with torch.inference_mode():
        expected = torch.sigmoid(network(torch.from_numpy(patch))).numpy()
    for backend in ("torch", "openvino"):
        ran = load_backend(bundle, device="cpu", backend=backend, precision="f32", cache=tmp_path / "cache")(
            patch
        )
        assert np.abs(ran - expected).max() < 1e-4
    assert bundle.provenance.licence == "CC0"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    torch.jit.script(small()).save(tmp_path / "net.ts")
    bundle = import_bundle(tmp_path / "net.ts", tmp_path / "spots", Choices(description=described(tmp_path)))
    from medpipe.bundle import load_bundle

    torch.jit.script(small(3)).save(bundle.weights)
    with pytest.raises(BundleError, match="weights were changed"):
        load_bundle(bundle.folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_channels_that_are_not_the_classes_are_refused(tmp_path: Path) -> None:
    torch.jit.script(small(2)).save(tmp_path / "net.ts")
    with pytest.raises(BundleError, match="the network gives"):
        import_bundle(tmp_path / "net.ts", tmp_path / "spots", Choices(description=described(tmp_path)))


def test_a_file_without_description_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no network")
    with pytest.raises(ConfigError, match="--description is needed"):
        import_bundle(tmp_path / "net.onnx", tmp_path / "spots")
    with pytest.raises(BundleError, match="cannot read it"):
        import_bundle(tmp_path / "net.onnx", tmp_path / "spots", Choices(description=described(tmp_path)))
    (tmp_path / "net.h5").write_bytes(b"")
    with pytest.raises(ConfigError, match="not a network's file"):
        import_bundle(tmp_path / "net.h5", tmp_path / "spots")
    with pytest.raises(ConfigError, match="neither a MONAI bundle"):
        import_bundle(tmp_path, tmp_path / "spots")
