"""Drawn fundus photographs (medpipe.samples) as training pictures, so that the network also finds drawn lesions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medpipe.errors import ConfigError
from medpipe.samples.fundus import CLASSES, draw_fundus
from medpipe.training.experiment import Data, Drawn
from medpipe.training.pictures import Reduced, TrainingPicture, cache_key, cached, reduce


def draw_pictures(spec: Drawn, data: Data, cache: Path) -> list[TrainingPicture]:
    """Draws the pictures of `spec.seeds` and reduces them to working size; kept in the cache folder."""
    strange = [c for c in data.classes if c not in CLASSES]
    if strange:
        raise ConfigError(
            f"drawn: pictures are drawn with {', '.join(CLASSES)}, not with {', '.join(strange)}"
        )
    order = [CLASSES.index(c) for c in data.classes]
    pictures = []
    for seed in spec.seeds:

        def make(seed: int = seed) -> Reduced:
            sample = draw_fundus(seed, spec.columns, spec.rows)
            rgb = np.ascontiguousarray(sample.picture.transpose(2, 0, 1))
            return reduce(rgb, sample.truth[order], working_side=data.working_side)

        key = cache_key(seed, spec.rows, spec.columns, data.classes, data.working_side)
        pictures.append(cached(cache, f"drawn-{seed}", key, make))
    return pictures
