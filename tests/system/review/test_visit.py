"""A whole visit: the worklist follows a study live from its arrival to the result, and one click opens it."""

from __future__ import annotations

import re

from local_process import wait_until
from playwright.sync_api import expect

from medpipe.results import read_seg
from medpipe.samples import write_study

PATIENCE_MS = 200_000


def test_from_arrival_to_the_lesions_on_the_screen(start_site, orthanc, dcmtk, reader, tmp_path):
    study = write_study("fundus", tmp_path / "modality", seed=4, width=512, height=384)
    running = start_site("serve")
    assert wait_until(lambda: "listening" in running.process.tail(100), 120)
    page = reader.page
    page.goto(f"{running.origin}/app")
    expect(page.locator("#lines")).to_contain_text("No study here.")
    orthanc.upload(study.files[0])
    dcmtk(
        "storescu", "-aet", "MODALITY", "-aec", "MEDPIPE", "-xy", "127.0.0.1", running.listener, *study.files
    )
    line = page.locator(f"tr[data-study='{study.study_uid}']")
    expect(line).to_contain_text("Sample, Fundus", timeout=PATIENCE_MS)  # without a reload
    expect(line).to_contain_text("Result is in the PACS", timeout=PATIENCE_MS)
    expect(line).to_contain_text(re.compile(r"\d+ Bright spot"))

    page.get_by_role("searchbox").fill("nobody")
    expect(page.locator("#lines")).to_contain_text("No study here.")
    page.get_by_role("searchbox").fill("sample-fundus-4")
    line.get_by_role("link", name="Open").click()
    reader.wait_for_segment("Bright spot")
    overlay, _ = reader.overlay()
    result = tmp_path / "result.dcm"
    (uid,) = orthanc.sop_instance_uids(Modality="SEG")
    result.write_bytes(orthanc.file(uid))
    mask, _ = read_seg(result)
    reader.agree(overlay, reader.on_screen(mask[0, 0], overlay.shape))

    page.get_by_role("link", name="Worklist").click()
    expect(page.locator("h1")).to_have_text("Worklist")
    assert not [url for url in reader.requests if "ample" in url], (
        "a name or an id of a patient in an address"
    )
