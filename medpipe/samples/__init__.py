"""Synthetic studies with known truth, drawn by our own code."""

from __future__ import annotations

from typing import Any

KINDS = ("fundus", "fundus-healthy", "ultrasound", "ct", "mr")
"""What `write_study` can draw."""

_PLACES = {
    "SampleStudy": "medpipe.samples.studies",
    "read_truth": "medpipe.samples.studies",
    "write_study": "medpipe.samples.studies",
    "wrap_photo": "medpipe.samples.photo",
}
__all__ = ["KINDS", "SampleStudy", "read_truth", "wrap_photo", "write_study"]


def __getattr__(name: str) -> Any:
    """Loads what is asked for only then: the command line's help stays fast."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
