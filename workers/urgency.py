"""Which of the studies that are complete settle first: those that a STAT rule will want, as one header a series tells.

That is a forecast, and it decides nothing but the order: what becomes of a study is said by all of its headers when it
settles. When it settles is the same for all, since only silence or the archive's count say that a study is complete,
and an urgent study that was taken for complete too early would be segmented in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from medpipe.config import Config
from medpipe.dicom import GuardedReader
from medpipe.routing import facts_of, route
from workers.registry import Registry, StudyRow
from workers.spool import Spool
from workers.tables import Retention, instance

_AT_ONCE = 200
"""Studies whose headers are read in one go: what is more is looked at in the next round."""


class Urgency:
    """Remembers, of each study that waits, whether it is urgent: looked at once for each change of its content."""

    def __init__(self, config: Config, spool: Spool, registry: Registry, reader: GuardedReader) -> None:
        self._rules, self._spool, self._registry, self._reader = config.rules, spool, registry, reader
        self._matters = {rule.priority for rule in config.rules} == {"stat", "routine"}
        self._known: dict[str, tuple[int, bool]] = {}

    def ordered(self, studies: Sequence[StudyRow]) -> list[StudyRow]:
        """The urgent ones before the others, each kind in its order."""
        if not self._matters or len(studies) < 2:
            return list(studies)
        waiting = {study.study_uid for study in studies}
        self._known = {uid: known for uid, known in self._known.items() if uid in waiting}
        new = [one for one in studies if self._known.get(one.study_uid, (0, False))[0] != one.generation]
        if new:
            self._look(new[:_AT_ONCE])
        return sorted(studies, key=lambda one: not self._known.get(one.study_uid, (0, False))[1])

    def _look(self, studies: Sequence[StudyRow]) -> None:
        firsts = self._firsts([study.study_uid for study in studies])
        calling = {path: ae for path, (ae, _) in firsts.items()}
        scan = self._reader.scan(list(firsts))
        urgent = set()
        for header in scan.instances:
            [facts] = facts_of([header], calling)
            count = firsts[header.path][1]
            facts = replace(facts, instances=count, frames=count * facts.frames)
            if any(rule.priority == "stat" for rule in route(self._rules, facts)):
                urgent.add(header.study_uid)
        self._known |= {one.study_uid: (one.generation, one.study_uid in urgent) for one in studies}

    def _firsts(self, study_uids: Sequence[str]) -> dict[Path, tuple[str, int]]:
        """The file of the first instance of each series (rules ask its header), who sent it, how many there are."""
        number = sa.func.row_number().over(
            partition_by=(instance.c.study_uid, instance.c.series_uid), order_by=instance.c.sop_instance_uid
        )
        count = sa.func.count().over(partition_by=(instance.c.study_uid, instance.c.series_uid))
        numbered = (
            sa.select(
                instance.c.file, instance.c.calling_ae, number.label("number"), count.label("instances")
            )
            .where(
                instance.c.study_uid.in_(study_uids),
                instance.c.aside.is_(False),
                instance.c.retention == Retention.KEPT.value,
            )
            .subquery()
        )
        with self._registry.read() as connection:
            rows = connection.execute(sa.select(numbered).where(numbered.c.number == 1)).all()
        return {self._spool.path_named(row.file): (row.calling_ae, row.instances) for row in rows}
