"""docs/troubleshooting.md explains every reason code and every error's code, and no others."""

import re
from pathlib import Path

from medpipe import errors
from medpipe.errors import MedpipeError, ReasonCode
from medpipe.refusals import ERRORS, REFUSALS, advice_for, codes_in, meaning_of

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    text = PAGE.read_text().split(section, 1)[1].split("\n## ", 1)[0]
    table = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def codes(section: str) -> set[str]:
    return {code for row in rows(section) for code in re.findall(r"[A-Z][A-Z_]+", row[0])}


def test_every_reason_code_is_explained() -> None:
    assert codes("## Reason codes") == {code.value for code in ReasonCode}


def test_every_error_code_is_explained() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MedpipeError)
    ]
    own = {kind.code for kind in kinds} - {MedpipeError.code, errors.Refused.code}
    assert codes("## Errors of commands") == own | {"DATABASE", "INTERNAL"}


def test_the_page_says_what_the_worklist_says() -> None:
    told = {row[0]: (row[1], row[2]) for row in rows("## Reason codes")}
    assert told == {code.value: (one.meaning, one.advice) for code, one in REFUSALS.items()}
    lines = {code: row[2] for row in rows("## Errors of commands") for code in row[0].split(", ")}
    assert {code: re.sub(r" \(\[.*\)", "", lines[code]) for code in ERRORS} == ERRORS


def test_codes_are_found_wherever_a_reason_has_them() -> None:
    assert codes_in("GEOM_GAP: 1 slice is missing; COLOUR: a colour picture; GEOM_GAP: again") == [
        "GEOM_GAP",
        "COLOUR",
    ]
    assert codes_in("files removed by root; was quarantined: MOSAIC: tiles") == ["MOSAIC"]
    assert codes_in("PACS: it refused") == [] and codes_in(None) == []
    assert meaning_of("GEOM_GAP") == "a slice is missing" and meaning_of("STORAGE") == ""
    assert advice_for("DISK_FULL").startswith("free the disk") and advice_for("PACS") == ""
