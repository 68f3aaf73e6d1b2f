"""Arrays in files of a scratch folder, whose room on the disk is taken before they are written.

A mapped file is sparse at first, and a page of it for which the disk has no room kills whoever writes it (SIGBUS): a
full disk would look like a study that kills its reader. numpy's own way to save does not say what the disk says.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mapped_zeros(path: Path, shape: tuple[int, ...], kind: np.dtype[Any]) -> np.memmap[Any, Any]:
    """An array of zeros in an .npy file, mapped to be written. Raises OSError where the disk has no room for it."""
    mapped: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
    return mapped


def save(array: NDArray[Any], path: Path) -> None:
    """Writes an .npy file. Raises OSError where the disk has no room for it."""
    mapped_zeros(path, array.shape, array.dtype)[...] = array
