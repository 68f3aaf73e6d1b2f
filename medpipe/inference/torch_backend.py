"""The reference backend: torch, on the CPU in f32 (or bf16 autocast), on CUDA with fp16 autocast."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.errors import ConfigError
from medpipe.inference.backends import load_network

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(device: str) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:n` -> `cpu` or `cuda:n`. Raises ConfigError where there is no such device."""
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    if device == "cuda":
        device = "cuda:0"
    number = device.removeprefix("cuda:")
    if not device.startswith("cuda:") or not number.isdigit():
        raise ConfigError(f"device {device!r} is unknown: auto, cpu, cuda or cuda:n")
    if int(number) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use"
        )
    return device


class WithActivation(torch.nn.Module):
    """Logits -> float32 probabilities of the bundle's classes: sigmoid, or softmax without its background channel."""

    def __init__(self, network: torch.nn.Module, activation: str) -> None:
        super().__init__()
        self.network = network
        self.softmax = activation == "softmax"

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        logits = self.network(batch).float()
        return torch.softmax(logits, dim=1)[:, 1:] if self.softmax else torch.sigmoid(logits)


class TorchBackend:
    """See the Backend protocol. `threads` other than 0 sets torch's thread count for the whole process."""

    def __init__(self, bundle: Bundle, device: str, precision: str, threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.precision = precision
        self.device = device
        self.batch = 1 if device == "cpu" else 4
        self.name = f"torch {torch.__version__}"
        flat = bundle.input.spatial_dims == 2
        self._layout = torch.channels_last if flat else torch.channels_last_3d
        network = WithActivation(load_network(bundle), bundle.network.activation).eval()
        # torch's annotations of Module.to leave out the memory format
        self._network: torch.nn.Module = network.to(device).to(memory_format=self._layout)  # type: ignore[call-overload]

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, channels, *patch) -> probabilities float32 (N, classes, *patch)."""
        tensor = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))
        on_device = tensor.to(device=self.device, memory_format=self._layout)
        narrow = _TYPES.get(self.precision)
        kind = "cpu" if self.device == "cpu" else "cuda"
        with torch.inference_mode(), contextlib.ExitStack() as stack:
            if narrow is not None:
                stack.enter_context(torch.autocast(kind, dtype=narrow))
            if kind == "cuda":
                # the same input must give the same bytes: no timing-dependent choice of algorithm
                stack.enter_context(
                    torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
                )
            out = self._network(on_device)
        return np.array(out.float().cpu().numpy(), dtype=np.float32, order="C")
