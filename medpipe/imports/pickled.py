"""Weights out of a torch checkpoint without running pickled code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from medpipe.errors import BundleError
from medpipe.inference.torchscript import check_unpacked_size

_TYPES = (
    "Float16",
    "Float32",
    "Float64",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "UInt8",
    "UInt16",
    "UInt32",
    "Bool",
)
_NUMPY = [
    np.dtype,
    np.ndarray,
    *(getattr(np.dtypes, f"{name}DType") for name in _TYPES),
    multiarray.scalar,
    multiarray._reconstruct,
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
]
"""What nnU-Net's checkpoints hold beside tensors: numbers of its log, by numpy's old and new module names."""


def load_checkpoint(path: Path) -> Any:
    """The content of a checkpoint: tensors, plain values, numpy numbers. Raises BundleError for anything else."""
    try:
        if zipfile.is_zipfile(path):
            check_unpacked_size(path)
        with torch.serialization.safe_globals(_NUMPY):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = str(error).partition("GLOBAL ")[2].split(" ")[0]
        what = (
            f"holds pickled code ({named}), which is not run" if named else "cannot be read as a checkpoint"
        )
        raise BundleError(f"{path}: {what}; export a plain state dict") from error
    except FileNotFoundError as error:
        raise BundleError(f"{path}: is not there") from error
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, zipfile.BadZipFile) as error:
        why = (str(error).splitlines() or [""])[0].split(". ")[0] or "not a torch file"
        raise BundleError(f"{path}: cannot be read as a checkpoint: {why}") from error


def state_dict(path: Path, keys: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint: the checkpoint itself, or what lies under the first of `keys` that it has."""
    content = load_checkpoint(path)
    for key in keys:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    weights = dense(content, path)
    return {name.removeprefix("module."): value for name, value in weights.items()}


def dense(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor with its values, of a checkpoint's mapping. Raises BundleError where one is anything else."""
    if not isinstance(content, Mapping) or not content:
        raise BundleError(f"{path}: holds no weights (a dict of tensors)")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise BundleError(f"{path}: {name} is no tensor; a dict of tensors is needed")
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise BundleError(f"{path}: {name} is sparse, quantised or empty; plain dense tensors are needed")
    return {str(name): value for name, value in content.items()}
