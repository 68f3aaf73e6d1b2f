"""Grey pictures that are stored in colour, as ultrasound machines write them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medpipe.bundle import InputSpec
from medpipe.types import Image

_TINT = 3
"""Levels of 255 by which the three colours of a grey picture may differ: what JPEG's change of colours rounds."""
_MARKS = 0.01
"""Part of a grey picture that may be coloured: calipers, arrows, body marks. Doppler colours more."""


def without_colour(image: Image, spec: InputSpec) -> Image:
    """A grey picture that is stored as RGB, as ultrasound machines do, as the one channel that a network wants.

    Grey is what differs by no more than `_TINT` levels between red, green and blue. Of marks, up to `_MARKS` of the
    picture, the luminance is taken (ITU-R BT.601); a picture with more colour than that stays as it is.
    """
    if spec.channels != 1 or image.array.shape[0] != 3 or image.array.dtype != np.uint8:
        return image
    red, green, blue = image.array
    coloured = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue) > _TINT
    if np.count_nonzero(coloured) > _MARKS * coloured.size:
        return image
    grey = green.copy()
    grey[coloured] = np.rint(image.array[:, coloured].T @ np.array([0.299, 0.587, 0.114]))
    return replace(image, array=grey[None], photometric="MONOCHROME2")
