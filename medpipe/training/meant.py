"""Whether an image is what an experiment's bundle will be for: what inference refuses is not learned from either."""

from __future__ import annotations

from medpipe.bundle import InputSpec
from medpipe.errors import Refused
from medpipe.inference.grey import without_colour
from medpipe.inference.preprocess import Prepared, check_meant_for, to_working_grid
from medpipe.types import Image


def prepare_to_train(image: Image, spec: InputSpec) -> Prepared:
    """What `medpipe.inference.preprocess.prepare` will give for the image at working size.

    Raises Refused, which names the image, where the image is not what `spec` is for: modality, class, colour,
    dimensions, size, or a field of view that is not there.
    """
    image = without_colour(image, spec)
    try:
        check_meant_for(image, spec, "of this experiment")
        return to_working_grid(image, spec)
    except Refused as refused:
        sentence = str(refused)
        known = sentence if sentence.startswith(image.name) else f"{image.name}: {sentence}"
        raise Refused(refused.reason, known) from refused
