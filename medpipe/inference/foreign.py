"""Other people's networks: MONAI's by name, a TorchScript file, an ONNX file.

A TorchScript file is a program. It runs in torch's own interpreter, which knows no Python and no imports, and what
could reach files is refused before it is loaded (medpipe.inference.torchscript). `medpipe import-bundle` writes its
digest into bundle.toml, and a changed file is refused.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch

from medpipe.bundle import Bundle
from medpipe.errors import BundleError
from medpipe.inference.torchscript import read_torchscript

FOREIGN = ("monai", "torchscript")
"""Kinds of networks that torch runs, and OpenVINO where it can convert them."""
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
FIRST_OF_SEVERAL = ("BasicUNetPlusPlus", "SegResNetDS", "DynUNet")
"""Of these the ones that may give several outputs; their weights lie under `network.` here."""


def build_monai(name: str, **hyper: Any) -> torch.nn.Module:
    """One of MONAI_NETWORKS: `target` is its name; `classes` (logit channels) becomes its `out_channels`.

    Nothing is downloaded: the weights are the bundle's own. Raises ValueError for another target or a hyper-parameter
    that it does not have.
    """
    from monai.networks import nets

    target = hyper.pop("target", "")
    if target not in MONAI_NETWORKS:
        raise ValueError(f"unknown MONAI network {target!r}; known: {', '.join(MONAI_NETWORKS)}")
    channels = hyper.pop("classes")
    given = {"in_channels": hyper.pop("in_channels"), "out_channels": channels, **hyper}
    if "pretrained" in inspect.signature(getattr(nets, target)).parameters:
        given["pretrained"] = False
    try:
        network: torch.nn.Module = getattr(nets, target)(**given)
    except (TypeError, ValueError, AssertionError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{target}: {(str(error).splitlines() or [''])[0]}") from error
    except ImportError as error:  # MONAI's own dependencies that are optional there, and not ours
        raise ValueError(f"{target}: needs a package that is not installed: {error.name or error}") from error
    return _First(network) if target in FIRST_OF_SEVERAL else network


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
    """The network of model.ts, in evaluation mode.

    Raises BundleError where it is no TorchScript file, or where its code could reach files (read_torchscript).
    """
    checked = read_torchscript(bundle.weights)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # torch announces a successor; files stay what they are
            network: torch.nn.Module = torch.jit.load(checked, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise BundleError(
            f"{bundle.weights}: not a TorchScript file: {str(error).splitlines()[0]}"
        ) from error
    for weight in network.parameters():
        weight.requires_grad_(False)  # not on the whole: a ScriptModule does not take it
    return network.eval()


def read_onnx_logits(core: Any, bundle: Bundle) -> Any:
    """The ONNX network as an OpenVINO model, as it is: one picture in, its raw values out. Raises BundleError."""
    try:
        model = core.read_model(bundle.weights)
    except RuntimeError as error:
        if "externally stored data" in str(error):
            raise BundleError(
                f"{bundle.weights}: its weights lie in a file of their own; export it as one file "
                "(torch.onnx.export with external_data=False)"
            ) from error
        raise BundleError(f"{bundle.weights}: OpenVINO cannot read it as an ONNX network") from error
    if len(model.inputs) != 1:
        raise BundleError(f"{bundle.weights}: has {len(model.inputs)} inputs, one picture is what it gets")
    if len(model.outputs) != 1:
        raise BundleError(f"{bundle.weights}: has {len(model.outputs)} outputs; export it with one")
    return model


def read_onnx(openvino: Any, core: Any, bundle: Bundle) -> Any:
    """The ONNX network as an OpenVINO model that gives probabilities, sigmoid or softmax without its background."""
    from openvino import opset13 as ops

    model = read_onnx_logits(core, bundle)
    logits = model.get_results()[0].input_value(0)
    if bundle.network.activation == "sigmoid":
        result = ops.sigmoid(logits)
    else:
        # from channel 1 to the end, step 1, along axis 1: without the background
        one, end, axis = ([1], [2**31 - 1], [1])
        result = ops.slice(ops.softmax(logits, 1), one, end, one, axis)
    return openvino.Model([ops.result(result)], model.get_parameters(), "with activation")
