"""What `status` prints for people: a line a job with its whole Study UID, below it what came of it, or why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medpipe.refusals import advice_for, codes_in

Plain = Mapping[str, Any]

_SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def listed(rows: Sequence[Plain], *, detailed: bool) -> Iterator[str]:
    """The lines for jobs as `workers.status.status_rows` gives them; `detailed` tells job, results and advice too.

    No line is cut or wrapped: a UID is there to be copied, and `grep` sees a whole line.
    """
    states = [row["state"] + (f" ({row['step']})" if row["step"] else "") for row in rows]
    bundles = [" ".join(filter(None, (row["bundle"], row["bundle_version"]))) or "-" for row in rows]
    width, wide = max(map(len, states), default=0), max(map(len, bundles), default=0)
    for row, state, bundle in zip(rows, states, bundles, strict=True):
        yield f"{_minute(row['updated_at'])}  {state:{width}}  {bundle:{wide}}  {row['study'] or 'no study'}"
        yield from (f"    {line}" for line in _below(row, detailed))


def summed(counts: Mapping[str, int], shown: int) -> str:
    """The last line: how many jobs there are in each state, and how many of them were listed."""
    total = sum(counts.values())
    each = ", ".join(f"{count} {state}" for state, count in sorted(counts.items(), key=lambda one: -one[1]))
    newest = f"; the newest {shown} are listed (--limit)" if shown < total else ""
    return f"{total} job{'s' * (total != 1)}{': ' * bool(each)}{each}{newest}. Times are UTC."


def _below(row: Plain, detailed: bool) -> Iterator[str]:
    found: dict[str, int] = {}
    for image in row["images"]:
        for class_id, count in image["lesions"].items():
            found[class_id] = found.get(class_id, 0) + count
    if found and row["results"]:
        yield "found " + ", ".join(f"{count} {class_id}" for class_id, count in found.items())
    if row["results"] and not detailed:
        states = [result["state"] for result in row["results"]]
        each = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        yield f"results: {each}"
    if row["reason"]:
        yield row["reason"]
    if detailed:
        yield from _details(row)


def _details(row: Plain) -> Iterator[str]:
    for code in codes_in(row["reason"]):
        if advice := advice_for(code):
            yield f"{code}, what to do: {advice}"
    if len(row["images"]) > 1:
        for image in row["images"]:
            yield f"image {image['name']}: {image['outcome']}" + (
                f": {image['reason']}" if image["reason"] else ""
            )
    for result in row["results"]:
        where = f" at {result['destination']}" if result["destination"] else ""
        kind = "SEG" if result["sop_class"] == _SEG else "SR"
        yield f"{kind} {result['sop_instance_uid']}: {result['state']}{where}"
    if row["job"]:
        rule = f", rule {row['rule']!r}" if row["rule"] else ""
        yield f"job {row['job']}{rule}, {row['priority']}, received {_minute(row['received_at'])}"


def _minute(time: str) -> str:
    """2026-11-26T17:02:41.123+00:00 -> 2026-11-26 17:02."""
    return time[:16].replace("T", " ")
