"""Other people's networks: MONAI's by name, a TorchScript file, an ONNX file.

A TorchScript file is a program. It runs in torch's own interpreter, which knows no Python and no imports, but it is
only as trustworthy as whoever gave it: `medpipe import-bundle` writes its digest into bundle.toml, and a changed file
is refused.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from medpipe.bundle import Bundle
from medpipe.errors import BundleError

MONAI_NETWORKS = (
    "AttentionUnet",
    "BasicUNet",
    "BasicUNetPlusPlus",
    "DynUNet",
    "FlexibleUNet",
    "HighResNet",
    "SegResNet",
    "SegResNetDS",
    "SwinUNETR",
    "UNet",
    "UNETR",
    "VNet",
)
"""Networks of monai.networks.nets that take (N, C, *spatial) and give logits of the same size."""


def build_monai(name: str, **hyper: Any) -> torch.nn.Module:
    """One of MONAI_NETWORKS: `target` is its name; `classes` (logit channels) becomes its `out_channels`.

    Raises ValueError for another target or a hyper-parameter that it does not have.
    """
    from monai.networks import nets

    target = hyper.pop("target", "")
    if target not in MONAI_NETWORKS:
        raise ValueError(f"unknown MONAI network {target!r}; known: {', '.join(MONAI_NETWORKS)}")
    channels = hyper.pop("classes")
    given = {"in_channels": hyper.pop("in_channels"), "out_channels": channels, **hyper}
    try:
        network: torch.nn.Module = getattr(nets, target)(**given)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"{target}: {error}") from error
    return _First(network) if target in ("BasicUNetPlusPlus", "SegResNetDS", "DynUNet") else network


class _First(torch.nn.Module):
    """The first of several outputs: what is left of deep supervision when a network only predicts."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.network(x)
        first: torch.Tensor = y[0] if isinstance(y, list | tuple) else y
        return first


def load_torchscript(bundle: Bundle) -> torch.nn.Module:
    """The network of model.ts, in evaluation mode. Raises BundleError where it is no TorchScript file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # torch announces a successor; files stay what they are
            network: torch.nn.Module = torch.jit.load(str(bundle.weights), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise BundleError(
            f"{bundle.weights}: not a TorchScript file: {str(error).splitlines()[0]}"
        ) from error
    for weight in network.parameters():
        weight.requires_grad_(False)  # not on the whole: a ScriptModule does not take it
    return network.eval()


def read_onnx(openvino: Any, core: Any, bundle: Bundle) -> Any:
    """The ONNX network as an OpenVINO model that gives probabilities, sigmoid or softmax without its background."""
    from openvino import opset13 as ops

    try:
        model = core.read_model(bundle.weights)
    except RuntimeError as error:
        raise BundleError(
            f"{bundle.weights}: OpenVINO cannot read it: {str(error).splitlines()[0]}"
        ) from error
    if len(model.inputs) != 1:
        raise BundleError(f"{bundle.weights}: has {len(model.inputs)} inputs, one picture is what it gets")
    logits = model.get_results()[0].input_value(0)
    if bundle.network.activation == "sigmoid":
        result = ops.sigmoid(logits)
    else:
        # from channel 1 to the end, step 1, along axis 1: without the background
        one, end, axis = ([1], [2**31 - 1], [1])
        result = ops.slice(ops.softmax(logits, 1), one, end, one, axis)
    return openvino.Model([ops.result(result)], model.get_parameters(), "with activation")
