"""Predictions and refusals of one study -> SEG and SR files, each written whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from medpipe.bundle import Bundle
from medpipe.errors import IntegrityError
from medpipe.identity import safe_name
from medpipe.results.finished import FinishedObject, write_atomically
from medpipe.results.options import ResultOptions
from medpipe.results.source_header import read_source_headers, source_headers
from medpipe.results.study_summary import study_summary
from medpipe.types import Prediction, Quarantine, Result


def write_results(
    study_uid: str,
    predictions: Sequence[Prediction],
    refused: Sequence[Quarantine],
    bundle: Bundle,
    out: Path,
    options: ResultOptions,
    *,
    headers: Sequence[Dataset] = (),
) -> tuple[Result, ...]:
    """Writes `<name>.<bundle>.seg.dcm` and `.sr.dcm` into `out` for each prediction of one study.

    Nothing found gives the SR alone, or also a SEG with one empty frame (`no_lesion = "empty-seg"`, or where the
    site wants no SR, since a finding of nothing must reach the PACS too). With `refused_sr` each refused series
    gives `<name>-refused.<bundle>.sr.dcm`, dated and addressed by `headers` (data sets of the study's instances,
    preferably the refused ones). The same input gives the same bytes.
    Raises IntegrityError where a mask and its lesions contradict each other, or an image is of another study.
    """
    results: list[Result] = []
    of_study = study_summary(bundle, predictions)
    for prediction in predictions:
        _check(study_uid, prediction)
        source = read_source_headers(prediction.image)
        name = prediction.image.name
        found = bool(prediction.mask.any())
        seg: FinishedObject | None = None
        if options.seg and (found or options.no_lesion == "empty-seg" or not options.sr):
            from medpipe.results.seg import (
                build_seg,  # highdicom is loaded when a result is written, not before
            )

            seg = build_seg(prediction, bundle, options, source)
            results.append(_written(seg, out / f"{safe_name(name)}.{bundle.id}.seg.dcm", name))
        if options.sr:
            from medpipe.results.sr import build_sr

            sr = build_sr(prediction, seg, bundle, options, source, of_study)
            results.append(_written(sr, out / f"{safe_name(name)}.{bundle.id}.sr.dcm", name))
    if options.refused_sr and refused and headers:
        results += _write_refusals(study_uid, refused, bundle, out, options, headers)
    return tuple(results)


def _check(study_uid: str, prediction: Prediction) -> None:
    """SEG and SR speak of the same finding, in the study they are for: anything else must not leave."""
    image = prediction.image
    if image.study_uid != study_uid:
        raise IntegrityError(f"{image.name}: belongs to study {image.study_uid}, not {study_uid}")
    for number, (class_id, count) in enumerate(prediction.counts().items()):
        if bool(count) != bool(prediction.mask[number].any()):
            raise IntegrityError(
                f"{image.name}: mask and lesion list contradict each other for class {class_id} ({count} lesions)"
            )


def _write_refusals(
    study_uid: str,
    refused: Sequence[Quarantine],
    bundle: Bundle,
    out: Path,
    options: ResultOptions,
    headers: Sequence[Dataset],
) -> list[Result]:
    from medpipe.results.sr import build_refused_sr

    by_series: dict[str, list[Quarantine]] = {}
    for quarantine in refused:
        by_series.setdefault(quarantine.series_uid or study_uid, []).append(quarantine)
    results = []
    for name, reasons in by_series.items():
        concerned = {uid for reason in reasons for uid in reason.instances}
        chosen = [h for h in headers if str(h.get("SOPInstanceUID")) in concerned] or list(headers[:1])
        sr = build_refused_sr(reasons, source_headers(chosen), name, bundle, options)
        path = out / f"{safe_name(name)}-refused.{bundle.id}.sr.dcm"
        results.append(_written(sr, path, None))
    return results


def _written(made: FinishedObject, path: Path, image_name: str | None) -> Result:
    write_atomically(made.content, path)
    return Result(
        sop_instance_uid=made.sop_instance_uid,
        sop_class_uid=made.sop_class_uid,
        series_instance_uid=made.series_instance_uid,
        modality=made.modality,
        path=path,
        sha256=hashlib.sha256(made.content).hexdigest(),
        image_name=image_name,
    )
