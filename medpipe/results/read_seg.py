"""A SEG that came back, as a mask: for tests, previews and comparisons of what a PACS holds with what we wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_seg(
    path: Path, instances: tuple[str, ...] | None = None
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """(mask (classes, K, J, I), segment labels) of a BINARY SEG made of single-frame sources.

    Slices follow `instances` (SOP Instance UIDs), else the order in which the SEG lists its sources; a slice or
    segment without a frame is empty.
    """
    import highdicom as hd

    seg: Any = hd.seg.segread(path)
    uids = instances or tuple(str(item.ReferencedSOPInstanceUID) for item in seg.SourceImageSequence)
    array = seg.get_pixels_by_source_instance(list(uids), assert_missing_frames_are_empty=True)
    labels = tuple(str(item.SegmentLabel) for item in seg.SegmentSequence)
    return np.ascontiguousarray(np.moveaxis(array, -1, 0).astype(np.bool_)), labels
