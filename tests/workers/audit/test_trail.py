"""The trail: whatever is changed, put in or taken out shows; an earlier export shows what was cut off or made anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from medpipe.errors import IntegrityError, UsageError
from workers.audit import examine, is_whole, records
from workers.audit.export import compare, write_export
from workers.audit.message import Source
from workers.audit.trail import link
from workers.registry import Registry
from workers.tables import audit

US = Source("MEDPIPE")


@pytest.fixture
def five(registry: Registry, record: Callable[..., None]) -> Registry:
    """A trail of five records."""
    for number in range(1, 6):
        record("anna", "study opened", f"1.2.{number}", at=1000.0 + number, address="10.0.0.1")
    return registry


def verdict(registry: Registry) -> str | None:
    with registry.read() as connection:
        return examine(connection).fault


def change(registry: Registry, statement: Any) -> None:
    with registry.begin() as connection:
        connection.execute(statement)


def export(registry: Registry, path: Path, form: str = "jsonl", **span: float) -> int:
    with registry.read() as connection, path.open("w", encoding="utf-8") as file:
        return write_export(file, records(connection, **span), US, form)  # type: ignore[arg-type]


def compared(registry: Registry, path: Path) -> int:
    with registry.read() as connection:
        return compare(connection, path)


def test_a_whole_trail(five: Registry) -> None:
    with five.read() as connection:
        said = examine(connection)
        assert is_whole(connection)
    assert (said.records, said.fault, len(said.chain)) == (5, None, 64)


@pytest.mark.parametrize(
    "values",
    [
        {"who": "bert"},
        {"at": 999.0},
        {"what": "signed in"},
        {"study_uid": "9.9"},
        {"detail": {}},
        {"chain": "0" * 64},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_changed_record_shows(five: Registry, values: dict[str, Any]) -> None:
    change(five, sa.update(audit).where(audit.c.number == 3).values(**values))
    assert verdict(five) == "record 3 was changed, or put there by somebody else"


def test_a_record_that_was_written_anew_with_a_digest_that_fits_breaks_the_next_one(five: Registry) -> None:
    with five.read() as connection:
        old = list(records(connection))
    plain = old[2].plain() | {"who": "bert"}
    fitting = link(old[1].chain, plain)
    change(five, sa.update(audit).where(audit.c.number == 3).values(who="bert", chain=fitting))
    assert verdict(five) == "record 4 was changed, or put there by somebody else"


def test_a_record_that_was_taken_out_shows(five: Registry) -> None:
    change(five, sa.delete(audit).where(audit.c.number == 2))
    assert verdict(five) == "record 2 is missing; the next one there is 3"


def test_closing_the_gap_shows_too(five: Registry) -> None:
    change(five, sa.delete(audit).where(audit.c.number == 2))
    for number in (3, 4, 5):
        change(five, sa.update(audit).where(audit.c.number == number).values(number=number - 1))
    assert verdict(five) == "record 2 was changed, or put there by somebody else"


def test_what_was_cut_off_at_the_end_shows_beside_an_export(five: Registry, tmp_path: Path) -> None:
    path = tmp_path / "trail.jsonl"
    assert export(five, path) == 5
    assert compared(five, path) == 5
    change(five, sa.delete(audit).where(audit.c.number == 5))
    assert verdict(five) is None  # which is why an export is worth keeping
    with pytest.raises(IntegrityError, match=r"record 5 of .* is no longer in the trail"):
        compared(five, path)


def test_a_trail_that_was_written_anew_shows_beside_an_export(five: Registry, tmp_path: Path) -> None:
    path, before = tmp_path / "trail.jsonl", ""
    export(five, path)
    with five.read() as connection:
        old = list(records(connection))
    for one in old:
        plain = one.plain() | {"who": "nobody"}
        before = link(before, plain)
        change(five, sa.update(audit).where(audit.c.number == one.number).values(who="nobody", chain=before))
    assert verdict(five) is None
    with pytest.raises(IntegrityError, match=r"record 1 .* written anew"):
        compared(five, path)


def test_an_export_that_was_changed_is_not_believed(five: Registry, tmp_path: Path) -> None:
    path = tmp_path / "trail.jsonl"
    export(five, path)
    path.write_text(path.read_text().replace('"1.2.4"', '"1.2.9"'))
    with pytest.raises(IntegrityError, match="record 4 was changed in this file"):
        compared(five, path)
    path.write_text("<AuditMessages/>\n")
    with pytest.raises(UsageError, match="jsonl"):
        compared(five, path)


def test_a_span_of_time(five: Registry, tmp_path: Path) -> None:
    path = tmp_path / "trail.jsonl"
    assert export(five, path, since=1002.0, until=1004.0) == 2
    assert [json.loads(line)["study_uid"] for line in path.read_text().splitlines()] == ["1.2.2", "1.2.3"]
    assert compared(five, path) == 2


def test_more_records_than_are_read_at_once(registry: Registry, record: Callable[..., None]) -> None:
    with registry.begin() as connection:
        before = ""
        for number in range(1, 2502):
            row = {"number": number, "at": 1.0, "who": "a", "what": "b", "study_uid": None, "detail": {}}
            before = link(before, row)
            connection.execute(sa.insert(audit).values(**row, chain=before))
    with registry.read() as connection:
        assert examine(connection).records == 2501
        assert [one.number for one in records(connection, after=1999)] == list(range(2000, 2502))
