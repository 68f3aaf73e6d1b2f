"""Values that others wrote are carried, not judged, and never quoted."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unjudged() -> Iterator[None]:
    """Keeps pydicom from warning of values that are not as they should be.

    Its warnings, and its log, quote the value, and that may be a patient's name.
    """
    log = logging.getLogger("pydicom")
    before = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before
