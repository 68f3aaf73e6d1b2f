"""An array in a file has its room on the disk before anything is written into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medpipe.dicom.mapped import mapped_zeros


def test_its_room_is_taken_at_once(tmp_path: Path) -> None:
    """A sparse file would be found to have none only by the process that writes it, which dies of that."""
    made = mapped_zeros(tmp_path / "mask.npy", (64, 1024, 16), np.dtype(np.uint8))
    assert (tmp_path / "mask.npy").stat().st_blocks * 512 >= made.nbytes
    made[3, 4, 5] = 7
    made.flush()
    assert np.load(tmp_path / "mask.npy").sum() == 7
