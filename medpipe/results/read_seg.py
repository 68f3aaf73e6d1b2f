"""A SEG that came back, as a mask: for tests, previews and comparisons of what a PACS holds with what we wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.errors import ConfigError


def read_seg(
    path: Path, instances: tuple[str, ...] | None = None
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """(mask (classes, K, J, I), segment labels) of a BINARY or FRACTIONAL SEG made of single-frame sources.

    Slices follow `instances` (SOP Instance UIDs), else the order in which the SEG lists its sources; a slice or
    segment without a frame is empty. A fractional segment is where it has at least half of its largest value. Raises
    ConfigError where the file is no SEG, or its frames do not lie on their sources' pixels.
    """
    import highdicom as hd

    try:
        seg: Any = hd.seg.segread(path)
        uids = instances or tuple(str(item.ReferencedSOPInstanceUID) for item in seg.SourceImageSequence)
        array = seg.get_pixels_by_source_instance(
            list(uids), assert_missing_frames_are_empty=True, rescale_fractional=False
        )
        least = (int(seg.MaximumFractionalValue) + 1) // 2 if seg.SegmentationType == "FRACTIONAL" else 1
        labels = tuple(str(segment.SegmentLabel) for segment in foreground(seg))
    except MemoryError:
        raise
    except RuntimeError as error:
        raise ConfigError(
            f"{path}: its frames do not say on which pixels of which source they lie; "
            "each needs a source instance, with Spatial Locations Preserved"
        ) from error
    except Exception as error:  # highdicom and pydicom raise many kinds for a broken object
        raise ConfigError(f"{path}: cannot be read as a SEG ({type(error).__name__})") from error
    return np.ascontiguousarray(np.moveaxis(array, -1, 0) >= least), labels


def foreground(seg: Any) -> list[Any]:
    """The items of Segment Sequence in the order of `read_seg`'s classes: without a label map's background."""
    background = seg.get("PixelPaddingValue")
    return [item for item in seg.SegmentSequence if background is None or item.SegmentNumber != background]
