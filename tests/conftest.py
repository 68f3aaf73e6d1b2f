"""What all tests share: the real data beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures and series; without it the test is skipped, or fails where CI should have it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if folder.is_dir():
        return folder
    reason = f"no real data: {folder} is not there"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
