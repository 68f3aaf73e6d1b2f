"""Weights out of a torch checkpoint without running pickled code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from medpipe.errors import BundleError

_NUMPY = [
    np.dtype,
    np.ndarray,
    *(getattr(np.dtypes, name) for name in ("Float32DType", "Float64DType", "Int64DType", "BoolDType")),
    multiarray.scalar,
    multiarray._reconstruct,
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
]
"""What nnU-Net's checkpoints hold beside tensors: numbers of its log, by numpy's old and new module names."""


def load_checkpoint(path: Path) -> Any:
    """The content of a checkpoint: tensors, plain values, numpy numbers. Raises BundleError for anything else."""
    try:
        with torch.serialization.safe_globals(_NUMPY):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = str(error).partition("GLOBAL ")[2].split(" ")[0]
        what = f" ({named})" if named else ""
        raise BundleError(
            f"{path}: holds pickled code{what}, which is not run; export a plain state dict"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as a checkpoint: {str(error).splitlines()[0]}") from error


def state_dict(path: Path, keys: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint: the checkpoint itself, or what lies under the first of `keys` that it has."""
    content = load_checkpoint(path)
    for key in keys:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise BundleError(f"{path}: holds no weights (a dict of tensors)")
    strange = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise BundleError(f"{path}: {strange[0]} is no tensor; a dict of tensors is needed")
    return {str(name).removeprefix("module."): value for name, value in content.items()}
