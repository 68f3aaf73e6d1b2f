"""Codes of a bundle as highdicom takes them."""

from __future__ import annotations

from pydicom.sr.coding import Code

from medpipe.results.plain_text import ascii_only

UNCERTAINTY = Code("UNCERTAINTY", "99MEDPIPE", "Uncertainty")
"""Of a lesion's probability; DICOM has no concept for it. Its derivation says how: a standard deviation."""


def coded(code: tuple[str, str, str]) -> Code:
    """A bundle's (value, scheme, meaning) as a code; the meaning in ASCII, fit for every character set."""
    value, scheme, meaning = code
    return Code(value, scheme, ascii_only(meaning))
