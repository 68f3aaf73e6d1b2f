"""docs/conformance.md is what the code negotiates (`make docs` writes it)."""

from pathlib import Path

from medpipe.cli.conformance import conformance
from medpipe.pacs.store import judge

PAGE = Path(__file__).parents[3] / "docs" / "conformance.md"


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == conformance()


def test_every_uid_has_a_name() -> None:
    for line in conformance().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) != 2 or cells[0] != cells[1] or cells[0] in ("", "---"), (
            f"{cells}: a UID without a name"
        )


def test_a_status_that_no_row_names_is_a_final_failure() -> None:
    assert judge(0x0123)[0] == "failed"
