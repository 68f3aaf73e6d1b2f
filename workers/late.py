"""A late instance of a study whose files are gone is a part, and a part is never segmented as if it were the whole.

Its result would take the place of the one that was made of all instances. So what came is kept apart, with the reason
STUDY_REMOVED, until the rest comes too: sent again, or retrieved by `medpipe reprocess`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from medpipe.errors import ReasonCode
from workers.registry import JobPlan, Registry
from workers.tables import Retention, instance, job

PART = (
    f"{ReasonCode.STUDY_REMOVED}: files of this study were removed before this came, and a part is not processed; "
    "`medpipe reprocess` takes the whole study from the PACS"
)


def parts_of(registry: Registry, study_uid: str, plans: Sequence[JobPlan]) -> list[JobPlan]:
    """Those plans that lack instances which were here before: of the same series, or used by that bundle."""
    of_study = sa.and_(instance.c.study_uid == study_uid, instance.c.aside.is_(False))
    query = sa.select(instance.c.file, instance.c.series_uid, instance.c.retention).where(of_study)
    with registry.read() as connection:
        rows = connection.execute(query).all()
        earlier = connection.execute(
            sa.select(job.c.bundle, job.c.instances).where(job.c.study_uid == study_uid)
        ).all()
    gone = {row.file: row.series_uid for row in rows if row.retention != Retention.KEPT.value}
    series = {row.file: row.series_uid for row in rows}
    used: dict[str, set[str]] = {}
    for row in earlier:
        used.setdefault(row.bundle, set()).update(row.instances)
    return [plan for plan in plans if plan.bundle and _lacks(plan, gone, series, used.get(plan.bundle, ()))]


def _lacks(plan: JobPlan, gone: dict[str, str], series: dict[str, str], used: Iterable[str]) -> bool:
    wanted = {series.get(file) for file in plan.instances}
    return not gone.keys().isdisjoint(used) or not wanted.isdisjoint(gone.values())
