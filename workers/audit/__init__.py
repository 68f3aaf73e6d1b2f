"""The audit trail: who did what to which study, when and from where; kept for good, told as PS3.15 A.5 has it.

Each record is a row of the table `audit`, chained to the one before (trail). It holds study UIDs, AE titles, names of
users and addresses, and nothing else of a patient. Processes that have no database at hand leave notices (notices).
A record becomes a DICOM audit message (events, message) for an export or for an audit record repository (syslog,
repository).
"""

from workers.audit.notices import Notices, active, take_in
from workers.audit.trail import Record, Verdict, examine, is_whole, note, records

__all__ = [
    "Notices",
    "Record",
    "Verdict",
    "active",
    "examine",
    "is_whole",
    "note",
    "records",
    "take_in",
]
