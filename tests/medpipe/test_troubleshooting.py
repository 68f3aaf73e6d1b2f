"""docs/troubleshooting.md explains every reason code and every error's code, and no others."""

import re
from pathlib import Path

from medpipe import errors
from medpipe.errors import MedpipeError, ReasonCode

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


def codes(section: str) -> set[str]:
    text = PAGE.read_text().split(section, 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    return {code for row in rows for code in re.findall(r"[A-Z][A-Z_]+", row)}


def test_every_reason_code_is_explained() -> None:
    assert codes("## Reason codes") == {code.value for code in ReasonCode}


def test_every_error_code_is_explained() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MedpipeError)
    ]
    own = {kind.code for kind in kinds} - {MedpipeError.code, errors.Refused.code}
    assert codes("## Errors of commands") == own | {"DATABASE", "INTERNAL"}
