"""What a bundle says of one image: preprocess -> sliding window -> back to the source grid -> CRF -> lesions.

Memory is bounded: the network runs at working size, and one class at a time is brought back to the source grid.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe import __version__
from medpipe.bundle import Bundle, ClassSpec
from medpipe.dicom.mapped import mapped_zeros
from medpipe.identity import set_digest
from medpipe.inference import crf
from medpipe.inference.backends import Backend
from medpipe.inference.lesions import Identity, label_components, least_size, measure
from medpipe.inference.preprocess import Prepared, display_values, part_of_field
from medpipe.inference.sizes import prepare_finest, reduction, see
from medpipe.types import Image, Lesion, Prediction, Provenance

Progress = Callable[[float], None]

MAPPED_FROM = 256 * 2**20
"""Arrays of at least this many bytes lie in a file in scratch, mapped into memory."""
_NETWORK_PART = 0.8


def predict(
    image: Image,
    bundle: Bundle,
    backend: Backend,
    scratch: Path,
    *,
    tta: bool = False,
    keep_probability: bool = False,
    progress: Progress | None = None,
    uid_root: str = "2.25",
) -> Prediction:
    """Finds a bundle's lesions on one image; masks and probabilities lie on the image's own grid.

    `scratch` is a local folder for large arrays, which live as long as it does. `keep_probability` keeps the network's
    probabilities (before the CRF) as float16. `tta` (or the bundle) asks for mirrored views; they, several sizes or
    the members of an ensemble give each lesion its uncertainty. `progress` is told a fraction 0..1. `uid_root` is for
    tracking UIDs. The same image, bundle, backend and options give the same prediction, bit for bit.

    Raises Refused(NOT_FOR_BUNDLE, FOV_NOT_FOR_BUNDLE) where the image is not what the bundle is meant for.
    """
    tell = progress or (lambda fraction: None)
    tta = tta or bundle.window.tta
    clock = _Clock()
    with clock("preprocess"):
        prepared = prepare_finest(image, bundle)
        seen_as_one = reduction(prepared, bundle)
        bundle = _for_source(bundle, seen_as_one)
    with clock("network"):
        seen = see(
            image, prepared, bundle, backend, tta=tta, progress=lambda part: tell(_NETWORK_PART * part)
        )
    working = seen.probability
    shape = (len(bundle.classes), *image.grid.shape)
    mask = _array(scratch / "mask.npy", shape, np.dtype(np.bool_))
    probability = (
        mapped_zeros(scratch / "probability.npy", shape, np.dtype(np.float16)) if keep_probability else None
    )
    way = prepared.way_back
    whole = _array(scratch / "class.npy", image.grid.shape, np.dtype(np.float32))
    spread = (
        None
        if all(of_class is None for of_class in seen.spreads)
        else _array(scratch / "spread.npy", image.grid.shape, np.dtype(np.float32))
    )
    budget = _Budget(bundle)
    lesions: list[Lesion] = []
    for number, spec in enumerate(bundle.classes):
        with clock("lesions"):
            if keep_probability or working[number].max() >= spec.needed:
                way.to_source(working[number], whole)
                if probability is not None:
                    probability[number] = whole
            if working[number].max() < spec.needed:  # interpolation exceeds no value it interpolates
                if spec.crf:
                    budget.spend(spec, crf.Refinement(frozenset(), 0, 0.0))
                continue
            _threshold(whole, spec, image, mask[number])
            if bundle.exclusive:
                _give_way(mask, number, prepared, working, to_background=bundle.network.argmax)
        forbidden = _forbidden(mask, number, image, bundle) if spec.crf else None
        labels, refined = _components(mask[number], whole, spec, image, bundle, budget, clock, forbidden)
        with clock("lesions"):
            np.not_equal(labels, 0, out=mask[number])
            identity = Identity(uid_root, bundle.id, spec.id)
            said = seen.spreads[number]
            if said is not None and spread is not None:
                way.to_source(said, spread)
            lesions += measure(labels, whole, image, identity, refined, None if said is None else spread)
        tell(_NETWORK_PART + (1 - _NETWORK_PART) * (number + 1) / len(bundle.classes))
    tell(1.0)
    provenance = _provenance(
        image, bundle, backend, tta, [*_field_notes(image, bundle, prepared), *budget.notes]
    )
    return Prediction(
        image, bundle.class_ids, mask, probability, tuple(lesions), provenance, clock.seconds, seen_as_one
    )


def _field_notes(image: Image, bundle: Bundle, prepared: Prepared) -> Iterator[str]:
    part = part_of_field(image, bundle.input)
    if part != 1:
        yield f"field of view of {image.field_degrees:g} degrees: seen at {part:.3g} of the working size"
    if prepared.lightened > 1:
        yield f"dark photograph: seen {prepared.lightened:.2g} times as bright"


def _for_source(bundle: Bundle, seen_as_one: float) -> Bundle:
    """The same bundle with its classes' smallest sizes in voxels of the image; its hash stays."""
    sizes = [least_size(spec.smallest, seen_as_one) for spec in bundle.classes]
    classes = zip(bundle.classes, sizes, strict=True)
    return dataclasses.replace(
        bundle, classes=tuple(spec.model_copy(update={"smallest": size}) for spec, size in classes)
    )


def _threshold(whole: NDArray[np.float32], spec: ClassSpec, image: Image, out: NDArray[np.bool_]) -> None:
    np.greater_equal(whole, np.float32(spec.threshold), out=out)
    if image.padding is not None:
        out &= ~image.padding


def _give_way(
    mask: NDArray[np.bool_],
    number: int,
    prepared: Prepared,
    working: NDArray[np.float32],
    *,
    to_background: bool,
) -> None:
    """Of classes that exclude each other the more probable one keeps a pixel; of equals the earlier.

    With `to_background` the background is one of them: what no class is.
    """
    rivals = np.delete(working, number, axis=0)
    if to_background:
        rivals = np.concatenate([rivals, 1 - working.sum(axis=0, keepdims=True)])
    if not len(rivals):
        return
    view = prepared.way_back.view(mask[number])
    own, rival = prepared.way_back.bands(working[number]), prepared.way_back.bands(rivals.max(axis=0))
    for (band, values), (_, opposed) in zip(own, rival, strict=True):
        view[band] &= values >= opposed
    mask[number] &= ~mask[:number].any(axis=0)


def _forbidden(
    mask: NDArray[np.bool_], number: int, image: Image, bundle: Bundle
) -> NDArray[np.bool_] | None:
    """Where the CRF may not mark the class: padding, and classes that exclude it and had their turn."""
    parts = [] if image.padding is None else [image.padding]
    if bundle.exclusive and number:
        parts.append(np.asarray(mask[:number].any(axis=0)))
    return np.logical_or.reduce(parts) if parts else None


def _components(
    mask: NDArray[np.bool_],
    probability: NDArray[np.float32],
    spec: ClassSpec,
    image: Image,
    bundle: Bundle,
    budget: _Budget,
    clock: _Clock,
    forbidden: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int32], frozenset[int]]:
    """Labels (K, J, I) of one class's lesions after the CRF where the class uses it, and which of them it refined."""
    with clock("lesions"):
        labels = label_components(mask, spec.smallest, probability, spec.needed)
    if not spec.crf:
        return labels, frozenset()
    with clock("crf"):
        values = display_values(image, bundle.input)
        if bundle.crf.mode == "seed":
            return _unguarded(probability, spec, image, bundle, values, forbidden)
        if bundle.input.spatial_dims == 3:
            spacing = image.grid.spacing if image.calibrated else (1.0, 1.0, 1.0)
            done = crf.refine(
                labels, probability, values, bundle.crf, threshold=spec.threshold, smallest=spec.smallest,
                spacing=spacing, budget=budget.share(), forbidden=forbidden,
            )  # fmt: skip
            budget.spend(spec, done)
            return labels, done.refined
        return _by_slice(labels, probability, spec, bundle, values, budget, forbidden)


def _by_slice(
    labels: NDArray[np.int32],
    probability: NDArray[np.float32],
    spec: ClassSpec,
    bundle: Bundle,
    values: crf.Values,
    budget: _Budget,
    forbidden: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int32], frozenset[int]]:
    """The 2-D CRF on each slice; components of a picture keep their labels, those of a volume are found anew."""
    refined: frozenset[int] = frozenset()
    share = budget.share()
    total = crf.Refinement(frozenset(), 0, 0.0)
    for k in range(labels.shape[0]):
        if not labels[k].any():
            continue

        def plane(box: crf.Box, k: int = k) -> NDArray[np.float32]:
            return values((slice(k, k + 1), *box))[:, 0]

        flat = labels[k] if labels.shape[0] == 1 else label_components(labels[k] > 0, 1)
        done = crf.refine(
            flat, probability[k], plane, bundle.crf, threshold=spec.threshold,
            smallest=spec.smallest if labels.shape[0] == 1 else 1, spacing=(1.0, 1.0), budget=share - total.seconds,
            forbidden=None if forbidden is None else forbidden[k],
        )  # fmt: skip
        total = crf.Refinement(frozenset(), total.unrefined + done.unrefined, total.seconds + done.seconds)
        refined = done.refined
        labels[k] = flat
    budget.spend(spec, total)
    if labels.shape[0] == 1:
        return labels, refined
    return label_components(labels > 0, spec.smallest), frozenset()


def _unguarded(
    probability: NDArray[np.float32],
    spec: ClassSpec,
    image: Image,
    bundle: Bundle,
    values: crf.Values,
    forbidden: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int32], frozenset[int]]:
    if bundle.input.spatial_dims == 3:
        spacing = image.grid.spacing if image.calibrated else (1.0, 1.0, 1.0)
        decided = crf.refine_unguarded(probability, values, spec.threshold, spacing)
    else:
        decided = np.zeros(probability.shape, np.bool_)
        for k in range(len(probability)):

            def plane(box: crf.Box, k: int = k) -> NDArray[np.float32]:
                return values((slice(k, k + 1), *box))[:, 0]

            decided[k] = crf.refine_unguarded(probability[k], plane, spec.threshold, (1.0, 1.0))
    if forbidden is not None:
        decided &= ~forbidden
    labels = label_components(decided, spec.smallest, probability, spec.needed)
    return labels, frozenset(range(1, int(labels.max()) + 1))


class _Budget:
    """The CRF's seconds of work for one image: each class that uses it gets an equal share of what is left."""

    def __init__(self, bundle: Bundle) -> None:
        self._left = bundle.crf.seconds
        self._classes = [spec.id for spec in bundle.classes if spec.crf]
        self.notes: list[str] = []

    def share(self) -> float:
        return self._left / max(1, len(self._classes))

    def spend(self, spec: ClassSpec, done: crf.Refinement) -> None:
        self._left -= done.seconds
        self._classes.remove(spec.id)
        if done.unrefined:
            self.notes.append(
                f"CRF budget: {done.unrefined} of the larger {spec.id} components were left unrefined"
            )


class _Clock:
    """Seconds per step, summed."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("preprocess", "network", "crf", "lesions"), 0.0)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] += time.perf_counter() - started


def _array(path: Path, shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """Zeros; in a file in scratch where they are many."""
    if int(np.prod(shape)) * kind.itemsize < MAPPED_FROM:
        return np.zeros(shape, kind)
    return mapped_zeros(path, shape, kind)


def _provenance(image: Image, bundle: Bundle, backend: Backend, tta: bool, notes: list[str]) -> Provenance:
    used = [spec.id for spec in bundle.classes if spec.crf]
    parameters = {"classes": used, **bundle.crf.model_dump(mode="json")} if used else {}
    return Provenance(
        bundle_id=bundle.id,
        bundle_version=bundle.version,
        bundle_hash=bundle.hash,
        weights_sha256=bundle.weights_sha256,
        software_version=__version__,
        backend=f"{backend.name} {backend.device.split(':')[0]}",
        precision=backend.precision,
        tta=tta,
        thresholds={spec.id: spec.threshold for spec in bundle.classes},
        smallest={spec.id: spec.smallest for spec in bundle.classes},
        peaks={spec.id: spec.peak for spec in bundle.classes if spec.peak is not None},
        crf=parameters,
        source_digest=set_digest(f"{s.sop_instance_uid} {s.frame or 1}" for s in image.sources),
        notes=tuple(notes),
    )


def with_crf(bundle: Bundle, mode: str) -> Bundle:
    """The same bundle with the CRF `off`, `guarded` or `seed` for every class, to compare; its hash stays."""
    classes = tuple(spec.model_copy(update={"crf": mode != "off"}) for spec in bundle.classes)
    field = bundle.crf if mode == "off" else bundle.crf.model_copy(update={"mode": mode})
    return dataclasses.replace(bundle, classes=classes, crf=field)
