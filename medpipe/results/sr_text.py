"""What the report says in words: read by people in viewers that show nothing of a structured report but its text."""

from __future__ import annotations

from collections.abc import Sequence

from medpipe.bundle import Bundle
from medpipe.results.options import ResultOptions
from medpipe.results.plain_text import ascii_only
from medpipe.types import Prediction, Quarantine

LISTED_PER_CLASS = 50
"""So many lesions of a class are listed one by one, the largest first; the class's group counts them all."""


def summary_text(
    prediction: Prediction, bundle: Bundle, options: ResultOptions, of_study: str | None = None
) -> str:
    """The finding in a few sentences, ASCII; last what is said of the whole study."""
    counts = prediction.counts()
    names = {spec.id: spec.name for spec in bundle.classes}
    sentences = [_heading(bundle, options)]
    if any(counts.values()):
        found = ", ".join(f"{names[c]} {n}" for c, n in counts.items() if n)
        sentences.append(f"{bundle.noun.capitalize()}s found: {found}.")
        missing = ", ".join(names[c] for c, n in counts.items() if not n)
        if missing:
            sentences.append(f"None found of: {missing}.")
    else:
        sentences.append(f"No {bundle.noun} found. Looked for: {', '.join(names[c] for c in counts)}.")
    for class_id, count in counts.items():
        if count > LISTED_PER_CLASS:
            sentences.append(f"{names[class_id]}: the {LISTED_PER_CLASS} largest of {count} are listed.")
    if not prediction.image.calibrated:
        sentences.append("Sizes are in pixels, since the picture's pixel spacing is not known.")
    if of_study is not None:
        sentences.append(f"Study as a whole: {of_study}")
    return ascii_only(" ".join(sentences))


def refusal_text(refused: Sequence[Quarantine], bundle: Bundle, options: ResultOptions) -> str:
    """'Not processed' with each reason code and sentence, ASCII."""
    reasons = dict.fromkeys(f"{q.code.value}: {q.sentence.rstrip('.')}." for q in refused)
    return ascii_only(" ".join([_heading(bundle, options), "Not processed.", *reasons]))


def _heading(bundle: Bundle, options: ResultOptions) -> str:
    warning = ", not for diagnostic use" if options.not_for_diagnostic_use else ""
    return f"AI result{warning}. {bundle.title} ({bundle.id} {bundle.version})."
