"""`serve` tells somebody: what stalls and who is away is said once by webhook, and once more when it is over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from local_process import wait_until
from local_webhook import LocalWebhook
from pynetdicom import AE
from pynetdicom.sop_class import Verification

QUIET_MINUTES = 0.05


@contextmanager
def archive_at(port: int) -> Iterator[None]:
    """A peer that answers C-ECHO."""
    ae = AE(ae_title="ARCHIVE")
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", port), block=False)
    try:
        yield
    finally:
        server.shutdown()


def wake_worker(line: Any) -> None:
    """What had stalled goes on."""
    for process in psutil.Process(line.processes[0].pid).children(recursive=True):
        if process.status() == psutil.STATUS_STOPPED:
            process.resume()


def test_serve_tells_of_a_stalled_queue_and_an_absent_peer_once_and_of_their_end(
    line: Any,
    dcmtk: Any,
    spots: Callable[..., Path],
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    port, faults = free_port(), tmp_path / "faults"
    (faults / "met").mkdir(parents=True)
    (faults / "before_publish").write_text("stop")
    monkeypatch.setenv("MEDPIPE_FAULTS", str(faults))
    with LocalWebhook() as webhook:
        line.change("peers", ARCHIVE={"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port})
        with line.config_file.open("a") as settings:
            settings.write(
                f"\n[alerts]\nevery = 1\nqueue_minutes = 0.05\npeer_minutes = 0.02\n"
                f'quiet_minutes = {QUIET_MINUTES}\ndisk = 1\n\n[alerts.webhook]\nurls = ["{webhook.url}"]\n'
            )
        line.start("serve")
        assert wait_until(lambda: b"listening" in line.log("serve"), 120), line.log("serve").decode()
        for number in (1, 2):  # the worker stands still in the midst of one; the other waits
            dcmtk("storescu", "-aet", "MODALITY", "-aec", "MEDPIPE", "127.0.0.1", line.port, spots(number))
        began = {("peer", "ARCHIVE", "began"), ("queue", "", "began"), ("standstill", "", "began")}
        assert wait_until(lambda: began <= set(webhook.alerts), 120), webhook.alerts
        assert wait_until(lambda: b"stalled at before_publish" in line.log("serve"), 120)
        with archive_at(port):
            wake_worker(line)
            line.wait(lambda rows: [row["state"] for row in rows] == ["confirmed"] * 2)
            over = {(kind, about, "over") for kind, about, _ in began}
            assert wait_until(lambda: over <= set(webhook.alerts), 120), webhook.alerts
            line.stop()
    told = [
        alert for alert in webhook.alerts if alert[0] in ("peer", "queue")
    ]  # a slow machine stands still often
    assert sorted(told) == sorted(one for one in began | over if one[0] != "standstill")
    assert "SPOTS" not in json.dumps([body for _, _, body in webhook.posts]).upper()
