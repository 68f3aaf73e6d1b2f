"""What a site may choose about the objects that leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medpipe.config import Results


@dataclass(frozen=True)
class ResultOptions:
    """The `[results]` section of the configuration, with the site's UID root."""

    uid_root: str = "2.25"
    seg: bool = True
    sr: bool = True
    no_lesion: Literal["sr", "empty-seg"] = "sr"
    refused_sr: bool = False
    not_for_diagnostic_use: bool = True
    institution_department: str = ""
    series_number: int = 9100
    omit_empty_frames: bool = True

    @classmethod
    def from_config(cls, results: Results, uid_root: str) -> ResultOptions:
        """The options of a checked configuration."""
        return cls(uid_root=uid_root, **results.model_dump())
