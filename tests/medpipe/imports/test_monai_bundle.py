"""A MONAI bundle: its network gives the same through our pipeline, and what would need Python is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.inferer import SlidingWindowInferer
from monai.networks.nets import UNet

from medpipe.errors import BundleError, ConfigError
from medpipe.imports import Choices, import_bundle
from medpipe.inference import load_backend
from medpipe.inference.preprocess import Prepared, WayBack
from medpipe.inference.window import slide

NETWORK = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8, 16],
    "strides": [2, 2],
    "num_res_units": 1,
}
METADATA = {
    "name": "Spleen and liver",
    "version": "0.5.3",
    "network_data_format": {
        "inputs": {"image": {"modality": "CT", "num_channels": 1, "spatial_shape": [32, 32, 32]}},
        "outputs": {
            "pred": {"num_channels": 3, "channel_def": {"0": "background", "1": "spleen", "2": "liver lobe"}}
        },
    },
}
INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    "spacing": [2.0, 1.5, 1.0],
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "network_def": {"_target_": "UNet", **NETWORK},
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": "@spacing", "mode": "bilinear"},
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "image",
                "a_min": -57,
                "a_max": 164,
                "b_min": -1.0,
                "b_max": 1.0,
                "clip": True,
            },
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 48, 32], "overlap": 0.5},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "transform": "$@preprocessing"},
        ],
    },
}


def write(folder: Path, *, script: bool = False, **changes: Any) -> tuple[Path, torch.nn.Module]:
    """A bundle folder of random weights; `changes` replace keys of inference.json."""
    torch.manual_seed(0)
    network = UNet(**NETWORK).eval()  # type: ignore[arg-type]
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    (folder / "configs" / "inference.json").write_text(json.dumps({**INFERENCE, **changes}))
    if script:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of the sizes it fixes: they are the window's
            torch.jit.trace(network, torch.zeros(1, 1, 32, 48, 32)).save(folder / "models" / "model.ts")
    else:
        torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder, network


@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_the_network_gives_what_monai_s_gives(script: bool, backend: str, tmp_path: Path) -> None:
    folder, network = write(tmp_path / "theirs", script=script)
    bundle = import_bundle(folder, tmp_path / "ours")
    patch = np.random.default_rng(0).normal(size=(1, 1, 32, 48, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = torch.softmax(network(torch.from_numpy(patch)), dim=1)[:, 1:].numpy()
    ran = load_backend(bundle, device="cpu", backend=backend, precision="f32", cache=tmp_path / "cache")(
        patch
    )
    assert np.abs(ran - expected).max() < 2e-3


def test_what_the_metadata_say_is_in_the_bundle(tmp_path: Path) -> None:
    bundle = import_bundle(write(tmp_path / "theirs")[0], tmp_path / "ours")
    assert (bundle.id, bundle.version) == ("spleen-and-liver", "0.5.3")
    assert bundle.class_ids == ("spleen", "liver-lobe")
    assert bundle.exclusive
    assert bundle.window.patch == (32, 48, 32)
    assert bundle.input.orientation == "SAR", (
        "their first axis runs to the right; ours is written from i to k"
    )
    assert bundle.input.spacing == (2.0, 1.5, 1.0)
    normalise = bundle.input.normalise.model_dump()
    for hu, wanted in ((-57, -1.0), (164, 1.0), (53.5, 0.0)):
        unit = (hu - normalise["low"]) / (normalise["high"] - normalise["low"])
        assert (unit - normalise["mean"]) / normalise["std"] == pytest.approx(wanted)


@pytest.mark.parametrize("mode", ["constant", "replicate"])
def test_around_a_small_volume_the_network_sees_what_it_would_see_in_monai(mode: str, tmp_path: Path) -> None:
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [32, 48, 32], "padding_mode": mode}
    folder, network = write(tmp_path / "theirs", inferer=inferer)
    bundle = import_bundle(folder, tmp_path / "ours")
    array = np.random.default_rng(0).normal(size=(1, 20, 30, 28)).astype(np.float32)
    with torch.inference_mode():
        theirs = SlidingWindowInferer([32, 48, 32], mode="gaussian", padding_mode=mode)
        logits = theirs(torch.from_numpy(array)[None], network)
        assert isinstance(logits, torch.Tensor)
        expected = torch.softmax(logits, dim=1)[0, 1:].numpy()
    whole = Prepared(array, None, WayBack(array.shape[1:], working=array.shape[1:]))
    ours = slide(whole, bundle, load_backend(bundle, device="cpu", backend="torch", precision="f32"))
    assert np.abs(ours.probability - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"inferer": {"_target_": "SlidingWindowInferer", "padding_mode": "reflect"}},
            "padding_mode 'reflect'",
        ),
        ({"inferer": {"_target_": "SlidingWindowInferer", "cval": -1}}, "cval 0"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": "$[32] * 3"}}, "never evaluated"),
        ({"spacing": "$__import__('os').system('true')"}, "never evaluated"),
        ({"spacing": "@nowhere"}, "refers to 'nowhere'"),
        ({"spacing": "@spacing"}, "refers to itself"),
        ({"network_def": {"_target_": "my.own.Network"}}, "network Network is not supported"),
        ({"network_def": {"_target_": "UNet", **NETWORK, "channels": "$range(3)"}}, "never evaluated"),
        ({"preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Rotate90d"}]}}, "Rotate90d"),
        ({"preprocessing": {"_target_": "Compose", "transforms": []}}, "how values are normalised"),
        ({"postprocessing": {"_target_": "Compose", "transforms": []}}, "no Activationsd"),
    ],
)
def test_what_needs_python_is_refused_in_one_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder, _ = write(tmp_path / "theirs", **changes)
    with pytest.raises(BundleError, match=said) as refusal:
        import_bundle(folder, tmp_path / "ours")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "ours").exists()


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    folder, _ = write(tmp_path / "theirs")

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"state_dict": Trap()}, folder / "models" / "model.pt")
    with pytest.raises(BundleError, match="pickled code"):
        import_bundle(folder, tmp_path / "ours")
    assert not (tmp_path / "sprung").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    folder, _ = write(tmp_path / "theirs")
    torch.save({"a.weight": torch.zeros(3)}, folder / "models" / "model.pt")
    with pytest.raises(BundleError, match="do not fit"):
        import_bundle(folder, tmp_path / "ours")


def test_what_is_not_said_is_asked_for(tmp_path: Path) -> None:
    transforms = [t for t in INFERENCE["preprocessing"]["transforms"] if t["_target_"] != "Orientationd"]
    folder, _ = write(tmp_path / "theirs", preprocessing={"_target_": "Compose", "transforms": transforms})
    with pytest.raises(ConfigError, match="--orientation is needed"):
        import_bundle(folder, tmp_path / "ours")
    assert import_bundle(folder, tmp_path / "ours", Choices(orientation="LPS")).input.orientation == "LPS"
    with pytest.raises(ConfigError, match="exists already"):
        import_bundle(folder, tmp_path / "ours", Choices(orientation="LPS"))
