"""The bill of materials: everything that the default installation brings, with versions and licences (CycloneDX 1.6).

    python deploy/sbom.py FILE.json      writes the bill
    python deploy/sbom.py --licences     prints the packages and their licences as a Markdown table

It lists what is installed in the environment that runs it, as far as medpipe's own requirements reach (not the tools
for tests and checks), and the bundles that ship. The same installation gives the same bytes: no date, no random number.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC License": "ISC",
    "MIT License": "MIT",
}
"""How packages that name no SPDX expression write what is one."""


def closure(*wanted: str) -> dict[str, metadata.Distribution]:
    """All packages that these requirements bring here, by canonical name; medpipe itself unless told otherwise.

    Raises PackageNotFoundError for one that is not installed.
    """
    found: dict[str, metadata.Distribution] = {}
    asked: set[tuple[str, str]] = set()
    open_ones = [Requirement(text) for text in wanted or ("medpipe",)]
    while open_ones:
        requirement = open_ones.pop()
        name = canonicalize_name(requirement.name)
        found[name] = found.get(name) or metadata.distribution(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in asked:
                asked.add((name, extra))
                open_ones += requirements(found[name], extra)
    return dict(sorted(found.items()))


def requirements(package: metadata.Distribution, extra: str = "") -> Iterator[Requirement]:
    """What a package requires on this machine, with one of its extras."""
    for text in package.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def licence(package: metadata.Distribution) -> str:
    """A package's licence as it says itself: an SPDX expression where it has one, else its own words."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return expression
    classified = [
        line.split(" :: ")[-1] for line in about.get_all("Classifier", []) if line.startswith("License :: ")
    ]
    written = (about.get("License") or "").strip().splitlines()
    said = written[0].split(" :: ")[-1] if written and len(written[0]) < 40 else ""
    for text in (said, *classified):
        short = re.sub(r" \(.*\)$", "", text)
        if short in SPDX or re.fullmatch(r"[A-Z][A-Za-z]*-[0-9.]+(-[A-Za-z]+)?|MIT", short):
            return SPDX.get(short, short)
    return next((text for text in (*classified, said) if text), "not stated")


def bill(name: str = "medpipe") -> dict[str, Any]:
    """The bill of materials as a CycloneDX 1.6 document."""
    packages = closure(name)
    root = packages[name]
    components = [_component(package) for key, package in packages.items() if key != name]
    models = [_model(folder) for folder in sorted(_bundles().glob("*/"))]
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**_component(root), "type": "application"}},
        "components": components + models,
        "dependencies": [
            {
                "ref": _purl(package),
                "dependsOn": sorted(_purl(packages[key]) for key in _required(package, packages)),
            }
            for package in packages.values()
        ],
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()
    document["serialNumber"] = f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}"
    return document


def _required(package: metadata.Distribution, packages: dict[str, metadata.Distribution]) -> set[str]:
    extras = ["", *(package.metadata.get_all("Provides-Extra", []) or [])]
    named = {canonicalize_name(one.name) for extra in extras for one in requirements(package, extra)}
    return named & packages.keys() - {canonicalize_name(package.metadata["Name"])}


def _component(package: metadata.Distribution) -> dict[str, Any]:
    stated = licence(package)
    is_expression = re.fullmatch(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*", stated) is not None
    return {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.metadata["Name"],
        "version": _version(package),
        "purl": _purl(package),
        "licenses": [{"expression": stated}] if is_expression else [{"license": {"name": stated}}],
    }


def _model(folder: Path) -> dict[str, Any]:
    """A bundle that ships: a trained network is a part like any other."""
    about = tomllib.loads((folder / "bundle.toml").read_text(encoding="utf-8"))
    reference = f"bundle:{about['id']}@{about['version']}"
    weights = [
        {
            "type": "file",
            "bom-ref": f"{reference}#{path.name}",
            "name": path.name,
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
        }
        for path in sorted(folder.glob("*.safetensors"))
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": about["id"],
        "version": about["version"],
        "licenses": [{"license": {"name": about["provenance"]["licence"]}}],
        "components": weights,
    }


def _bundles() -> Path:
    import medpipe

    return Path(medpipe.__file__).parent / "bundles"


def _version(package: metadata.Distribution) -> str:
    return package.version.partition("+")[0]  # torch's "+cpu" is a build, not a version


def _purl(package: metadata.Distribution) -> str:
    return f"pkg:pypi/{canonicalize_name(package.metadata['Name'])}@{_version(package)}"


def licence_table() -> str:
    rows = [f"| {key} | {_version(package)} | {licence(package)} |" for key, package in closure().items()]
    return "\n".join(["| package | version | licence |", "| --- | --- | --- |", *rows])


def main() -> None:
    if sys.argv[1:] == ["--licences"]:
        print(licence_table())
    elif len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        document = bill()
        Path(sys.argv[1]).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"{sys.argv[1]}: {len(document['components'])} components")
    else:
        sys.exit("usage: sbom.py FILE.json | --licences")


if __name__ == "__main__":
    main()
