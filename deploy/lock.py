"""Writes constraints.txt: the exact version of everything that is installed in the environment that runs this.

Run it in an environment that passes the tests (`make lock`). No local versions (torch's "+cpu", "+cu126"): the same
lock serves the CPU and the CUDA build.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAD = """\
# Exact versions of a tested installation: `pip install -c constraints.txt .`
# Written by `make lock`; hardware builds of torch (CPU, CUDA) share one version number.
"""


def locked(freeze: str) -> list[str]:
    """Lines `name==version` of a `pip freeze`, without the project itself and without local version labels."""
    lines = []
    for line in freeze.splitlines():
        name, equals, version = line.partition("==")
        if not equals:
            name, at, _ = line.partition(" @ ")  # a wheel installed from a file or folder
            if not at or name == "medpipe":
                continue
            version = _installed_version(name)
        if name != "medpipe":
            lines.append(f"{name}=={version.partition('+')[0]}")
    return sorted(lines, key=str.lower)


def _installed_version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def main() -> None:
    freeze = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--all", "--exclude-editable"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    path = Path(__file__).resolve().parent.parent / "constraints.txt"
    lines = locked(freeze)
    path.write_text(HEAD + "\n".join(lines) + "\n")
    print(f"{path}: {len(lines)} packages")


if __name__ == "__main__":
    main()
