"""Installs the viewer (OHIF) into this Python environment; nothing is done where it is there already.

npm, where there is one, fetches the package, since it knows a site's own registry; else it is downloaded from the
public one. Either way its digest must be the pinned one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from medpipe.config import Review
from medpipe.errors import MedpipeError
from medpipe.review.viewer_package import PACKAGE, VERSION, fetch, is_fetched, viewer_folder


def npm_pack(folder: Path) -> Path | None:
    """The package as npm fetches it, None where there is no npm or it has no luck."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    subprocess.run(
        [npm, "pack", "--silent", "--pack-destination", folder, f"{PACKAGE}@{VERSION}"],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return next(folder.glob("*.tgz"), None)


def main() -> int:
    folder = viewer_folder(Review())
    if is_fetched(folder):
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        try:
            fetch(folder, npm_pack(Path(temporary)))
        except MedpipeError as error:
            print(f"error: {error.code}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
