"""One call of `process`: inputs to studies, studies to bundles, bundles to files in the output folder."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from medpipe.bundle import available_bundles
from medpipe.cli.inputs import InputKind, Source
from medpipe.cli.processing import Report
from medpipe.config import Config
from medpipe.dicom import InstanceHeader
from medpipe.dicom.classes import SLICES
from medpipe.errors import MedpipeError, ReasonCode, Refused, UsageError
from medpipe.identity import safe_name
from medpipe.process import Processor, StudyOutcome, default_bundle_ids, no_rule
from medpipe.routing import check_rules, facts_of, route
from medpipe.types import Prediction

Progress = Callable[[float], None]


class Run:
    """Holds the warm processor and numbers the scratch folders of one call."""

    def __init__(
        self,
        config: Config,
        out: Path,
        scratch: Path,
        bundle: str | None,
        formats: tuple[str, ...] | None,
        *,
        probabilities: bool,
        preview: bool,
    ) -> None:
        check_rules(config.rules)
        self._config, self._out, self._scratch = config, out, scratch
        self._bundle, self._formats = bundle, formats
        self._probabilities, self._preview = probabilities, preview
        self._processor = Processor(config)
        self._numbers = itertools.count()

    def __enter__(self) -> Run:
        self._processor.__enter__()
        if self._bundle is not None:
            self._processor.warm(self._bundle)  # an unknown bundle is told before any file is read
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processor.__exit__(kind, error, trace)

    # --- DICOM -----------------------------------------------------------------------------------------------

    def dicom(self, source: Source, *, progress: Progress) -> Iterator[Report]:
        """Reports of the studies in `source`: one per study and bundle; one per picture where files were named."""
        scan = self._processor.reader.scan(source.files)
        for quarantine, path in zip(scan.unreadable, scan.unreadable_paths, strict=True):
            yield Report(str(path), "quarantined", f"{quarantine.code.value}: {quarantine.sentence}")
        by_study: dict[str, list[InstanceHeader]] = {}
        shortened = {quarantine.series_uid for quarantine in scan.unreadable}
        for header in scan.instances:
            if header.series_uid in shortened and header.sop_class_uid in SLICES:
                reason = f"{ReasonCode.UNREADABLE.value}: another slice of its series cannot be read"
                yield Report(str(header.path), "quarantined", reason, study=header.study_uid)
                continue
            by_study.setdefault(header.study_uid, []).append(header)
        for study_uid, headers in by_study.items():
            chosen = self._bundles_for(headers)
            if not chosen:
                yield self._unwanted(source, study_uid, headers)
            for bundle_id, wanted in chosen.items():
                yield from self._study(source, study_uid, bundle_id, wanted, progress)
            with contextlib.suppress(OSError):
                (self._out / safe_name(study_uid)).rmdir()  # nothing came of the study: no empty folder stays

    def _bundles_for(self, headers: Sequence[InstanceHeader]) -> dict[str, list[InstanceHeader]]:
        """Bundle id -> the instances of the series it is to see."""
        if self._bundle is not None:
            return {self._bundle: list(headers)}
        chosen: dict[str, list[InstanceHeader]] = {}
        by_series: dict[str, list[InstanceHeader]] = {}
        for header in headers:
            if not header.own_output:
                by_series.setdefault(header.series_uid, []).append(header)
        if self._config.rules:
            for facts in facts_of([h for series in by_series.values() for h in series], {}):
                for rule in route(self._config.rules, facts):
                    chosen.setdefault(rule.bundle, []).extend(by_series[facts.series_uid])
            return chosen
        bundles = available_bundles(self._config.worker.bundle_folders)
        for series in by_series.values():
            for bundle_id in default_bundle_ids(series[0].modality, bundles)[:1]:
                chosen.setdefault(bundle_id, []).extend(series)
        return chosen

    def _unwanted(self, source: Source, study_uid: str, headers: Sequence[InstanceHeader]) -> Report:
        first = headers[0]
        if all(header.own_output for header in headers):
            reason = f"{ReasonCode.OWN_OUTPUT.value}: results of medpipe are never processed again"
        else:
            refusal = no_rule(first.series_uid, "/".join(sorted({h.modality for h in headers if h.modality})))
            reason = f"{refusal.code.value}: {refusal.sentence}"
        return Report(_input_of(source, first.path), "quarantined", reason, study=study_uid)

    def _study(
        self,
        source: Source,
        study_uid: str,
        bundle_id: str,
        headers: Sequence[InstanceHeader],
        progress: Progress,
    ) -> Iterator[Report]:
        folder = self._out / safe_name(study_uid)
        folder.mkdir(parents=True, exist_ok=True)
        given = _input_of(source, headers[0].path)
        try:
            outcome = self._processor.process(
                [header.path for header in headers],
                bundle_id,
                folder,
                self._fresh_scratch(),
                keep_probability=self._probabilities,
                progress=progress,
            )
        except Refused as refusal:
            yield Report(given, "quarantined", f"{refusal.code}: {refusal}", bundle_id, study_uid)
            return
        except MedpipeError as error:
            yield Report(given, "failed", f"{error.code}: {error}", bundle_id, study_uid)
            return
        if not outcome.images:
            kinds = "/".join(sorted({h.modality or "unknown" for h in headers}))
            own = all(header.own_output for header in headers)
            code = ReasonCode.OWN_OUTPUT if own else ReasonCode.NOT_AN_IMAGE
            yield Report(
                given,
                "quarantined",
                f"{code.value}: no image to segment among {kinds} objects",
                bundle_id,
                study_uid,
            )
            return
        outputs = self._outputs(outcome, folder)
        if source.given.is_dir() or any(p.image.is_volume for p in outcome.predictions) or len(headers) == 1:
            files = [path for paths in outputs.values() for path in paths]
            yield Report(
                given,
                outcome.state,
                outcome.reason,
                bundle_id,
                study_uid,
                files,
                outcome.lesions,
                outcome.uncertainty,
                outcome.summary,
                dict(outcome.seconds),
                outcome.bundle.noun,
            )
            return
        path_of = {header.sop_instance_uid: header.path for header in headers}
        for image in outcome.images:
            reason = f"{image.refused.code.value}: {image.refused.sentence}" if image.refused else None
            where = str(path_of.get(image.name, headers[0].path))
            lesions, seconds = dict(image.lesions), dict(outcome.seconds)
            yield Report(
                where,
                image.state,
                reason,
                bundle_id,
                study_uid,
                outputs.get(image.name, []),
                lesions,
                dict(image.uncertainty),
                outcome.summary,
                seconds,
                outcome.bundle.noun,
            )

    def _outputs(self, outcome: StudyOutcome, folder: Path) -> dict[str, list[str]]:
        """Files written, by image name; writes what `process` adds to SEG and SR."""
        outputs: dict[str, list[str]] = {}
        formats = self._formats or ("seg",)
        for result in outcome.results:
            if "seg" in formats:
                outputs.setdefault(result.image_name or "", []).append(str(result.path))
            else:
                result.path.unlink(missing_ok=True)
        for prediction in outcome.predictions:
            stem = folder / f"{safe_name(prediction.image.name)}.{outcome.bundle.id}"
            written = self._extra_files(prediction, stem, formats, outcome)
            outputs.setdefault(prediction.image.name, []).extend(map(str, written))
        return outputs

    # --- pictures and NIfTI ----------------------------------------------------------------------------------

    def loose(self, source: Source, *, progress: Progress) -> Iterator[Report]:
        """The report of one camera picture or NIfTI volume."""
        path = source.files[0]
        scratch = self._fresh_scratch()
        picture = source.kind is InputKind.PICTURE
        image = (
            self._processor.reader.picture(path, scratch)
            if picture
            else self._processor.reader.nifti(path, scratch)
        )
        bundle_id = self._bundle or self._only_bundle_for(image.array.shape[0], image.is_volume)
        outcome = self._processor.predict_images(
            [image], bundle_id, scratch, keep_probability=self._probabilities, progress=progress
        )
        files: list[str] = []
        for prediction in outcome.predictions:
            formats = self._formats or (("png",) if picture else ("nifti",))
            if "seg" in formats:
                raise UsageError(f"{path}: a SEG needs a DICOM source; use `medpipe wrap-photo` first")
            stem = self._out / f"{source.stem}.{outcome.bundle.id}"
            stem.parent.mkdir(parents=True, exist_ok=True)
            files += map(str, self._extra_files(prediction, stem, formats, outcome))
        yield Report(
            str(source.given),
            outcome.state,
            outcome.reason,
            bundle_id,
            None,
            files,
            outcome.lesions,
            outcome.uncertainty,
            outcome.summary,
            dict(outcome.seconds),
            outcome.bundle.noun,
        )

    def _only_bundle_for(self, channels: int, volume: bool) -> str:
        fitting = [
            bundle.id
            for bundle in available_bundles(self._config.worker.bundle_folders)
            if bundle.input.channels == channels
            and (bundle.input.spatial_dims == 3) == volume
            and bundle.by_modality
        ]
        if len(fitting) != 1:
            known = ", ".join(fitting) or "none fits"
            raise UsageError(
                f"a file without DICOM header does not tell its bundle: name one with --bundle ({known})"
            )
        return fitting[0]

    # --- both ------------------------------------------------------------------------------------------------

    def _extra_files(
        self, prediction: Prediction, stem: Path, formats: Sequence[str], outcome: StudyOutcome
    ) -> Iterator[Path]:
        from medpipe.results import write_mask_png, write_nifti, write_preview, write_probabilities

        if "png" in formats:
            yield from write_mask_png(prediction, stem.with_name(stem.name + ".png"))
        if "nifti" in formats:
            yield write_nifti(
                prediction, stem.with_name(stem.name + ".nii.gz"), exclusive=outcome.bundle.exclusive
            )
        if self._probabilities:
            yield write_probabilities(prediction, stem.with_name(stem.name + ".npz"))
        if self._preview:
            yield write_preview(prediction, stem.with_name(stem.name + ".preview.png"), outcome.bundle)

    def _fresh_scratch(self) -> Path:
        folder = self._scratch / f"study-{next(self._numbers)}"
        folder.mkdir(parents=True)
        return folder


def _input_of(source: Source, path: Path) -> str:
    """What to call this input: the folder as given, or the file itself."""
    return str(source.given) if source.given.is_dir() else str(path)
