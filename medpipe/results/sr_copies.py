"""A measurement group like another: the same codes and references, other values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset


def like(
    group: Dataset, identifier: str, uid: str, values: Sequence[float], points: NDArray[np.float64]
) -> Dataset:
    """A copy of `group` with its own tracking identifier and UID, numbers in order, and coordinates.

    What stays the same is shared, not copied.
    """
    numbers = iter(values)
    items: list[Dataset] = []
    for item in group.ContentSequence:
        match item.ValueType:
            case "TEXT":
                item = _with(item, TextValue=identifier)
            case "UIDREF":
                item = _with(item, UID=uid)
            case "NUM":
                number = next(numbers)
                measured = _with(
                    item.MeasuredValueSequence[0], NumericValue=str(number), FloatingPointValue=number
                )
                item = _with(item, MeasuredValueSequence=[measured])
            case "SCOORD" | "SCOORD3D":
                item = _with(item, GraphicData=[float(x) for x in points.ravel()])
        items.append(item)
    return _with(group, ContentSequence=items)


def _with(item: Dataset, **changes: Any) -> Dataset:
    # Elements to be changed are left out first: setting an attribute that is there would write into the shared one.
    copy = Dataset({element.tag: element for element in item if element.keyword not in changes})
    for keyword, value in changes.items():
        setattr(copy, keyword, value)
    return copy
