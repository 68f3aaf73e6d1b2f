"""What a stranger may put into a UID must not stop the instances beside it, on either database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workers.registry import Registry
from workers.spool import Sidecar, Spool


def sidecar(number: int, study_uid: str, sop_instance_uid: str | None = None) -> Sidecar:
    return Sidecar(
        file=f"{number:032d}-{number:016d}",
        sop_instance_uid=sop_instance_uid or f"1.2.3.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
        study_uid=study_uid,
        series_uid="1.2.9",
        transfer_syntax="1.2.840.10008.1.2.1",
        digest=f"{number:064d}",
        size=1,
        calling_ae="MODALITY",
        called_ae="MEDPIPE",
        received_at=float(number),
    )


@pytest.mark.parametrize("bad", ["1." + "2" * 70, "1.2\x003", "1.2.é"])
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_value_that_is_no_uid_does_not_stop_its_neighbours(
    bad: str, database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    held: Any = request.getfixturevalue("postgres") if database == "postgres" else None
    registry = Registry(held.url if held is not None else f"sqlite:///{tmp_path / 'm.sqlite'}")
    registry.migrate()
    try:
        assert registry.register([sidecar(1, "1.2.77"), sidecar(2, bad), sidecar(3, "1.2.78", bad)]) == 3
        assert sorted(study.study_uid for study in registry.unsettled()) == ["1.2.77", "1.2.78"]
        assert [row.file for row in registry.odd_instances()] == [sidecar(2, bad).file]
    finally:
        registry.close()


def test_a_damaged_sidecar_does_not_stop_the_arrivals_beside_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (tmp_path / "spool" / "arrivals" / "damaged.json").write_text("{}")
    assert spool.arrivals() == []
