"""A PACS with moods: it refuses, hangs, drops after receipt or answers with odd statuses, as it is told.

It keeps what it is sent by SOP Instance UID, answers C-FIND, and reports storage commitment on its own association.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts, build_context, build_role
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

import medpipe.pacs  # noqa: F401  (has pynetdicom receive data sets into files, here too)
from havoc.studies import data_set_digest

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
MOODS = ("refuses", "hangs", "drops", "coerces", "duplicates", "busy")
"""No connection; no answer to C-STORE; stored, then aborted; stored, 0xB000; stored, 0x0111; not stored, 0xA700."""

_HANG_SECONDS = 15.0
_REPORT_TRIES = 3


@dataclass(frozen=True)
class Kept:
    """One object of the archive."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    modality: str
    digest: str


class Archive:
    """The PACS. `mood` is "good" or one of MOODS; `contradictions` are UIDs that came with two contents."""

    ae_title = "PACS"

    def __init__(self, port: int, listener_port: int) -> None:
        self.port, self._listener_port = port, listener_port
        self.kept: dict[str, Kept] = {}
        self.contradictions: list[str] = []
        self.moody_answers = 0
        self._mood = "good"
        self._lock = threading.Lock()
        self._server: Any = None
        self._over = threading.Event()

    @property
    def mood(self) -> str:
        return self._mood

    @mood.setter
    def mood(self, mood: str) -> None:
        self._mood = mood
        if mood == "refuses":
            self.stop()
        elif self._server is None:
            self.start()

    def start(self) -> None:
        ae = AE(ae_title=self.ae_title)
        ae.maximum_associations = 50
        ae.network_timeout = 60
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        ae.add_supported_context(StorageCommitmentPushModel)
        ae.add_supported_context(Verification)
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_N_ACTION, self._commit),
        ]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def close(self) -> None:
        self._over.set()
        self.stop()

    def of_study(self, study_uid: str) -> dict[str, Kept]:
        return {uid: one for uid, one in list(self.kept.items()) if one.study_uid == study_uid}

    # --- services ------------------------------------------------------------------------------------------------

    def _store(self, event: Any) -> int:
        mood = self._mood
        if mood != "good":
            self.moody_answers += 1
        if mood == "busy":
            return 0xA700
        if mood == "hangs":
            self._over.wait(_HANG_SECONDS)
            return 0xA700
        self._keep(event)
        if mood == "drops":
            event.assoc.abort()
        return {"coerces": 0xB000, "duplicates": 0x0111}.get(mood, 0x0000)

    def _keep(self, event: Any) -> None:
        dataset = dcmread(event.dataset_path)
        kept = Kept(
            str(dataset.StudyInstanceUID),
            str(dataset.SeriesInstanceUID),
            str(dataset.SOPClassUID),
            str(dataset.Modality),
            data_set_digest(event.dataset_path),
        )
        uid = str(dataset.SOPInstanceUID)
        with self._lock:
            if self.kept.setdefault(uid, kept) != kept:
                self.contradictions.append(uid)

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        study, level = str(query.StudyInstanceUID), str(query.QueryRetrieveLevel)
        found = self.of_study(study)
        if level == "SERIES":
            series = {(one.series_uid, one.modality) for one in found.values()}
            answers = [{"SeriesInstanceUID": uid, "Modality": modality} for uid, modality in sorted(series)]
        else:
            answers = [
                {
                    "SeriesInstanceUID": one.series_uid,
                    "SOPInstanceUID": uid,
                    "SOPClassUID": one.sop_class_uid,
                }
                for uid, one in found.items()
                if not query.get("SeriesInstanceUID") or one.series_uid == query.SeriesInstanceUID
            ]
        for values in answers:
            answer = Dataset()
            answer.QueryRetrieveLevel, answer.StudyInstanceUID = level, study
            for keyword, value in values.items():
                setattr(answer, keyword, value)
            yield 0xFF00, answer

    def _commit(self, event: Any) -> tuple[int, None]:
        if self._mood == "busy":
            return 0x0213, None
        information = event.action_information
        references = [
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in information.ReferencedSOPSequence
        ]
        arguments = (str(information.TransactionUID), references)
        threading.Thread(target=self._report, args=arguments, daemon=True).start()
        return 0x0000, None

    def _report(self, transaction: str, references: list[tuple[str, str]]) -> None:
        """The report, on an association that the archive opens; given up when the listener stays away."""
        report = Dataset()
        report.TransactionUID = transaction
        kept = [pair for pair in references if pair[1] in self.kept]
        report.ReferencedSOPSequence = [_reference(*pair) for pair in kept]
        missing = [pair for pair in references if pair[1] not in self.kept]
        if missing:
            report.FailedSOPSequence = [_reference(*pair, failure=0x0112) for pair in missing]
        ae = AE(ae_title=self.ae_title)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
        for _ in range(_REPORT_TRIES):
            assoc = ae.associate(
                "127.0.0.1",
                self._listener_port,
                contexts=[build_context(StorageCommitmentPushModel)],
                ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
                ae_title="MEDPIPE",
            )
            if assoc.is_established:
                status, _ = assoc.send_n_event_report(
                    report,
                    2 if missing else 1,
                    StorageCommitmentPushModel,
                    StorageCommitmentPushModelInstance,
                )
                assoc.release()
                if status.get("Status") == 0x0000:
                    return
            if self._over.wait(1.0):
                return


def _reference(sop_class: str, instance: str, failure: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    if failure is not None:
        item.FailureReason = failure
    return item
