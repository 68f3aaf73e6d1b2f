"""Prediction or refusal -> structured report (PS3.16 TID 1500) with the lesion table, through highdicom."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import Any

import highdicom as hd
from highdicom.sr import (
    AlgorithmIdentification,
    DeviceObserverIdentifyingAttributes,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medpipe import __version__
from medpipe.bundle import Bundle
from medpipe.identity import MANUFACTURER, MANUFACTURER_MODEL_NAME, uid_from
from medpipe.results.finished import FinishedObject, finish
from medpipe.results.foreign_values import unjudged
from medpipe.results.options import ResultOptions
from medpipe.results.plain_text import long_string, series_description
from medpipe.results.provenance import (
    acquisition_equipment,
    device_serial_number,
    processing_equipment,
    provenance_text,
    software_versions,
)
from medpipe.results.references import name_true_classes, stand_in, stand_ins
from medpipe.results.seg import segment_tracking_uid, series_uid
from medpipe.results.source_header import SourceHeaders, read_source_headers
from medpipe.results.sr_groups import Group, Subject, class_group, lesion_groups, overall_group
from medpipe.results.sr_text import refusal_text, summary_text
from medpipe.types import Prediction, Quarantine


@unjudged()
def build_sr(
    prediction: Prediction,
    seg: FinishedObject | None,
    bundle: Bundle,
    options: ResultOptions,
    headers: SourceHeaders | None = None,
    of_study: str | None = None,
) -> FinishedObject:
    """The report on one prediction: its lesions, or that none was found; refers to `seg` where there is one.

    `of_study` is what the bundle's rules say of all images of the study together.
    Comprehensive 3D SR for volumes (lesion centres in patient space), else Comprehensive SR.
    """
    image = prediction.image
    headers = headers or read_source_headers(image)
    sources = stand_ins(image, headers, options.uid_root)
    subject = Subject(prediction, bundle, seg, sources[0].get("FrameOfReferenceUID"))
    found = any(prediction.counts().values())
    outcome = (
        codes.DCM.AllAlgorithmsSucceededWithFindings
        if found
        else codes.DCM.AllAlgorithmsSucceededWithoutFindings
    )
    algorithm = AlgorithmIdentification(
        name=long_string(bundle.id),
        version=long_string(bundle.version),
        manufacturer=MANUFACTURER,
        family=codes.DCM.ArtificialIntelligence,
        parameters=[provenance_text(prediction.provenance)],
    )
    summary_uid = uid_from(options.uid_root, "summary", prediction.provenance.source_digest, bundle.hash)
    overall = overall_group(
        summary_uid, outcome, summary_text(prediction, bundle, options, of_study), algorithm
    )
    groups: list[Dataset] = []
    for number in range(len(prediction.class_ids)):
        groups += class_group(subject, number, segment_tracking_uid(prediction, number, options))
        groups += lesion_groups(subject, number)
    evidence = [*sources, seg.dataset] if seg is not None else sources
    report = _report(
        hd.sr.Comprehensive3DSR if image.is_volume else hd.sr.ComprehensiveSR,
        evidence,
        overall,
        series_uid("SR", prediction, bundle, options),
        headers,
        bundle,
        options,
    )
    _add_groups(report, groups)
    name_true_classes(report, {s.sop_instance_uid: s.sop_class_uid for s in image.sources})
    return finish(report, headers, options, __version__)


@unjudged()
def build_refused_sr(
    refused: Several[Quarantine], headers: SourceHeaders, name: str, bundle: Bundle, options: ResultOptions
) -> FinishedObject:
    """The report that `name` (a series or picture) was not processed, with the reasons."""
    algorithm = AlgorithmIdentification(
        name=long_string(bundle.id), version=long_string(bundle.version), manufacturer=MANUFACTURER
    )
    study = str(headers.first.StudyInstanceUID)
    text = refusal_text(refused, bundle, options)
    group = overall_group(
        uid_from(options.uid_root, "refused", study, name, bundle.hash),
        codes.DCM.NoAlgorithmsSucceededWithoutFindings,
        text,
        algorithm,
        identifier="Not processed",
    )
    report = _report(
        hd.sr.ComprehensiveSR,
        [stand_in(header) for header in headers.datasets],
        group,
        uid_from(options.uid_root, "series", "refused", study, bundle.id, name),
        headers,
        bundle,
        options,
    )
    name_true_classes(report, {str(h.SOPInstanceUID): str(h.SOPClassUID) for h in headers.datasets})
    return finish(report, headers, options, __version__)


def _report(
    kind: Any,
    evidence: list[Dataset],
    overall: Group,
    series: str,
    headers: SourceHeaders,
    bundle: Bundle,
    options: ResultOptions,
) -> Any:
    context = ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=uid_from(options.uid_root, "device", bundle.hash),
                name=MANUFACTURER_MODEL_NAME,
                manufacturer_name=MANUFACTURER,
                model_name=long_string(f"{bundle.id} {bundle.version}"),
                serial_number=device_serial_number(bundle),
            ),
        )
    )
    content = MeasurementReport(
        observation_context=context,
        procedure_reported=_procedures(headers.first),
        imaging_measurements=[overall],
    )
    return kind(
        evidence=evidence,
        content=content,
        series_instance_uid=series,
        series_number=options.series_number + 1,
        sop_instance_uid="2.25.0",
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER_MODEL_NAME,
        software_versions=software_versions(__version__, bundle),
        device_serial_number=device_serial_number(bundle),
        series_description=series_description(bundle.title, options),
        is_complete=True,
        is_final=False,
        is_verified=False,
        contributing_equipment=[
            *acquisition_equipment(headers.first),
            processing_equipment(__version__, bundle),
        ],
    )


def _add_groups(report: Any, groups: list[Dataset]) -> None:
    """Puts measurement groups into the finished report, which highdicom would copy twice and search through."""
    for container in report.ContentSequence:
        if container.ConceptNameCodeSequence[0].CodeValue == codes.DCM.ImagingMeasurements.value:
            container["ContentSequence"].value = Sequence([*container.ContentSequence, *groups])
            return
    raise AssertionError("a measurement report has a container of imaging measurements (TID 1500)")


def _procedures(header: Dataset) -> list[Code]:
    """The procedure as the source codes it, where it does so in ASCII, else 'Imaging procedure'."""
    found = []
    for item in header.get("ProcedureCodeSequence") or []:
        values = tuple(str(item.get(k) or "") for k in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))
        if all(values) and all(value.isascii() for value in values) and len(values[2]) <= 64:
            found.append(Code(*values))
    return found or [codes.SCT.ImagingProcedure]
