"""torch and OpenVINO: the same probabilities, a cache that several processes may share, no telemetry."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medpipe.bundle import SHIPPED, Bundle, load_bundle
from medpipe.errors import BundleError, ConfigError
from medpipe.inference import load_backend, load_network
from nets import registry

TOLERANCE = 1e-3
"""Largest difference of a probability between torch and OpenVINO in f32; stated in docs and card."""

DESCRIPTION = """
id = "made-here"
version = "1.0.0"
title = "Made here"
[network]
name = "{name}"
hyper = {{ {hyper} }}
activation = "{activation}"
[input]
modality = ["OP"]
channels = {channels}
spatial_dims = {dims}
normalise = {{ kind = "z-score" }}
[[classes]]
id = "A"
name = "Spot"
category = ["49755003", "SCT", "Morphologically abnormal structure"]
type = ["52988006", "SCT", "Lesion"]
colour_cielab = [53, 80, 67]
threshold = 0.5
[[classes]]
id = "B"
name = "Spot"
category = ["49755003", "SCT", "Morphologically abnormal structure"]
type = ["52988006", "SCT", "Lesion"]
colour_cielab = [53, 80, 67]
threshold = 0.5
[window]
patch = {patch}
[provenance]
data = "random"
licence = "Apache-2.0"
"""


def make(
    folder: Path,
    name: str = "phantom",
    hyper: str = "levels = [0.3, 0.6]",
    channels: int = 3,
    patch: tuple[int, ...] = (64, 64),
    activation: str = "sigmoid",
) -> Bundle:
    """A bundle folder with weights from a fixed seed, made sensible: norms with statistics, logits that spread."""
    folder.mkdir(parents=True)
    text = DESCRIPTION.format(
        name=name, hyper=hyper, channels=channels, dims=len(patch), patch=list(patch), activation=activation
    )
    (folder / "bundle.toml").write_text(text)
    save_file({"nothing": torch.zeros(1)}, folder / "model.safetensors")
    arguments = load_bundle(folder).network_arguments()
    torch.manual_seed(11)
    network = registry.build(name, **arguments)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, channels, *patch))
        logits = network.eval()(torch.randn(1, channels, *patch))
        head = [part for part in network.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Conv3d)][-1]
        if name != "phantom" and head.bias is not None:
            head.weight *= 2 / logits.std()
            head.bias.zero_()
    weights = {key: value.contiguous().clone() for key, value in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    return load_bundle(folder)


def picture(bundle: Bundle, number: int = 2) -> np.ndarray:
    """Smooth structures rather than noise: (number, channels, *patch)."""
    patch = bundle.window.patch
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 1, (number, bundle.input.channels, *(n // 8 for n in patch))).astype(np.float32)
    for axis in range(2, coarse.ndim):
        coarse = np.repeat(coarse, 8, axis=axis)
    return coarse


@pytest.mark.parametrize(
    ("name", "hyper", "patch"),
    [
        ("attention-unet", "aspp = 64, decoder = [48, 32, 24, 16, 16]", (128, 160)),
        ("unet", "widths = [8, 16, 24]", (64, 80)),
        ("swin-unet", "width = 32, depths = [2, 2]", (64, 104)),
        ("vnet", "widths = [8, 12]", (16, 16, 24)),
        ("phantom", "levels = [0.3, 0.6]", (64, 64)),
        ("phantom", "levels = [0.3, 0.6], spatial_dims = 3", (32, 32, 32)),
    ],
)
def test_openvino_agrees_with_torch(tmp_path: Path, name: str, hyper: str, patch: tuple[int, ...]) -> None:
    bundle = make(tmp_path / "made-here", name, hyper, patch=patch)
    batch = picture(bundle)
    ours = load_backend(bundle, device="cpu", backend="torch")(batch)
    theirs = load_backend(bundle, device="cpu", backend="openvino", cache=tmp_path)(batch)
    assert ours.shape == theirs.shape == (2, 2, *patch) and ours.dtype == theirs.dtype == np.float32
    assert np.abs(ours - theirs).max() <= TOLERANCE
    assert ours.std() > 0.01  # not the same because both say nothing


@pytest.mark.skipif(not (SHIPPED / "fundus-lesions").is_dir(), reason="the bundle is not shipped yet")
def test_openvino_agrees_with_torch_on_the_shipped_weights(tmp_path: Path) -> None:
    bundle = load_bundle(SHIPPED / "fundus-lesions")
    batch = picture(bundle, 1)
    ours = load_backend(bundle, device="cpu", backend="torch")(batch)
    theirs = load_backend(bundle, device="cpu", backend="openvino", cache=tmp_path)(batch)
    assert np.abs(ours - theirs).max() <= TOLERANCE


def test_softmax_leaves_the_background_out(tmp_path: Path) -> None:
    bundle = make(tmp_path / "made-here", hyper="levels = [0.0, 0.3, 0.6]", activation="softmax")
    batch = picture(bundle)
    with torch.inference_mode():
        expected = torch.softmax(load_network(bundle)(torch.from_numpy(batch)), dim=1)[:, 1:].numpy()
    for backend in ("torch", "openvino"):
        out = load_backend(bundle, device="cpu", backend=backend, cache=tmp_path)(batch)
        assert np.abs(out - expected).max() < 1e-5


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_an_output_belongs_to_the_caller(tmp_path: Path, backend: str) -> None:
    bundle = make(tmp_path / "made-here")
    run = load_backend(bundle, device="cpu", backend=backend, cache=tmp_path)
    batch = picture(bundle)
    first = run(batch)
    kept = first.copy()
    run(-batch)
    assert (first == kept).all()
    assert (run(batch) == kept).all()


def test_the_default_on_a_cpu_is_openvino_in_f32(tmp_path: Path) -> None:
    bundle = make(tmp_path / "made-here")
    backend = load_backend(bundle, device="cpu", cache=tmp_path)
    assert backend.name.startswith("openvino") and backend.precision == "f32" and backend.device == "cpu"


def test_bf16_is_near_and_never_the_default(tmp_path: Path) -> None:
    bundle = make(tmp_path / "made-here")
    batch = picture(bundle)
    exact = load_backend(bundle, device="cpu", backend="torch")
    rough = load_backend(bundle, device="cpu", backend="torch", precision="bf16")
    assert (exact.precision, rough.precision) == ("f32", "bf16")
    difference = np.abs(exact(batch) - rough(batch)).max()
    assert 0 < difference < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fp16_on_a_gpu_is_near_and_repeatable(tmp_path: Path) -> None:
    bundle = make(
        tmp_path / "made-here",
        "attention-unet",
        "aspp = 64, decoder = [48, 32, 24, 16, 16]",
        patch=(256, 256),
    )
    batch = picture(bundle, 5)
    backend = load_backend(bundle)
    assert (backend.name.split()[0], backend.precision, backend.device) == ("torch", "fp16", "cuda:0")
    out = backend(batch)
    assert (out == backend(batch)).all()
    assert np.abs(out - load_backend(bundle, device="cpu", backend="torch")(batch)).max() < 0.05


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"device": "tpu"}, "auto, cpu, cuda"),
        ({"device": "cuda:99"}, "CUDA devices"),
        ({"device": "cpu", "precision": "fp16"}, "not possible on cpu"),
        ({"device": "cpu", "backend": "tensorrt"}, "auto, torch or openvino"),
    ],
)
def test_impossible_choices_are_named(tmp_path: Path, given: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_backend(make(tmp_path / "made-here"), **given)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    bundle = make(tmp_path / "made-here")
    save_file({"smooth.weight": torch.zeros(1, 3, 5, 5)}, bundle.weights)
    with pytest.raises(BundleError, match="2 missing, 0 surplus, 1 of another size"):
        load_network(load_bundle(bundle.folder))


def test_an_unknown_network_lists_the_known_ones(tmp_path: Path) -> None:
    bundle = make(tmp_path / "made-here")
    description = bundle.folder / "bundle.toml"
    description.write_text(description.read_text().replace('"phantom"', '"no-such-net"'))
    with pytest.raises(BundleError, match="phantom"):
        load_network(load_bundle(bundle.folder))


def test_the_converted_model_is_kept_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make(tmp_path / "made-here")
    first = load_backend(bundle, device="cpu", backend="openvino", cache=tmp_path)
    (kept,) = (tmp_path / "openvino").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["model.bin", "model.xml"]
    monkeypatch.setattr("medpipe.inference.openvino_backend._convert", None)  # not called again
    second = load_backend(bundle, device="cpu", backend="openvino", cache=tmp_path)
    assert (first(picture(bundle)) == second(picture(bundle))).all()


def test_a_spoiled_cache_is_made_anew(tmp_path: Path) -> None:
    bundle = make(tmp_path / "made-here")
    expected = load_backend(bundle, device="cpu", backend="openvino", cache=tmp_path)(picture(bundle))
    (kept,) = (tmp_path / "openvino").iterdir()
    (kept / "model.xml").write_text("<net")
    again = load_backend(bundle, device="cpu", backend="openvino", cache=tmp_path)(picture(bundle))
    assert (again == expected).all() and (kept / "model.xml").stat().st_size > 100


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    bundle = make(tmp_path / "made-here")
    (tmp_path / "file").write_text("")
    out = load_backend(bundle, device="cpu", backend="openvino", cache=tmp_path / "file")(picture(bundle))
    assert out.std() > 0


START = """
import sys
from pathlib import Path
from medpipe.bundle import load_bundle
from medpipe.inference import load_backend
events = []  # from here on: urllib3, where another library brings it, asks the system for IPv6 when it is imported
sys.addaudithook(lambda name, _: events.append(name) if name.startswith(("socket", "os.fork")) else None)
load_backend(load_bundle(Path(sys.argv[1])), device="cpu", backend="openvino", cache=Path(sys.argv[2]))
print(sorted(set(events)))
"""


def test_two_processes_convert_at_once_and_nothing_is_sent(tmp_path: Path) -> None:
    """OpenVINO's telemetry forks a child that opens a socket, and leaves a folder `intel` in the home folder."""
    bundle = make(tmp_path / "made-here")
    home = tmp_path / "home"
    home.mkdir()
    root = str(Path(__file__).parents[3])
    both = [
        subprocess.Popen(
            [sys.executable, "-c", START, str(bundle.folder), str(tmp_path / "cache")],
            env={"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": root},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in both:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert out.strip() == "[]"
    assert not (home / "intel").exists()
    assert len(list((tmp_path / "cache" / "openvino").iterdir())) == 1
