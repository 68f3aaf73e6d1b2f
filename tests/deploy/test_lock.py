"""constraints.txt: what `make lock` writes, and that it fits pyproject.toml."""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

import local_orthanc
from lock import locked
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(local_orthanc.__file__).parent.parent


def constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(r.name): r
        for r in map(Requirement, (line for line in lines if line[:1] not in "#"))
    }


def test_a_hardware_build_is_locked_by_its_plain_version():
    assert locked("torch==2.13.0+cpu\nnumpy==2.4.6\n") == ["numpy==2.4.6", "torch==2.13.0"]


def test_the_project_itself_is_not_locked():
    assert locked("medpipe==0.1.0\nmedpipe @ file:///somewhere\nrich==15.0.0\n") == ["rich==15.0.0"]


def test_every_requirement_is_locked_to_a_version_that_it_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *chain(*project["dependency-groups"].values())]
    known = constraints()
    for requirement in map(Requirement, wanted):
        (exact,) = known[canonicalize_name(requirement.name)].specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version), f"{requirement} is locked to {exact.version}"


def test_the_lock_names_no_file_and_no_index():
    assert not [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if "/" in line or "@" in line
    ]
