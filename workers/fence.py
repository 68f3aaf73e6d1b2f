"""The fence: only the present claim of a workflow may have an effect.

Each time the engine hands a workflow to a worker it writes a new `owner_xid`. A worker that was stopped, lost its
claim and wakes up still holds the old one: it is refused where its effect would become visible, inside the same
transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workers.database import is_sqlite
from workers.queue import status_table


class LostClaim(BaseException):
    """The workflow belongs to another claim by now, or was cancelled: stop, without any effect.

    Not an Exception: nothing on the way up may take it for a failure of the job.
    """


def claim_token(connection: Connection, workflow_id: str, executor_id: str) -> str:
    """The present claim's token. Raises LostClaim where it is not ours."""
    row = _row(connection, workflow_id, lock=False)
    if row is None or row.status != "PENDING" or row.executor_id != executor_id:
        raise LostClaim(f"{workflow_id} is not ours")
    return str(row.owner_xid)


def check(connection: Connection, workflow_id: str, token: str) -> None:
    """Raises LostClaim unless `token` is still the present claim; holds the row until the transaction ends."""
    row = _row(connection, workflow_id, lock=True)
    if row is None or row.status != "PENDING" or str(row.owner_xid) != token:
        raise LostClaim(f"{workflow_id} was taken over")


def _row(connection: Connection, workflow_id: str, *, lock: bool) -> sa.Row[tuple[object, ...]] | None:
    locking = " FOR UPDATE" if lock and not is_sqlite(connection) else ""
    return connection.execute(
        sa.text(
            f"SELECT owner_xid, executor_id, status FROM {status_table(connection)} "
            f"WHERE workflow_uuid = :id{locking}"
        ),
        {"id": workflow_id},
    ).one_or_none()
