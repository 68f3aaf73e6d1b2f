"""What a cached case was made from: when a file or a label changes, it is made anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Stamp = tuple[object, ...]
"""Facts that are written the same (`repr`) as long as nothing has changed."""


def stamp_of(files: Sequence[Path]) -> Stamp:
    """Sizes and times of files; what is missing is left out, and whoever needs it complains."""
    facts = [path.stat() for path in files if path.is_file()]
    return tuple((fact.st_size, fact.st_mtime_ns) for fact in facts)
