"""A MONAI bundle: its network gives the same through our pipeline, and what would need Python is refused."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.inferer import SlidingWindowInferer

from medpipe.bundle import find_bundle
from medpipe.errors import BundleError, ConfigError
from medpipe.imports import Choices, import_bundle
from medpipe.inference import load_backend
from medpipe.inference.preprocess import Prepared, WayBack
from medpipe.inference.window import slide

from .conftest import INFERENCE, METADATA, NETWORK, write


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
    assert (bundle.id, bundle.version) == ("ours", "0.5.3")
    assert find_bundle("ours", [tmp_path]).hash == bundle.hash
    assert bundle.class_ids == ("spleen", "liver-lobe")
    assert bundle.exclusive and bundle.network.argmax
    assert [spec.threshold for spec in bundle.classes] == [0.333, 0.333], "the likeliest of three is no less"
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
        ({"network_def": {"_target_": "my.own.Network"}}, "my.own.Network is not MONAI's own"),
        ({"network_def": {"_target_": "my.own.UNet", **NETWORK}}, "my.own.UNet is not MONAI's own"),
        ({"network_def": {"_target_": "DenseNet121"}}, "network DenseNet121 is not supported"),
        ({"network_def": {"_target_": "UNet", **NETWORK, "norm": None}}, "network_def norm: null"),
        ({"network_def": {"_target_": "UNet", **NETWORK, "width": 3}}, "UNet of this MONAI has no 'width'"),
        ({"network_def": {"_target_": "UNet", **NETWORK, "act": "FOO"}}, "did you mean 'ELU'"),
        ({"network_def": {"_target_": "UNet", **NETWORK, "spatial_dims": 7}}, "UNet: "),
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
    bundle = import_bundle(folder, tmp_path / "ours", Choices(orientation="LPS"))
    assert bundle.input.orientation == "SPL", (
        "the files' (i, j, k) are MONAI's axes 0, 1, 2, and ours are k, j, i"
    )
    with pytest.raises(ConfigError, match="exists already"):
        import_bundle(folder, tmp_path / "ours", Choices(orientation="LPS"))


def test_the_folder_s_name_is_the_id(tmp_path: Path) -> None:
    folder, _ = write(tmp_path / "theirs")
    with pytest.raises(ConfigError, match=r"say --out .*/spleen$"):
        import_bundle(folder, tmp_path / "ours", Choices(id="spleen"))
    with pytest.raises(ConfigError, match="hyphens: my-spleen"):
        import_bundle(folder, tmp_path / "My spleen")
    assert import_bundle(folder, tmp_path / "ours", Choices(id="ours")).id == "ours"


LARGEST = {"_target_": "KeepLargestConnectedComponentd", "applied_labels": [1]}


def test_a_network_without_its_cleaning_says_so(tmp_path: Path) -> None:
    composed = {"_target_": "Compose", "transforms": [*INFERENCE["postprocessing"]["transforms"], LARGEST]}
    folder, _ = write(tmp_path / "theirs", postprocessing=composed)
    with pytest.raises(BundleError, match="`--without KeepLargestConnectedComponentd`"):
        import_bundle(folder, tmp_path / "ours")
    bundle = import_bundle(folder, tmp_path / "ours", Choices(without=("KeepLargestConnectedComponentd",)))
    assert "without KeepLargestConnectedComponent" in bundle.provenance.data


def test_a_sigmoid_s_threshold_is_every_class_s(tmp_path: Path) -> None:
    transforms = [
        {"_target_": "Activationsd", "sigmoid": True},
        {"_target_": "AsDiscreted", "threshold": 0.2},
    ]
    composed = {"_target_": "Compose", "transforms": transforms}
    folder, _ = write(tmp_path / "theirs", postprocessing=composed)
    with pytest.raises(BundleError, match="channel 0 is background under a sigmoid"):
        import_bundle(folder, tmp_path / "ours")
    regions = json.loads(json.dumps(METADATA).replace("background", "whole"))
    folder, _ = write(tmp_path / "regions", postprocessing=composed, metadata=regions)
    bundle = import_bundle(folder, tmp_path / "ours")
    assert [spec.threshold for spec in bundle.classes] == [0.2, 0.2, 0.2]


def named(*names: str) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(json.dumps(METADATA))
    channels = {str(number): name for number, name in enumerate(names)}
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = channels
    return metadata


def test_classes_have_ids_of_their_own_and_are_at_most_eight(tmp_path: Path) -> None:
    alike = named("background", "lung_upper_lobe_left", "lung_upper_lobe_right")
    bundle = import_bundle(write(tmp_path / "alike", metadata=alike)[0], tmp_path / "ours")
    assert bundle.class_ids == ("lung-upper-lobe-", "lung-upper-lob-2")
    many, _ = write(tmp_path / "many", metadata=named("background", *(f"organ {n}" for n in range(9))))
    with pytest.raises(BundleError, match="9 classes; medpipe takes up to 8"):
        import_bundle(many, tmp_path / "many-organs")


@pytest.mark.parametrize(
    "channel_def", [["background", "spleen", "liver"], {"background": 0, "spleen": 1, "liver": 2}]
)
def test_channels_are_named_either_way(channel_def: Any, tmp_path: Path) -> None:
    metadata = named()
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = channel_def
    folder, _ = write(tmp_path / "theirs", metadata=metadata)
    assert import_bundle(folder, tmp_path / "ours").class_ids == ("spleen", "liver")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ([], "is no JSON object"),
        ({}, "no network_data_format with inputs"),
        ({"network_data_format": {"inputs": [1]}}, "no network_data_format with inputs"),
        (named("spleen", "liver", "lung"), "channel 0 is 'spleen', not background"),
        (named(), "names no output channel"),
        (named("background"), "no output channel but the background"),
        ({**METADATA, "version": "0.\u00b2"}, None),
    ],
)
def test_metadata_of_any_shape_are_one_line(metadata: Any, said: str | None, tmp_path: Path) -> None:
    folder, _ = write(tmp_path / "theirs", metadata=metadata)
    if said is None:
        assert import_bundle(folder, tmp_path / "ours").version == "0.0.0"
        return
    with pytest.raises(BundleError, match=said) as refusal:
        import_bundle(folder, tmp_path / "ours")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04xx", b"[" * 100_000])
def test_a_file_that_is_none_is_one_line(content: bytes, tmp_path: Path) -> None:
    folder, _ = write(tmp_path / "theirs")
    for path in (folder / "models" / "model.pt", folder / "configs" / "metadata.json"):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="cannot be read as") as refusal:
            import_bundle(folder, tmp_path / "ours")
        assert "\n" not in str(refusal.value)


def test_tensors_without_plain_values_are_refused(tmp_path: Path) -> None:
    folder, network = write(tmp_path / "theirs")
    path = folder / "models" / "model.pt"
    weights = network.state_dict()
    name = "model.0.conv.unit0.conv.bias"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells that sparse tensors may change
        torch.save({**weights, name: weights[name].to_sparse()}, path)
        with pytest.raises(BundleError, match="sparse, quantised or empty"):
            import_bundle(folder, tmp_path / "ours")
    torch.save({**weights, name: weights[name] * float("nan")}, path)
    with pytest.raises(BundleError, match="no numbers"):
        import_bundle(folder, tmp_path / "ours")


def test_a_checkpoint_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    folder, _ = write(tmp_path / "theirs")
    with zipfile.ZipFile(folder / "models" / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data/0", bytes(80 * 2**20))
    with pytest.raises(BundleError, match="would unpack to"):
        import_bundle(folder, tmp_path / "ours")
