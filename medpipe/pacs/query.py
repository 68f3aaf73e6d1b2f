"""C-FIND as SCU in the study root model (PS3.4 annex C): what an archive holds of a study, in UIDs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from medpipe.config import Peer
from medpipe.errors import PeerBusy, PeerRefused, UsageError
from medpipe.identity import is_uid
from medpipe.pacs.network import association, peer_text, status_of
from medpipe.pacs.syntaxes import MESSAGES

NOT_IMAGES = frozenset(
    {"SEG", "SR", "KO", "PR", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "DOC", "AU", "REG", "FID", "PLAN"}
)
"""Modalities of series that hold no source images."""

RESULT_MODALITIES = frozenset({"SEG", "SR"})


@dataclass(frozen=True)
class FoundStudy:
    study_uid: str
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class FoundSeries:
    """`instances` is the archive's own count; None where it does not say."""

    study_uid: str
    series_uid: str
    modality: str
    instances: int | None


@dataclass(frozen=True)
class FoundInstance:
    """`sop_class_uid` is empty where the archive does not say."""

    study_uid: str
    series_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    modality: str


def find_studies(
    peer: Peer, calling_ae: str, *, accession: str = "", study_uid: str = ""
) -> list[FoundStudy]:
    """Studies with this accession number or UID. Raises UsageError without either, and what `association` raises."""
    if (not accession and not study_uid) or any(character in accession + study_uid for character in "*?\\"):
        raise UsageError("a study is asked for by its UID or accession number, without wildcards")
    keys = {"StudyInstanceUID": study_uid, "AccessionNumber": accession, "ModalitiesInStudy": ""}
    with _archive(peer, calling_ae) as assoc:
        found = [
            FoundStudy(str(answer.StudyInstanceUID), _texts(answer, "ModalitiesInStudy"))
            for answer in _find(peer, assoc, "STUDY", keys)
            if is_uid(_text(answer, "StudyInstanceUID"))
        ]
    return list({study.study_uid: study for study in found}.values())


def find_series(peer: Peer, calling_ae: str, study_uid: str) -> list[FoundSeries]:
    """The series of a study."""
    with _archive(peer, calling_ae) as assoc:
        return _series(peer, assoc, study_uid)


def find_instances(
    peer: Peer,
    calling_ae: str,
    study_uid: str,
    series_uid: str | None = None,
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> list[FoundInstance]:
    """The instances of a study or of one series; `only` and `without` choose series by modality."""
    with _archive(peer, calling_ae) as assoc:
        chosen = [
            series
            for series in _series(peer, assoc, study_uid)
            if series_uid in (None, series.series_uid)
            and (only is None or series.modality in only)
            and series.modality not in without
        ]
        return [instance for series in chosen for instance in _instances(peer, assoc, series)]


def count_instances(peer: Peer, calling_ae: str, study_uid: str) -> int | None:
    """Number of image instances (no SEG, SR, ...) that the archive holds of a study; None where it holds none of it.

    The archive's own counts are taken where it gives them for every series, else its instances are listed.
    """
    with _archive(peer, calling_ae) as assoc:
        chosen = [series for series in _series(peer, assoc, study_uid) if series.modality not in NOT_IMAGES]
        counts = [
            series.instances if series.instances is not None else len(_instances(peer, assoc, series))
            for series in chosen
        ]
    return sum(counts) if counts else None


def find_results(peer: Peer, calling_ae: str, study_uid: str) -> frozenset[str]:
    """SOP Instance UIDs of the SEG and SR objects that the archive holds of a study, whoever made them."""
    found = find_instances(peer, calling_ae, study_uid, only=RESULT_MODALITIES)
    return frozenset(instance.sop_instance_uid for instance in found)


def missing_instances(
    peer: Peer, calling_ae: str, study_uid: str, sop_instance_uids: Collection[str]
) -> frozenset[str]:
    """Those of the given instances that the archive does not list: the confirmation where no commitment is offered."""
    held = {instance.sop_instance_uid for instance in find_instances(peer, calling_ae, study_uid)}
    return frozenset(sop_instance_uids) - held


def _archive(peer: Peer, calling_ae: str) -> AbstractContextManager[Association]:
    return association(
        peer, calling_ae, [build_context(StudyRootQueryRetrieveInformationModelFind, list(MESSAGES))]
    )


def _series(peer: Peer, assoc: Association, study_uid: str) -> list[FoundSeries]:
    keys = {
        "StudyInstanceUID": _checked(study_uid),
        "SeriesInstanceUID": "",
        "Modality": "",
        "NumberOfSeriesRelatedInstances": "",
    }
    found = {}
    for answer in _find(peer, assoc, "SERIES", keys):
        uid = _text(answer, "SeriesInstanceUID")
        if is_uid(uid) and _text(answer, "StudyInstanceUID") in ("", study_uid):
            count = _text(answer, "NumberOfSeriesRelatedInstances")
            known = int(count) if count.isdecimal() else None
            found[uid] = FoundSeries(study_uid, uid, _text(answer, "Modality"), known)
    return list(found.values())


def _instances(peer: Peer, assoc: Association, series: FoundSeries) -> list[FoundInstance]:
    keys = {
        "StudyInstanceUID": series.study_uid,
        "SeriesInstanceUID": series.series_uid,
        "SOPInstanceUID": "",
        "SOPClassUID": "",
    }
    found = {}
    for answer in _find(peer, assoc, "IMAGE", keys):
        uid = _text(answer, "SOPInstanceUID")
        if is_uid(uid) and _text(answer, "SeriesInstanceUID") in ("", series.series_uid):
            sop_class = _text(answer, "SOPClassUID")
            found[uid] = FoundInstance(
                series.study_uid,
                series.series_uid,
                uid,
                sop_class if is_uid(sop_class) else "",
                series.modality,
            )
    return list(found.values())


def _checked(uid: str) -> str:
    if not is_uid(uid):  # a wildcard here would ask for every study of the archive
        raise UsageError(f"{uid[:64]!r} is not a UID")
    return uid


def _find(peer: Peer, assoc: Association, level: str, keys: dict[str, str]) -> Iterator[Dataset]:
    question = Dataset()
    question.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(question, keyword, value)
    # Listed at once: the caller may ask the next question on the same association.
    answers: list[Dataset] = []
    for answer, identifier in assoc.send_c_find(question, StudyRootQueryRetrieveInformationModelFind):
        status = status_of(peer, answer, f"asking for a study ({level.lower()} level)")
        if status in (0xFF00, 0xFF01):
            if identifier is None:  # left out, it would make a study smaller than it is
                raise PeerRefused(f"{peer_text(peer)} answered C-FIND with something that cannot be read")
            answers.append(identifier)
        elif status & 0xFF00 in (0xA700, 0xFE00):
            raise PeerBusy(f"{peer_text(peer)} cannot answer C-FIND now (status 0x{status:04X})")
        elif status != 0:
            raise PeerRefused(f"{peer_text(peer)} refused C-FIND at {level} level (status 0x{status:04X})")
    yield from answers


def _text(answer: Dataset, keyword: str) -> str:
    values = _texts(answer, keyword)
    return values[0] if len(values) == 1 else ""


def _texts(answer: Dataset, keyword: str) -> tuple[str, ...]:
    try:
        value = answer.get(keyword)
    except (ValueError, TypeError):  # what the peer sent is no value of that kind: as good as no answer
        return ()
    values = value if isinstance(value, MultiValue) else [value]
    return tuple(str(item).strip() for item in values if item is not None and str(item).strip())
