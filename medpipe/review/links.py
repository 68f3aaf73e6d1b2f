"""Addresses that open a study in the viewer. They hold UIDs and nothing else."""

from __future__ import annotations

from urllib.parse import urlencode


def opened(study_uid: str) -> str:
    """The whole study, without a segmentation."""
    return "/viewer?" + urlencode({"StudyInstanceUIDs": study_uid})


def with_segmentation(study_uid: str, series_uid: str, segmentation_series_uid: str | None) -> str:
    """One series with the segmentation drawn over it at once, or the series alone where there is none (yet).

    The named series are also what decides which of several segmentations is shown.
    """
    query = {"StudyInstanceUIDs": study_uid, "SeriesInstanceUIDs": series_uid}
    if segmentation_series_uid is not None:
        query["SeriesInstanceUIDs"] += f",{segmentation_series_uid}"
        query["hangingProtocolId"] = "@ohif/seg"
    return "/viewer?" + urlencode(query, safe=",@/")
