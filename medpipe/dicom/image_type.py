"""What kind of picture an instance says it is: as much of ImageType as is the standard's, or means the same everywhere.

PS3.3 section C.7.6.1.1.2 defines values 1 and 2 (of original pixels or derived, of the patient or secondary); each
modality's module value 3. What follows is the maker's: filters, corrections, numbers, which may vary within a sound
volume. Only words that say what the pixels measure count there.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset

_DEFINED = 3
"""Values at the same place say the same thing up to here."""

_MEASURED = frozenset(
    (
        # the part of a complex signal (PS3.3 section C.8.13.3.1.1; its first letter in older objects)
        *("M", "MAGNITUDE", "P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"),
        # water and fat apart
        *("W", "WATER", "F", "FAT", "IP", "IN_PHASE", "OP", "OUT_PHASE", "OPP_PHASE"),
        # maps and sums over several pictures (value 4 of enhanced objects, section C.8.16.1.4)
        *("ADC", "ADC MAP", "TRACE", "TRACEW", "FA", "DIFFUSION", "B1", "B1 MAP", "VELOCITY", "VELOCITY MAP"),
        *("T1 MAP", "T2 MAP", "T2_STAR MAP", "R2 MAP", "R2_STAR MAP", "QUANTITY"),
        *("RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TMAX"),
        *("MAXIMUM", "MINIMUM", "MEAN", "MEDIAN", "STD_DEVIATION", "SUBTRACTION", "SUB", "DIVISION"),
        *("MIP", "MINIP", "MIN IP", "MPR"),
        # X-rays of several energies (section C.8.2.1.1.1)
        *("VMI", "MAT_SPECIFIC", "MAT_REMOVED", "MAT_FRACTIONAL", "MAT_VALUE_BASED", "MAT_MODIFIED"),
        *("EFF_ATOMIC_NUM", "ELECTRON_DENSITY"),
    )
)


def image_type_of(header: Dataset) -> tuple[str, ...]:
    """ImageType in capitals, one value or many."""
    value = header.get("ImageType") or ()
    return tuple(str(item).strip().upper() for item in ([value] if isinstance(value, str) else value))


def are_of_one_kind(headers: Sequence[Dataset]) -> bool:
    """Whether no two of them say that they are of different kinds; who does not say, contradicts nobody."""
    types = [image_type_of(header) for header in headers]
    for place in range(_DEFINED):
        said = {values[place] for values in types if len(values) > place}
        if len({value for value in said if value and not value.isdigit()}) > 1:
            return False
    return len({_MEASURED.intersection(values[_DEFINED:]) for values in types if len(values) > _DEFINED}) <= 1
