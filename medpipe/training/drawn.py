"""Drawn fundus photographs (medpipe.samples) as training pictures, so that the network also finds drawn lesions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medpipe.bundle import InputSpec
from medpipe.errors import ConfigError
from medpipe.samples.fundus import CLASSES, draw_fundus
from medpipe.training.cases import Reduced, TrainingCase, cache_key, cached, reduce
from medpipe.training.experiment import Drawn
from medpipe.training.sources import photograph


def draw_pictures(spec: Drawn, classes: Sequence[str], given: InputSpec, cache: Path) -> list[TrainingCase]:
    """Draws the pictures of `spec.seeds` and reduces them to working size; kept in the cache folder."""
    strange = [c for c in classes if c not in CLASSES]
    if strange:
        raise ConfigError(
            f"drawn: pictures are drawn with {', '.join(CLASSES)}, not with {', '.join(strange)}"
        )
    order = [CLASSES.index(c) for c in classes]
    pictures = []
    for seed in spec.seeds:

        def make(seed: int = seed) -> Reduced:
            sample = draw_fundus(seed, spec.columns, spec.rows)
            image = photograph(sample.picture, f"drawn-{seed}", given.modality[0])
            return reduce(image, sample.truth[order][:, None], given)

        key = cache_key(seed, spec.rows, spec.columns, tuple(classes), given)
        pictures.append(cached(cache, f"drawn-{seed}", key, make))
    return pictures
