"""The pictures of the documentation, made anew: `python deploy/pictures.py docs`.

Drawn studies go the demo's whole way, from a modality through an Orthanc to medpipe and back; headless Chromium then
photographs the worklist and the viewer. So the pictures show what the shipped networks find today.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from demo import Demo, follow, get, send_as_modality, start, stopping
from demo_sample import studies_of
from playwright.sync_api import Page, expect, sync_playwright

from medpipe.samples import write_study

FLAGS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
         "disable-component-update", "disable-sync")  # fmt: skip
VOLUMES = {"name": "drawn volumes", "when": {"Modality": "CT"}, "bundle": "phantom", "send": ["PACS"]}
STUDIES = (("ct", 2), ("mr", 3), ("ultrasound", 5), ("fundus-healthy", 4), ("ct", 1), ("fundus", 1))
"""Kind and seed, the last one on top of the worklist; the first loses a slice on its way."""
PATIENCE_MS = 150_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes worklist.png, viewer-fundus.png and viewer-volume.png in a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the folder to write to")
    out = parser.parse_args(arguments).out
    with tempfile.TemporaryDirectory() as folder, stopping(demo := start(Path(folder), [VOLUMES])):
        studies = [received(demo, Path(folder) / str(number), *what) for number, what in enumerate(STUDIES)]
        photograph(demo, volume=studies[-2], fundus=studies[-1], out=out)
    return 0


def received(demo: Demo, folder: Path, kind: str, seed: int) -> str:
    """Draws a study, sends it and waits for its end; its UID."""
    files = list(write_study(kind, folder, seed=seed).files)
    if (kind, seed) == STUDIES[0]:
        del files[len(files) // 2]
    send_as_modality(demo, files)
    (study,) = studies_of(files)
    follow(demo, [study], timeout=300)
    return study


def photograph(demo: Demo, *, volume: str, fundus: str, out: Path) -> None:
    with sync_playwright() as playwright:
        program = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=[f"--{flag}" for flag in FLAGS])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(f"{demo.review}/app")
        expect(page.locator("form .live")).to_have_text("live")
        page.screenshot(path=out / "worklist.png", full_page=True)
        viewed(page, demo, fundus, "Hard exudates", out / "viewer-fundus.png")
        viewed(page, demo, volume, "Bright lesion", out / "viewer-volume.png")
        browser.close()


def viewed(page: Page, demo: Demo, study: str, segment: str, path: Path) -> None:
    """The viewer once it lists a segment and its picture has come to rest."""
    page.goto(demo.review + get(demo.review, f"/api/studies/{study}")["study"]["link"])
    expect(page.get_by_text(segment, exact=True)).to_be_visible(timeout=PATIENCE_MS)
    page.mouse.move(640, 700)
    before = b""
    while (now := page.screenshot(path=path)) != before:
        before = now
        page.wait_for_timeout(1500)


if __name__ == "__main__":
    sys.exit(main())
