"""A reader for hostile files, and a sound picture to make them from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from medpipe.config import Reading
from medpipe.dicom import GuardedReader
from medpipe.samples import write_study


@pytest.fixture(scope="module")
def reader() -> Iterator[GuardedReader]:
    with GuardedReader(Reading(memory=150_000_000, seconds=60)) as made:
        yield made


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ultrasound picture of 128 x 128 grey values, Explicit VR Little Endian."""
    folder = tmp_path_factory.mktemp("sound")
    return write_study("ultrasound", folder, seed=1, width=128, height=128).files[0]
