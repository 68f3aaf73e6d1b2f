"""What the default installation brings: every licence known, no GPL, and the bill of materials that says so."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import local_orthanc
import pytest
import sbom
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medpipe.bundle import find_bundle

ROOT = Path(local_orthanc.__file__).parent.parent
LESSER = {"psycopg", "psycopg-binary"}
"""LGPL, as docs/dependencies.md says: used unmodified, and replaceable."""


@pytest.fixture(scope="module")
def declared() -> list[str]:
    dependencies: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return dependencies


@pytest.fixture(scope="module")
def brought(declared):
    """Every package of a default installation."""
    return sbom.closure(*declared)


def test_no_package_is_under_the_gpl(brought):
    assert len(brought) > 40
    said = {
        name: " ".join(
            [
                sbom.licence(package),
                package.metadata.get("License-Expression") or "",
                (package.metadata.get("License") or "")[:200],
                *(line for line in package.metadata.get_all("Classifier", []) if line.startswith("License")),
            ]
        )
        for name, package in brought.items()
    }
    lesser = {name for name, text in said.items() if re.search(r"LGPL|Lesser General Public", text)}
    assert lesser == LESSER
    general = r"(?<!L)GPL|Affero|(?<!Lesser )General Public"
    assert [name for name, text in said.items() if name not in LESSER and re.search(general, text)] == []


def test_the_test_would_notice_a_package_under_the_gpl():
    """pylibjpeg-libjpeg is GPL-3.0, and one extra away from what we depend on."""
    names = {
        canonicalize_name(one.name)
        for one in sbom.requirements(sbom.closure("pylibjpeg")["pylibjpeg"], "libjpeg")
    }
    assert "pylibjpeg-libjpeg" in names
    assert "pylibjpeg-libjpeg" not in sbom.closure("pylibjpeg")


def test_every_package_states_its_licence(brought):
    assert [name for name, package in brought.items() if sbom.licence(package) == "not stated"] == []


def test_every_dependency_is_accounted_for_in_the_docs(declared):
    text = (ROOT / "docs" / "dependencies.md").read_text()
    listed = {
        canonicalize_name(name.strip())
        for row in re.findall(r"(?m)^\| ([^|]+) \|", text)
        for name in row.split(",")
    }
    assert {canonicalize_name(Requirement(one).name) for one in declared} - listed == set()


def test_the_bill_lists_packages_models_and_who_needs_whom():
    bill = sbom.bill()
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["name"].lower(): part for part in bill["components"]}
    assert parts["torch"]["purl"].startswith("pkg:pypi/torch@") and "+" not in parts["torch"]["version"]
    assert parts["psycopg"]["licenses"] == [{"expression": "LGPL-3.0-only"}]
    for bundle in map(find_bundle, ("fundus-lesions", "breast-ultrasound")):
        model = parts[bundle.id]
        assert (model["type"], model["version"]) == ("machine-learning-model", bundle.version)
        files = {file["name"]: file["hashes"][0]["content"] for file in model["components"]}
        assert files == {one.weights.name: one.weights_sha256 for one in bundle.members()}
    needs = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    assert any(ref.startswith("pkg:pypi/numpy@") for ref in needs[parts["highdicom"]["purl"]])
    assert "pytest" not in parts and "ruff" not in parts  # tools of the developers are no part of it


def test_the_same_installation_gives_the_same_bill():
    assert json.dumps(sbom.bill()) == json.dumps(sbom.bill())
