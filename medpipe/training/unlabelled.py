"""Images whose truth is not known, or is not to be looked at: on the working grid like the others, without a mask."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medpipe.bundle import InputSpec
from medpipe.errors import ConfigError
from medpipe.training.cases import Reduced, TrainingCase, cache_key, cached, reduce
from medpipe.training.experiment import Experiment, split
from medpipe.training.sources import PICTURES, Pictures, Source


def load_without_truth(
    source: Source, names: Iterable[str], given: InputSpec, *, cache: Path
) -> list[TrainingCase]:
    """The named images with one class that is nowhere, so that patches are cut from them anywhere."""
    cases = []
    for name in names:

        def make(name: str = name) -> Reduced:
            image = source.image(name)
            return reduce(image, np.zeros((1, *image.grid.shape), np.bool_), given)

        key = cache_key(name, "without truth", given, source.stamp(name))
        cases.append(cached(cache, name, key, make))
    return cases


def unlabelled_cases(spec: Experiment, cache: Path) -> list[TrainingCase]:
    """The images of the experiment's `unlabelled.folder`; none where it has no such section.

    Raises ConfigError where the folder is not named or holds none, or where one of them is an image that the
    experiment chooses thresholds on or measures: learning from it, even without its mask, would flatter every figure.
    """
    if spec.unlabelled is None:
        return []
    folder = spec.unlabelled.folder
    if folder is None:
        raise ConfigError("unlabelled.folder: not named; say --unlabelled DIR, a folder with images/")
    if spec.input.spatial_dims != 2:
        raise ConfigError("unlabelled: a folder of 2-D pictures, but input.spatial_dims is 3")
    names = sorted(p.stem for p in (folder / "images").glob("*") if p.suffix.lower() in PICTURES)
    if not names:
        raise ConfigError(f"{folder}: holds no images/*.jpg (or .png, .tif)")
    parts = split(spec.data)
    kept_out = {name.casefold() for name in (*parts.held_out, *parts.thresholds)}
    seen = [name for name in names if name.casefold() in kept_out]
    if seen:
        raise ConfigError(
            f"{folder}: {', '.join(seen)}: kept out of training by {spec.data.folds.name}; take it out of images/"
        )
    source = Pictures(folder, spec.input.modality[0])
    return load_without_truth(source, names, spec.input, cache=cache)
