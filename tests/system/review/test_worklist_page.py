"""The worklist on a reader's screen: nothing lies outside of it, and all of it can be done by keyboard."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from workers.registry import JobPlan, Registry
from workers.spool import Sidecar
from workers.tables import JobState

LONG = (
    "NOT_FOR_BUNDLE: bundle breast-ultrasound is not for SOP class 1.2.840.10008.5.1.4.1.1.77.1.5.1; "
    "FOV_NOT_FOR_BUNDLE: bundle hippocampus is meant for 20 x 35 x 25 to 56 x 70 x 52 mm; this covers 1 x 1 x 1 mm"
)


@pytest.fixture
def refused(start_site, tmp_path):
    """`refused(study)`: a study that was refused for long reasons, in the registry of a running review; its address."""
    running = start_site("review")
    registry = Registry(f"sqlite:///{tmp_path / 'site' / 'root' / 'medpipe.sqlite'}")

    def save(study, received):
        kind = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
        sidecar = Sidecar(study, f"{study}.1.1", kind, study, f"{study}.1", "1.2", "d", 1, "A", "M", received)
        registry.register([sidecar])
        plan = JobPlan(study, "fundus-lesions", "0.3.0", "hash", "c", (study,), "rule", 100, ("PACS",), received,
                       state=JobState.QUARANTINED, reason=LONG)  # fmt: skip
        for row in registry.unsettled():
            registry.settle(row, [], lambda *_: None)
        with registry.begin() as connection:
            registry.plan(connection, plan, lambda *_: None, received)
        return f"{running.origin}/app"

    yield save
    registry.close()


def test_a_reader_needs_no_mouse_and_no_scrolling_to_the_side(refused, reader):
    older = "1.2.826.0.1.3680043.8.498.461932430919228079736502"
    refused(older, 1.7e9)
    page = reader.page
    page.goto(refused("1.2.3", 1.8e9))
    expect(page.locator("form .live")).to_have_text("live")
    for width in (1280, 1920):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        right = page.locator("#lines a.open").first.bounding_box()
        assert right is not None and right["x"] + right["width"] <= width
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    focused = page.locator(f"tr[data-study='{older}'] a.study")
    expect(focused).to_be_focused()
    refused("1.2.4", 1.9e9)  # the page writes its lines anew
    expect(page.locator("tr[data-study]")).to_have_count(3)
    expect(focused).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("What to do: Correct the rule.").first).to_be_visible()
