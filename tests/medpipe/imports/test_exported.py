"""A TorchScript or ONNX file with a description runs through the pipeline; without one it is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tomli_w
import torch
from torch import nn

from medpipe.bundle import find_bundle
from medpipe.errors import BundleError, ConfigError
from medpipe.imports import Choices, import_bundle
from medpipe.imports.source import telling_line
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
    torch.jit.script(network).save(tmp_path / "net.pt")  # type: ignore[no-untyped-call]
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
    torch.jit.script(small()).save(tmp_path / "net.ts")  # type: ignore[no-untyped-call]
    bundle = import_bundle(tmp_path / "net.ts", tmp_path / "spots", Choices(description=described(tmp_path)))
    from medpipe.bundle import load_bundle

    torch.jit.script(small(3)).save(bundle.weights)  # type: ignore[no-untyped-call]
    with pytest.raises(BundleError, match="weights were changed"):
        load_bundle(bundle.folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_channels_that_are_not_the_classes_are_refused(tmp_path: Path) -> None:
    torch.jit.script(small(2)).save(tmp_path / "net.ts")  # type: ignore[no-untyped-call]
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


def traced(network: nn.Module, path: Path, size: tuple[int, ...] = (32, 48)) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces a successor of its TorchScript
        torch.jit.trace(network.eval(), torch.zeros(1, 1, *size), strict=False).save(path)  # type: ignore[no-untyped-call]
    return path


def exported(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return onnx_file(network.eval(), path)


def test_what_the_user_says_holds_over_the_description(tmp_path: Path) -> None:
    stated = {"data": "mine", "licence": "unknown"}
    choices = Choices(
        description=described(tmp_path, provenance=stated), licence="CC0", modality="OP", orientation="LPS"
    )
    bundle = import_bundle(traced(small(), tmp_path / "net.ts"), tmp_path / "spots", choices)
    assert (bundle.provenance.data, bundle.provenance.licence) == ("mine", "CC0")
    assert (bundle.input.modality, bundle.input.orientation) == (("OP",), "LPS")
    assert find_bundle("spots", [tmp_path]).hash == bundle.hash
    with pytest.raises(ConfigError, match="id 'dots' is not the name of the folder"):
        import_bundle(
            tmp_path / "net.ts", tmp_path / "others", Choices(description=described(tmp_path, id="dots"))
        )
    with pytest.raises(ConfigError, match="--without goes with MONAI"):
        import_bundle(tmp_path / "net.ts", tmp_path / "others", Choices(without=("FillHolesd",)))


class _Ends(nn.Module):
    """A network that ends as `last` says."""

    def __init__(self, last: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.last = small(channels), last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.body(x))
        return y


@pytest.mark.parametrize("write", [traced, exported])
@pytest.mark.parametrize(
    ("last", "activation", "channels"), [(nn.Sigmoid(), "sigmoid", 1), (nn.Softmax(1), "softmax", 2)]
)
def test_a_network_with_its_own_activation_is_refused(
    write: Callable[[nn.Module, Path], Path], last: nn.Module, activation: str, channels: int, tmp_path: Path
) -> None:
    path = write(_Ends(last, channels), tmp_path / ("net.ts" if write is traced else "net.onnx"))
    description = described(tmp_path, network={"activation": activation})
    with pytest.raises(BundleError, match="without that last step"):
        import_bundle(path, tmp_path / "spots", Choices(description=description))
    assert not (tmp_path / "spots").exists()


class _Gives(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.body = kind, small()

    def forward(self, x: torch.Tensor) -> object:
        y = self.body(x)
        if self.kind == "nan":
            return y * float("nan")
        return (y, y + 1) if self.kind == "two" else {"out": y}


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("two", "net.ts", "a tuple of outputs"),
        ("dict", "net.ts", "a dict of outputs"),
        ("nan", "net.ts", "no numbers"),
        ("two", "net.onnx", "has 2 outputs"),
        ("nan", "net.onnx", "no numbers"),
    ],
)
def test_other_outputs_are_one_line(kind: str, name: str, said: str, tmp_path: Path) -> None:
    write = traced if name == "net.ts" else exported
    path = write(_Gives(kind), tmp_path / name)
    with pytest.raises(BundleError, match=said) as refusal:
        import_bundle(path, tmp_path / "spots", Choices(description=described(tmp_path)))
    assert "\n" not in str(refusal.value)


def test_a_network_that_takes_other_pictures_is_one_line(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        colour = nn.Conv2d(3, 1, 3, padding=1).eval()
        torch.onnx.export(colour, (torch.zeros(1, 3, 32, 48),), str(tmp_path / "colour.onnx"), dynamo=False)
    volumes = {**DESCRIPTION["input"], "spatial_dims": 3, "orientation": "LPS"}  # type: ignore[dict-item]
    for path, changes, said in (
        (tmp_path / "colour.onnx", {}, "does not take a patch"),
        (
            traced(small(), tmp_path / "net.ts"),
            {"input": volumes, "window": {"patch": [16, 32, 48]}},
            "the network fails on a patch",
        ),
    ):
        with pytest.raises(BundleError, match=said) as refusal:
            import_bundle(path, tmp_path / "spots", Choices(description=described(tmp_path, **changes)))
        assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_network_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(BundleError, match=r"weights\.pt") as refusal:
        import_bundle(path, tmp_path / "spots", Choices(description=described(tmp_path)))
    assert "model.ts" not in str(refusal.value)


def test_how_volumes_lay_is_asked_for(tmp_path: Path) -> None:
    volumes = {**DESCRIPTION["input"], "spatial_dims": 3}  # type: ignore[dict-item]
    path = traced(nn.Conv3d(1, 1, 3, padding=1).eval(), tmp_path / "net.ts", (16, 32, 48))
    description = described(tmp_path, input=volumes, window={"patch": [16, 32, 48]})
    with pytest.raises(ConfigError, match=r"--orientation is needed: neither .* nor .*\.toml says"):
        import_bundle(path, tmp_path / "spots", Choices(description=description))
    import_bundle(path, tmp_path / "spots", Choices(description=description, orientation="RAS"))
    assert find_bundle("spots", [tmp_path]).input.orientation == "RAS"


def test_weights_in_a_file_of_their_own_are_named(tmp_path: Path) -> None:
    path = exported(small(), tmp_path / "net.onnx")
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0
    )
    with pytest.raises(BundleError, match="external_data=False"):
        import_bundle(path, tmp_path / "spots", Choices(description=described(tmp_path)))


def test_a_torchscript_file_that_writes_is_refused_at_import_and_at_each_load(tmp_path: Path) -> None:
    victim = tmp_path / "victim.bin"
    victim.write_bytes(b"A" * 64)

    class Writes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            there = torch.from_file(str(victim), shared=True, size=64, dtype=torch.uint8).fill_(66)
            return x + there.float().mean()

    attack = traced(Writes(), tmp_path / "attack.ts")
    victim.write_bytes(b"A" * 64)
    choices = Choices(description=described(tmp_path))
    with pytest.raises(BundleError, match="reach files or the network"):
        import_bundle(attack, tmp_path / "attacked", choices)
    bundle = import_bundle(traced(small(), tmp_path / "net.ts"), tmp_path / "spots", choices)
    bundle.weights.write_bytes(attack.read_bytes())
    for backend in ("torch", "openvino"):
        with pytest.raises(BundleError, match="reach files or the network"):
            load_backend(bundle, device="cpu", backend=backend, cache=tmp_path / "cache")
    assert victim.read_bytes() == b"A" * 64


def test_a_description_nested_without_end_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 5000)
    (tmp_path / "net.ts").write_bytes(b"")
    with pytest.raises(ConfigError, match="nested too deep"):
        import_bundle(tmp_path / "net.ts", tmp_path / "spots", Choices(description=path))


def test_what_nobody_foresaw_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "net.ts").write_bytes(b"")
    description = described(tmp_path, classes="none")
    with pytest.raises(BundleError) as refusal:
        import_bundle(tmp_path / "net.ts", tmp_path / "spots", Choices(description=description))
    assert "\n" not in str(refusal.value)
    many = RuntimeError("Exception from core.cpp:84:\nCheck 'x' failed at a.cpp:1:\nNo such operator\nmore")
    assert telling_line(many) == "No such operator"
    assert telling_line(KeyError("spacing")) == "KeyError 'spacing'"
