"""A bundle's network tried before the bundle is given out: on nothing, and on noise of several strengths.

What does not give one finite value per class and voxel is refused here, not in front of a patient's study; and so is a
network of somebody else's that ends in a sigmoid or softmax of its own, which would be applied twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.bundle.description import NETWORK_FILES
from medpipe.errors import BundleError
from medpipe.inference import load_backend
from medpipe.inference.backends import load_network
from medpipe.inference.foreign import read_onnx_logits
from medpipe.inference.openvino_backend import import_openvino

_STRENGTHS = (0.0, 1.0, 30.0, 1000.0)
"""Standard deviations of the noise: of values after a normalisation, and of ones far beyond it."""

Values = NDArray[np.float32]


def try_network(bundle: Bundle) -> None:
    """Raises BundleError where the network fails, gives other shapes or no numbers, or no logits."""
    noise = np.random.default_rng(0)
    size = (1, bundle.input.channels, *bundle.window.patch)
    patches = [(noise.normal(size=size) * strength).astype(np.float32) for strength in _STRENGTHS]
    raw = _raw(bundle)
    expected = (1, len(bundle.classes) + bundle.exclusive, *bundle.window.patch)
    outputs = []
    for patch in patches if bundle.network.name in NETWORK_FILES else patches[:2]:
        given = raw(patch)
        if given.shape != expected:
            raise BundleError(f"the network gives {given.shape} for a patch of {size[1:]}, not {expected}")
        if not np.isfinite(given).all():
            raise BundleError("the network gives values that are no numbers (infinite or NaN)")
        outputs.append(given)
    if bundle.network.name in NETWORK_FILES and _are_probabilities(outputs):
        raise BundleError(
            "the network gives values between 0 and 1 only, as after a sigmoid or softmax of its own; export it "
            "without that last step, which medpipe does"
        )
    given = load_backend(bundle, device="cpu", precision="f32")(patches[1])
    if not np.isfinite(given).all():
        raise BundleError("the network gives probabilities that are no numbers (infinite or NaN)")


def _are_probabilities(outputs: list[Values]) -> bool:
    low, high = min(float(o.min()) for o in outputs), max(float(o.max()) for o in outputs)
    return -1e-6 <= low < high <= 1 + 1e-6


def _raw(bundle: Bundle) -> Callable[[Values], Values]:
    """The network by itself: what it gives before sigmoid or softmax."""
    if bundle.network.name == "onnx":
        return _raw_onnx(bundle)
    network = load_network(bundle)

    def run(patch: Values) -> Values:
        try:
            with torch.inference_mode():
                given: Any = network(torch.from_numpy(patch))
        except Exception as error:  # a TorchScript file's own code may raise anything
            raise BundleError(f"the network fails on a patch of {patch.shape[1:]}: {_said(error)}") from error
        if not isinstance(given, torch.Tensor):
            kind = type(given).__name__
            raise BundleError(
                f"the network gives a {kind} of outputs; export it with one tensor as its output"
            )
        return np.asarray(given.float().numpy(), dtype=np.float32)

    return run


def _raw_onnx(bundle: Bundle) -> Callable[[Values], Values]:
    core = import_openvino().Core()
    model = read_onnx_logits(core, bundle)
    shape = (1, bundle.input.channels, *bundle.window.patch)
    try:
        model.reshape(list(shape))
        request = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    except RuntimeError as error:
        raise BundleError(f"the network does not take a patch of {shape[1:]}") from error

    def run(patch: Values) -> Values:
        try:
            return np.array(request.infer([patch])[0], dtype=np.float32)
        except RuntimeError as error:
            raise BundleError(f"the network fails on a patch of {shape[1:]}") from error

    return run


def _said(error: BaseException) -> str:
    """What an error says in one line; TorchScript's come after the lines of its own traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if "TorchScript" in lines[0] else lines[0]
