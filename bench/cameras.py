"""What a bundle finds on the same pictures as another camera might have taken them: coarser, darker, of other colours.

    python bench/cameras.py --bundle FOLDER --fold 0 [--data IDRID] [--cameras half darker ...]

Nothing replaces pictures of other cameras; this shows what a network leans on. All is measured on the original's grid
against the original's truth: a coarser camera's answer is brought back to it. --fold is for a bundle whose network was
not trained on that fold; without it the pictures are those that the bundle's experiment chooses thresholds on.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from held_out import HeldOut, asked_for, parser_for
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from medpipe.bundle import Bundle
from medpipe.inference import Backend, load_backend, predict
from medpipe.inference.field import find_field
from medpipe.inference.resample import resample
from medpipe.training.class_scores import ClassScores
from medpipe.training.evaluation import shown
from medpipe.training.sources import open_source, photograph

Pixels = NDArray[np.uint8]
"""(J, I, 3) RGB."""


def coarser(part: float) -> Callable[[Pixels], Pixels]:
    """Of `part` of the rows and columns."""

    def take(pixels: Pixels) -> Pixels:
        size = round(pixels.shape[1] * part), round(pixels.shape[0] * part)
        return np.asarray(Picture.fromarray(pixels).resize(size, Picture.Resampling.BOX))

    return take


def with_gamma(gamma: float) -> Callable[[Pixels], Pixels]:
    """Values to the power of `gamma`: above 1 darker."""
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return lambda pixels: table[pixels]


def with_gains(*gains: float) -> Callable[[Pixels], Pixels]:
    """Red, green and blue times these."""
    return lambda pixels: np.clip(pixels * np.array(gains, np.float32), 0, 255).astype(np.uint8)


def soft(sigma: float) -> Callable[[Pixels], Pixels]:
    """Out of focus: Gaussian of `sigma` pixels."""
    return lambda pixels: np.asarray(ndimage.gaussian_filter(pixels, (sigma, sigma, 0)))


def noisy(deviation: float) -> Callable[[Pixels], Pixels]:
    """Gaussian noise in every channel, within the field."""

    def take(pixels: Pixels) -> Pixels:
        noise = np.random.default_rng(0).normal(0, deviation, pixels.shape) * (pixels > 0)
        return np.clip(pixels + noise, 0, 255).astype(np.uint8)

    return take


def jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    """Compressed and read again."""

    def take(pixels: Pixels) -> Pixels:
        file = io.BytesIO()
        Picture.fromarray(pixels).save(file, "JPEG", quality=quality)
        return np.asarray(Picture.open(file))

    return take


def narrower(part: float) -> Callable[[Pixels], Pixels]:
    """A round field of `part` of the diameter, black around it: what lies in it is seen so much larger."""

    def take(pixels: Pixels) -> Pixels:
        j0, i0, j1, i1 = find_field(np.moveaxis(pixels, -1, 0)).box
        j, i = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
        radius = part * max(j1 - j0, i1 - i0) / 2
        inside = (j - (j0 + j1) / 2) ** 2 + (i - (i0 + i1) / 2) ** 2 <= radius**2
        return pixels * inside[..., None]

    return take


@dataclass(frozen=True)
class Camera:
    """What another camera would have made of a picture: `steps` in turn."""

    steps: tuple[Callable[[Pixels], Pixels], ...] = ()
    part: float = 1.0
    """Of the field's diameter that it sees; lesions outside do not count."""
    states_field: bool = False
    """Its file says how wide the field is (Horizontal Field of View, PS3.3 C.8.17.4), as DICOM lets it."""


def narrow(part: float, *, states_field: bool = False) -> Camera:
    """Sees `part` of the field's diameter."""
    return Camera((narrower(part),), part, states_field)


CAMERAS = {
    "as it is": Camera(),
    "half": Camera((coarser(1 / 2),)),
    "third": Camera((coarser(1 / 3),)),
    "half-jpeg": Camera((coarser(1 / 2), jpeg(60))),
    "darker": Camera((with_gamma(1.5),)),
    "dim": Camera((with_gains(0.35, 0.35, 0.35),)),
    "brighter": Camera((with_gamma(0.67),)),
    "bluer": Camera((with_gains(0.85, 1.0, 1.6),)),
    "redder": Camera((with_gains(1.15, 0.85, 0.5),)),
    "soft": Camera((soft(2.5),)),
    "noisy": Camera((noisy(12),)),
    "narrow": narrow(0.7),
    "narrow-stated": narrow(0.7, states_field=True),
}


def main() -> None:
    """Prints one Markdown table: a line for each camera."""
    parser = parser_for(__doc__, "fundus-lesions")
    parser.add_argument("--cameras", nargs="+", choices=list(CAMERAS), default=list(CAMERAS))
    options = parser.parse_args()
    held_out = asked_for(options)
    ids = held_out.bundle.class_ids
    print(f"{held_out}: AUPR, then lesions found and false ones a picture\n")
    print("| camera |", " | ".join([*ids, "mean", *(f"{c}, found / false" for c in ids)]), "|")
    print("|", " | ".join(["---"] * (2 * len(ids) + 2)), "|")
    backend = load_backend(held_out.bundle, device="cpu")
    for camera in options.cameras:
        scores = seen_by(camera, held_out, backend)
        values = [score.pooled.aupr for score in scores]
        known = [value for value in values if value is not None]
        lesions = [f"{shown(score.recall)} / {score.false_per_picture:.1f}" for score in scores]
        cells = [*map(shown, values), shown(float(np.mean(known)) if known else None), *lesions]
        print(f"| {camera} |", " | ".join(cells), "|", flush=True)


def seen_by(camera: str, held_out: HeldOut, backend: Backend) -> list[ClassScores]:
    """Scores of each class on all the pictures."""
    scores = [ClassScores(class_id) for class_id in held_out.bundle.class_ids]
    for said, mask, truth in answers(CAMERAS[camera], held_out, held_out.bundle, backend):
        for c, score in enumerate(scores):
            score.add(mask[c], truth[c], said[c])
    return scores


def answers(
    camera: Camera, held_out: HeldOut, bundle: Bundle, backend: Backend
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]]:
    """Per picture probabilities, mask and truth (classes, 1, J, I), all on the original's grid."""
    source = open_source(held_out.data, bundle.input)
    for name in held_out.names:
        original = source.image(name)
        pixels = np.ascontiguousarray(np.moveaxis(original.array[:, 0], 0, -1))
        for step in camera.steps:
            pixels = step(pixels)
        truth = source.truth(name, len(bundle.classes))
        if camera.part < 1:
            truth &= pixels.any(axis=-1)
        image = photograph(pixels, name, bundle.input.modality[0])
        if camera.states_field and bundle.input.field_degrees:
            image = replace(image, field_degrees=camera.part * bundle.input.field_degrees)
        with tempfile.TemporaryDirectory(prefix="medpipe-cameras-") as scratch:
            said = predict(image, bundle, backend, Path(scratch), keep_probability=True)
            assert said.probability is not None
            shape = original.grid.shape
            rows, columns = (
                (np.arange(n) * m // n) for n, m in zip(shape[1:], pixels.shape[:2], strict=True)
            )
            mask = said.mask[:, :, rows[:, None], columns]
            yield np.stack([resample(p, shape) for p in said.probability]), mask, truth


if __name__ == "__main__":
    main()
