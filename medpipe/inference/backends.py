"""What runs a network: one protocol, two implementations (torch, OpenVINO), and the choice between them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.errors import BundleError, ConfigError

if TYPE_CHECKING:
    import torch


def default_cache() -> Path:
    """Where converted models are kept: $XDG_CACHE_HOME/medpipe, else ~/.cache/medpipe."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "medpipe"


class Backend(Protocol):
    """A loaded network. Calling it gives probabilities that belong to the caller, never a buffer that it uses again."""

    @property
    def name(self) -> str:
        """`torch` or `openvino`, with the version."""

    @property
    def precision(self) -> str:
        """`f32`, `bf16` or `fp16`: what the network computes in."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda:n`."""

    @property
    def batch(self) -> int:
        """How many patches are worth giving at once."""

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised patches (N, channels, *patch) -> probabilities float32 (N, classes, *patch), no background."""


def load_backend(
    bundle: Bundle,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    *,
    cache: Path | None = None,
) -> Backend:
    """Loads a bundle's network onto a device.

    `device`: auto (CUDA where there is one), cpu, cuda, cuda:n. `backend`: auto (torch on CUDA, else OpenVINO where it
    is installed and can convert the network), torch, openvino. `precision`: auto (fp16 autocast on CUDA; on CPU f32, or
    bf16 where the bundle allows it), f32, bf16, fp16. `threads`: 0 for all cores. `cache`: folder of converted models,
    the user's cache folder unless given. A bundle with several members gives their mean. Raises ConfigError for an
    impossible choice, BundleError where weights and network do not fit.
    """
    from medpipe.inference.torch_backend import TorchBackend, pick_device

    chosen = pick_device(device)
    on_cpu = chosen == "cpu"
    choose = backend == "auto"
    if choose:
        backend = "openvino" if on_cpu and find_spec("openvino") is not None else "torch"
    if precision == "auto":
        precision = ("bf16" if bundle.precision.cpu_bf16 else "f32") if on_cpu else "fp16"
    allowed = ("f32", "bf16") if on_cpu else ("f32", "bf16", "fp16")
    if precision not in allowed:
        raise ConfigError(
            f"precision {precision!r} is not possible on {chosen}: {', '.join(allowed)} or auto"
        )
    if backend not in ("torch", "openvino"):
        raise ConfigError(f"backend {backend!r} is unknown: auto, torch or openvino")
    if backend == "openvino" and not on_cpu:
        raise ConfigError(
            f"backend openvino runs on the CPU, not on {chosen}; set device = 'cpu' or backend = 'torch'"
        )
    if backend == "openvino" and find_spec("openvino") is None:
        raise ConfigError("backend openvino is not installed; install it or set backend = 'torch'")

    def load(member: Bundle) -> Backend:
        if backend == "torch":
            return TorchBackend(member, chosen, precision, threads)
        from medpipe.inference.foreign import FOREIGN
        from medpipe.inference.openvino_backend import OpenVinoBackend

        try:
            return OpenVinoBackend(member, precision, threads, cache or default_cache())
        except BundleError:
            if not choose or member.network.name not in FOREIGN:
                raise
            return TorchBackend(member, chosen, precision, threads)

    members = tuple(load(member) for member in bundle.members())
    if len(members) == 1:
        return members[0]
    from medpipe.inference.passes import Ensemble

    return Ensemble(members)


def load_network(bundle: Bundle) -> torch.nn.Module:
    """The bundle's network with its weights, on the CPU, in evaluation mode; gives logits (N, channels, *spatial).

    Raises BundleError where the network is unknown, the hyper-parameters do not suit it or the weights do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from medpipe.inference.foreign import build_monai, load_torchscript
    from nets.registry import build

    if bundle.network.name == "torchscript":
        return load_torchscript(bundle)
    if bundle.network.name == "onnx":
        raise BundleError(
            f"{bundle.folder}: an ONNX network runs with backend openvino on the CPU, not with torch"
        )
    arguments = bundle.network_arguments()
    construct = build_monai if bundle.network.name == "monai" else build
    try:
        network: torch.nn.Module = construct(bundle.network.name, **arguments)
    except (TypeError, ValueError, KeyError) as error:
        raise BundleError(f"{bundle.folder}: network {bundle.network.name}: {error}") from error
    try:
        weights = load_file(bundle.weights)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{bundle.weights}: cannot be read: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != given:
        missing, surplus = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
        other = sorted(n for n in expected.keys() & given.keys() if expected[n] != given[n])
        raise BundleError(
            f"{bundle.weights}: the weights do not fit network {bundle.network.name}: "
            f"{len(missing)} missing, {len(surplus)} surplus, {len(other)} of another size "
            f"({', '.join((missing + surplus + other)[:3])})"
        )
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
