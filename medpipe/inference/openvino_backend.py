"""The CPU backend: OpenVINO, converted once per weights and versions and kept in a cache folder.

Telemetry is off: OpenVINO reports its use through the package `openvino_telemetry` where it can import it, so it is
made not importable before OpenVINO is first imported, and no consent file is written.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.errors import BundleError
from medpipe.identity import digest
from medpipe.inference.foreign import FOREIGN, read_onnx

_FORMAT = "3"
"""Of what lies in the cache; a new number leaves old entries alone."""


def import_openvino() -> Any:
    """The module `openvino`, without its telemetry."""
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # makes its import fail
    import openvino

    return openvino


class OpenVinoBackend:
    """See the Backend protocol; patches have exactly the bundle's window size."""

    device = "cpu"
    batch = 1

    def __init__(self, bundle: Bundle, precision: str, threads: int, cache: Path) -> None:
        openvino = import_openvino()
        self.name = f"openvino {openvino.__version__.split('-')[0]}"
        self._shape = (1, bundle.input.channels, *bundle.window.patch)
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            precision = "f32"  # what the CPU cannot do is not done slowly; the precision used is on record
        self.precision = precision
        model = _cached_model(openvino, core, bundle, cache)
        model.reshape(list(self._shape))
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, channels, *patch) -> probabilities float32 (N, classes, *patch)."""
        if batch.shape[1:] != self._shape[1:]:
            raise ValueError(
                f"patches of {batch.shape[1:]}, but the network was prepared for {self._shape[1:]}"
            )
        outputs = []
        for item in np.ascontiguousarray(batch, dtype=np.float32):
            result = self._request.infer([item[None]], share_inputs=True, share_outputs=True)
            outputs.append(
                np.array(result[0], dtype=np.float32)
            )  # a copy: the output is the request's own buffer
        return np.concatenate(outputs)


def _cached_model(openvino: Any, core: Any, bundle: Bundle, cache: Path) -> Any:
    """The converted model from the cache, made where it is not there yet.

    Safe for several processes at once: each writes into a folder of its own, the first rename wins. A cache that
    cannot be written is no error, and one that cannot be read is made anew.
    """
    import torch

    versions = (_FORMAT, openvino.__version__, torch.__version__)
    described = (bundle.network.model_dump_json(), bundle.input.model_dump_json(), str(bundle.window.patch))
    folder = cache / "openvino" / digest(bundle.weights_sha256, *described, *versions)[:32]
    if (folder / "model.xml").is_file():
        try:
            return core.read_model(folder / "model.xml")
        except RuntimeError:
            shutil.rmtree(folder, ignore_errors=True)
    model = read_onnx(openvino, core, bundle) if bundle.network.name == "onnx" else _convert(openvino, bundle)
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="new-", dir=folder.parent) as temporary:
            made = Path(temporary) / "model"
            made.mkdir()
            openvino.save_model(model, made / "model.xml", compress_to_fp16=False)
            made.rename(folder)  # fails where another process was first: its files are the same
    return model


def _convert(openvino: Any, bundle: Bundle) -> Any:
    import torch

    from medpipe.inference.backends import load_network
    from medpipe.inference.torch_backend import WithActivation

    network = WithActivation(load_network(bundle), bundle.network.activation).eval()
    example = torch.zeros(1, bundle.input.channels, *bundle.window.patch)
    # of other people's networks some work out sizes while they are traced: what is traced is true of this window alone
    foreign = bundle.network.name in FOREIGN
    sizes = bundle.window.patch if foreign else [-1] * bundle.input.spatial_dims
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # tracing warns of shape arithmetic, which the sizes tested here cover
            return openvino.convert_model(
                network, example_input=example, input=[1, bundle.input.channels, *sizes]
            )
    except Exception as error:
        raise BundleError(
            f"{bundle.folder}: OpenVINO cannot convert network {bundle.network.name}: {error}"
        ) from error
