"""What one of a bundle's findings is called in words for people: it follows the categories of the segments."""

from __future__ import annotations

from collections.abc import Iterable

from medpipe.bundle.description import Code

_NOUNS = {("49755003", "SCT"): "lesion", ("123037004", "SCT"): "structure"}
"""Morphologically Abnormal Structure and Anatomical Structure (PS3.16 CID 7150)."""


def noun_of(categories: Iterable[Code]) -> str:
    """`lesion` or `structure` where all categories are of that kind, else `finding`; the plural has an s."""
    nouns = {_NOUNS.get(category[:2], "finding") for category in categories}
    return nouns.pop() if len(nouns) == 1 else "finding"
