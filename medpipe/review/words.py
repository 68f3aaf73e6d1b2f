"""States and refusals in plain words, for people who read pictures and not logs."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from workers.tables import JobState

STATES: dict[JobState, str] = {
    JobState.SETTLING: "Images are arriving",
    JobState.QUEUED: "Waiting for its turn",
    JobState.RUNNING: "Being analysed",
    JobState.SENDING: "Result is on its way to the PACS",
    JobState.SENT: "Result sent, the PACS has not confirmed it yet",
    JobState.CONFIRMED: "Result is in the PACS",
    JobState.IGNORED: "Not analysed: no rule asks for it",
    JobState.QUARANTINED: "Refused",
    JobState.FAILED: "Failed: somebody must look",
    JobState.CANCELLED: "Cancelled",
}

GROUPS: dict[str, tuple[JobState, ...]] = {
    "under way": (JobState.QUEUED, JobState.RUNNING, JobState.SENDING),
    "done": (JobState.SENT, JobState.CONFIRMED),
    "refused": (JobState.QUARANTINED,),
    "failed": (JobState.FAILED,),
    "not analysed": (JobState.IGNORED, JobState.CANCELLED),
}
"""What the worklist can be narrowed to."""

COUNTED = ("under way", "failed")
"""Groups whose number is shown: what a person waits for or has to look at. They stay few, so counting is cheap."""

ENDED = {JobState.SENT, JobState.CONFIRMED, JobState.QUARANTINED, JobState.FAILED, JobState.CANCELLED}
"""States whose time is worth knowing: when the result came, or when it was clear that none would."""

_CODE = re.compile(r"([A-Z][A-Z0-9_]{2,}): ")


def commands(text: str) -> Markup:
    """Text with `` `commands and settings` `` as HTML's code; everything is escaped, and it begins large."""
    parts = (text[:1].upper() + text[1:]).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


def plain_reason(reason: str | None) -> list[tuple[str, str]]:
    """`CODE: sentence; CODE: sentence` -> (code, Sentence.) of each; the code is empty where there is none."""
    found = []
    for part in re.split(r"; (?=[A-Z][A-Z0-9_]{2,}: )", reason or ""):
        match = _CODE.match(part)
        sentence = part[match.end() :] if match else part
        if sentence:
            ended = sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
            found.append((match[1] if match else "", ended[0].upper() + ended[1:]))
    return found
