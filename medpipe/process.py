"""One study's way: assemble -> predict -> write. The command line and the workers walk it with these very functions."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from pydicom import dcmread

from medpipe import __version__
from medpipe.bundle import Bundle, find_bundle
from medpipe.config import Config
from medpipe.dicom import GuardedReader, read_headers
from medpipe.errors import ReasonCode, Refused
from medpipe.results import ResultOptions, study_summary, write_results
from medpipe.types import Image, Lesion, Prediction, Quarantine, Result

if TYPE_CHECKING:
    from medpipe.inference import Backend

__all__ = ["ImageOutcome", "Processor", "StudyOutcome", "__version__"]

Progress = Callable[[float], None]


@dataclass(frozen=True)
class ImageOutcome:
    """What became of one picture or volume: lesions per class, or why it was refused."""

    name: str
    series_uid: str
    lesions: Mapping[str, int]
    refused: Quarantine | None = None
    uncertainty: Mapping[str, float] = field(default_factory=dict)
    """Mean uncertainty of each class's lesions; of classes without any, and of networks asked once, nothing."""

    @property
    def state(self) -> str:
        return "done" if self.refused is None else "quarantined"


@dataclass(frozen=True)
class StudyOutcome:
    """What became of one study under one bundle. `seconds` has assemble, preprocess, network, crf, lesions, write."""

    study_uid: str
    bundle: Bundle
    images: tuple[ImageOutcome, ...]
    results: tuple[Result, ...]
    refused: tuple[Quarantine, ...]
    ignored: tuple[str, ...]
    seconds: Mapping[str, float]
    predictions: tuple[Prediction, ...] = field(default=(), repr=False)

    @property
    def state(self) -> str:
        """`done` when at least one image has a result, else `quarantined`."""
        return "done" if any(image.refused is None for image in self.images) else "quarantined"

    @property
    def reason(self) -> str | None:
        """The refusals in one line, `CODE: sentence`, or None."""
        lines = [f"{q.code.value}: {q.sentence}" for q in self.refused]
        return "; ".join(dict.fromkeys(lines)) or None

    @property
    def lesions(self) -> dict[str, int]:
        """Lesions per class over all images."""
        total = {spec.id: 0 for spec in self.bundle.classes}
        for image in self.images:
            for class_id, count in image.lesions.items():
                total[class_id] += count
        return total

    @property
    def uncertainty(self) -> dict[str, float]:
        """Mean uncertainty per class over the lesions of all images."""
        return mean_uncertainty([lesion for one in self.predictions for lesion in one.lesions])

    @property
    def summary(self) -> str | None:
        """What the bundle's rules say of all images together."""
        return study_summary(self.bundle, self.predictions)


class Processor:
    """Keeps the guarded reader and each bundle's network warm between studies. Use as a context manager."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._reader = GuardedReader(config.reading, uid_root=config.site.uid_root)
        self._warm: dict[str, tuple[Bundle, Backend]] = {}

    def __enter__(self) -> Processor:
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, error, trace)

    @property
    def reader(self) -> GuardedReader:
        return self._reader

    def warm(self, bundle_id: str) -> tuple[Bundle, Backend]:
        """The bundle and its loaded network; loaded anew when the bundle's files have changed on disk."""
        from medpipe.inference import load_backend

        bundle = find_bundle(bundle_id, self._config.worker.bundle_folders)
        held = self._warm.get(bundle_id)
        if held is None or held[0].hash != bundle.hash:
            worker = self._config.worker
            backend = load_backend(
                bundle,
                device=worker.device,
                backend=worker.backend,
                precision=worker.precision,
                threads=worker.threads,
            )
            held = self._warm[bundle_id] = (bundle, backend)
        return held

    def warm_up(self, bundle_ids: Sequence[str]) -> None:
        """Loads ahead of the first study what it would have to wait for: reader, networks, writers."""
        self._reader.warm_up()
        for bundle_id in bundle_ids:
            bundle, backend = self.warm(bundle_id)
            patch = np.zeros((1, bundle.input.channels, *bundle.window.patch), dtype=np.float32)
            backend(patch)
        importlib.import_module("medpipe.results.seg")
        importlib.import_module("medpipe.results.sr")

    def process(
        self,
        paths: Sequence[Path],
        bundle_id: str,
        out: Path,
        scratch: Path,
        *,
        keep_probability: bool = False,
        progress: Progress | None = None,
    ) -> StudyOutcome:
        """Assembles the instances of ONE study, predicts each image and writes SEG and SR files into `out`.

        An image that is refused does not stop the others; the refusals are in the outcome. Arrays of the outcome's
        predictions lie in `scratch` and live as long as it does.
        """
        seconds: dict[str, float] = {}
        started = time.perf_counter()
        assembly = self._reader.assemble(paths, scratch)
        seconds["assemble"] = time.perf_counter() - started
        return self.process_images(
            assembly.images,
            bundle_id,
            out,
            scratch,
            refused=assembly.refused,
            study_uid=assembly.study_uid,
            study_header=assembly.study_header,
            ignored=assembly.ignored,
            seconds=seconds,
            keep_probability=keep_probability,
            progress=progress,
        )

    def process_images(
        self,
        images: Sequence[Image],
        bundle_id: str,
        out: Path,
        scratch: Path,
        *,
        refused: Iterable[Quarantine] = (),
        study_uid: str = "",
        study_header: Path | None = None,
        ignored: tuple[str, ...] = (),
        seconds: dict[str, float] | None = None,
        keep_probability: bool = False,
        progress: Progress | None = None,
    ) -> StudyOutcome:
        """The same from already assembled images (all of one study)."""
        seconds = {} if seconds is None else seconds
        bundle, predictions, outcomes, refusals = self._predict(
            images, bundle_id, scratch, list(refused), seconds, keep_probability, progress
        )
        study_uid = images[0].study_uid if images else study_uid
        started = time.perf_counter()
        results: tuple[Result, ...] = ()
        headers = read_headers(images[0]) if images else [dcmread(study_header)] if study_header else []
        if headers:
            options = ResultOptions.from_config(self._config.results, self._config.site.uid_root)
            results = write_results(study_uid, predictions, refusals, bundle, out, options, headers=headers)
        seconds["write"] = time.perf_counter() - started
        return StudyOutcome(
            study_uid, bundle, outcomes, results, tuple(refusals), ignored, seconds, tuple(predictions)
        )

    def predict_images(
        self,
        images: Sequence[Image],
        bundle_id: str,
        scratch: Path,
        *,
        keep_probability: bool = False,
        progress: Progress | None = None,
    ) -> StudyOutcome:
        """Predicts images that come from no DICOM (a camera JPEG, a NIfTI file): no result objects are written."""
        seconds: dict[str, float] = {}
        bundle, predictions, outcomes, refusals = self._predict(
            images, bundle_id, scratch, [], seconds, keep_probability, progress
        )
        return StudyOutcome("", bundle, outcomes, (), tuple(refusals), (), seconds, tuple(predictions))

    def _predict(
        self,
        images: Sequence[Image],
        bundle_id: str,
        scratch: Path,
        refusals: list[Quarantine],
        seconds: dict[str, float],
        keep_probability: bool,
        progress: Progress | None,
    ) -> tuple[Bundle, list[Prediction], tuple[ImageOutcome, ...], list[Quarantine]]:
        from medpipe.inference import predict

        bundle, backend = self.warm(bundle_id)
        predictions: list[Prediction] = []
        outcomes: list[ImageOutcome] = []
        for number, image in enumerate(images):

            def step(fraction: float, number: int = number) -> None:
                if progress is not None:
                    progress((number + fraction) / len(images))

            folder = scratch / f"prediction-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            try:
                prediction = predict(
                    image,
                    bundle,
                    backend,
                    folder,
                    tta=self._config.worker.tta,
                    keep_probability=keep_probability,
                    progress=step,
                    uid_root=self._config.site.uid_root,
                )
            except Refused as refusal:
                quarantine = Quarantine(refusal.reason, str(refusal), image.series_uid, _instances(image))
                refusals.append(quarantine)
                outcomes.append(ImageOutcome(image.name, image.series_uid, {}, quarantine))
                continue
            for key, value in prediction.seconds.items():
                seconds[key] = seconds.get(key, 0.0) + value
            predictions.append(prediction)
            outcomes.append(
                ImageOutcome(
                    image.name,
                    image.series_uid,
                    prediction.counts(),
                    uncertainty=mean_uncertainty(prediction.lesions),
                )
            )
        outcomes += [
            ImageOutcome(q.series_uid or "", q.series_uid or "", {}, q)
            for q in refusals
            if not any(outcome.refused is q for outcome in outcomes)
        ]
        return bundle, predictions, tuple(outcomes), refusals


def mean_uncertainty(lesions: Sequence[Lesion]) -> dict[str, float]:
    """Mean uncertainty of the lesions of each class that has any and knows it."""
    by_class: dict[str, list[float]] = {}
    for lesion in lesions:
        if lesion.uncertainty is not None:
            by_class.setdefault(lesion.class_id, []).append(lesion.uncertainty)
    return {class_id: float(np.mean(values)) for class_id, values in by_class.items()}


def _instances(image: Image) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source.sop_instance_uid for source in image.sources))


def default_bundle_ids(modality: str, bundles: Sequence[Bundle]) -> tuple[str, ...]:
    """Bundles meant for a modality, for a site without rules."""
    return tuple(bundle.id for bundle in bundles if modality in bundle.input.modality and bundle.by_modality)


def no_rule(series_uid: str, modality: str) -> Quarantine:
    """The refusal of a series that no rule (and no shipped bundle) wants."""
    return Quarantine(
        ReasonCode.NO_RULE,
        f"no rule wants this {modality or 'unknown'} series; name a bundle with --bundle or add a rule",
        series_uid,
    )
