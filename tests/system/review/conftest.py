"""A reader's browser before a running review, and what it shows over a picture, measured on its screen."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from local_orthanc import LocalOrthanc
from local_process import LocalProcess, free_port, wait_until
from numpy.typing import NDArray
from PIL import Image as Pillow
from playwright.sync_api import Browser, Page, expect
from scipy import ndimage

PATIENCE_MS = 150_000
NOISE = (
    "stack viewport has been destroyed",  # OHIF swaps its first viewport for the one with the segmentation
    "handler is not a function",
    "IMAGE_LOAD_ERROR",
)


@dataclass
class Reader:
    """One page. `requests` is all that it asked for, `errors` what it complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def wait_for_segment(self, name: str) -> None:
        """Until the viewer lists a segment of this name and nothing on the canvas moves any more."""
        expect(self.page.get_by_text(name, exact=True)).to_be_visible(timeout=PATIENCE_MS)
        before = self.canvas()
        for _ in range(100):
            self.page.wait_for_timeout(300)
            now = self.canvas()
            if now.any() and np.array_equal(before, now):
                return
            before = now
        raise AssertionError("the viewer does not come to rest")

    def canvas(self) -> NDArray[np.uint8]:
        """What the picture's canvas shows, (rows, columns, 3)."""
        shot = self.page.screenshot(clip=self.box())
        return np.asarray(Pillow.open(io.BytesIO(shot)).convert("RGB"))

    def box(self) -> Any:
        box = self.page.locator("canvas.cornerstone-canvas").bounding_box()
        assert box is not None
        return box

    def overlay(self) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        """Where the canvas changes when a reader hides all segments, and how it looked with them."""
        shown = self.canvas()
        self.page.mouse.move(2, 2)
        self.page.locator("[data-cy=all-segments-visibility-toggle]").click()
        self.page.mouse.move(2, 2)
        assert wait_until(lambda: not np.array_equal(shown, self.canvas()), 30, 0.3), "nothing to hide"
        self.page.wait_for_timeout(500)
        difference = np.abs(shown.astype(int) - self.canvas()).max(axis=-1)
        return difference > 24, shown

    def segments(self) -> dict[str, tuple[int, ...]]:
        """Name -> colour (red, green, blue) of the viewer's list."""
        rows = self.page.evaluate(
            """() => [...document.querySelectorAll('[data-cy=data-row]')].map(row => [
                row.querySelector('[data-cy=data-row-title]').textContent,
                getComputedStyle(row.querySelector('[data-cy=data-row-colorhex]')).backgroundColor])"""
        )
        return {
            name: tuple(int(part) for part in colour[4:-1].replace(",", " ").split()) for name, colour in rows
        }

    @staticmethod
    def on_screen(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """A mask (J, I) as a canvas of `shape` shows it: as large as fits, in the middle."""
        rows, columns = mask.shape
        scale = min(shape[0] / rows, shape[1] / columns)
        j, i = np.nonzero(mask)
        found = np.zeros(shape, bool)
        steps = np.linspace(0, 1, max(2, 2 + int(scale)))  # a pixel may cover several of the screen
        for part_j in steps:
            for part_i in steps:
                y = (j + part_j - rows / 2) * scale + shape[0] / 2
                x = (i + part_i - columns / 2) * scale + shape[1] / 2
                found[np.clip(y, 0, shape[0] - 1).astype(int), np.clip(x, 0, shape[1] - 1).astype(int)] = True
        return found

    @staticmethod
    def near(mask: NDArray[np.bool_], pixels: int = 2) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = ndimage.binary_dilation(mask, iterations=pixels)
        return found

    def agree(self, overlay: NDArray[np.bool_], expected: NDArray[np.bool_]) -> None:
        """The overlay lies where it should, to two pixels of the screen, and leaves out no lesion of 3 x 3 pixels."""
        assert overlay.any()
        inside = (overlay & self.near(expected)).sum() / overlay.sum()
        assert inside > 0.995, f"{1 - inside:.1%} is drawn where there is no lesion"
        labels, count = ndimage.label(self.near(expected, 1))
        sizes = ndimage.sum_labels(expected, labels, range(1, count + 1))
        large = [number + 1 for number, size in enumerate(sizes) if size >= 9]
        missed = [number for number in large if not (overlay & (labels == number)).any()]
        assert large and missed == []


@pytest.fixture
def reader(chromium: Browser) -> Iterator[Reader]:
    """An open page; afterwards it must have asked nobody but its own origin, and complained of nothing."""
    page = chromium.new_page(viewport={"width": 1200, "height": 700})
    reader = Reader(page)
    page.on("request", lambda request: reader.requests.append(request.url))
    page.on("pageerror", lambda error: reader.errors.append(str(error)))
    page.on("console", lambda said: reader.errors.append(said.text) if said.type == "error" else None)
    yield reader
    origin = "/".join(page.url.split("/")[:3])
    page.close()
    elsewhere = [url for url in reader.requests if not url.startswith((origin, "blob:", "data:"))]
    assert elsewhere == []
    assert [error for error in reader.errors if not any(noise in error for noise in NOISE)] == []


@dataclass
class RunningSite:
    """medpipe's processes beside a PACS; `origin` is the review's address."""

    origin: str
    process: LocalProcess
    listener: int


@pytest.fixture
def start_site(
    site: Callable[..., Any], orthanc: LocalOrthanc, viewer_is_installed: None
) -> Iterator[Callable[..., RunningSite]]:
    """`start_site("serve")` or `start_site("review")`: the command on a site whose PACS has DICOMweb."""
    started: list[LocalProcess] = []

    def start(command: str) -> RunningSite:
        port = free_port()
        peer = {
            "ae_title": orthanc.ae_title,
            "host": orthanc.host,
            "port": orthanc.dicom_port,
            "commitment": True,
            "dicomweb": orthanc.dicomweb,
        }
        made = site(
            orthanc,
            peers={"PACS": peer},
            review={"port": port},
            rules=[{"name": "spots", "when": {"Modality": "OP"}, "bundle": "phantom-2d", "send": ["PACS"]}],
            worker={"device": "cpu", "backend": "torch", "threads": 1},
        )
        arguments = [sys.executable, "-m", "medpipe.cli", "--config", made.path, command]
        process = LocalProcess(f"medpipe {command}", arguments, made.path.parent / f"{command}.log")
        started.append(process)
        process.start()
        process.wait_ready(lambda: "review on http://" in process.tail(100), 120)
        return RunningSite(f"http://127.0.0.1:{port}", process, made.config.listener.port)

    yield start
    for process in started:
        process.stop(30)
