"""Nothing is missed while we were away: a real Orthanc, stopped listeners, and no doubles."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_orthanc import LocalOrthanc
from local_process import LocalProcess, wait_until
from pydicom import dcmread

from medpipe.errors import PeerRefused, PeerUnreachable, StorageError, UsageError
from medpipe.identity import uid_from
from workers.listener import Listener
from workers.reconcile import _TRIES, Reconciled, Reconciler
from workers.registry import Registry
from workers.work import prepare


def study_uid(number: int) -> str:
    return uid_from("2.25", "spots", str(number))


@pytest.fixture
def beside(site: Callable[..., Any], tmp_path: Path) -> Callable[[LocalOrthanc], Any]:
    """`beside(orthanc)`: an installation beside a PACS without auto-routing, known by its REST interface."""

    def make(orthanc: LocalOrthanc) -> Any:
        password = tmp_path / "orthanc-password"
        password.write_text(orthanc.password + "\n")
        rest = {"url": orthanc.url, "user": orthanc.user, "password_file": str(password), "every": 1}
        peer = {"ae_title": "ORTHANC", "host": orthanc.host, "port": orthanc.dicom_port, "orthanc": rest}
        rule = {"name": "spots", "when": {"Modality": "OP"}, "bundle": "phantom-2d", "send": ["PACS"]}
        made = site(orthanc, peers={"PACS": peer}, rules=[rule])
        prepare(made.config)
        return made

    return make


@pytest.fixture
def pacs(beside: Any, orthanc: LocalOrthanc) -> Any:
    return beside(orthanc)


@pytest.fixture
def reconciler(pacs: Any) -> Iterator[Reconciler]:
    registry = Registry(pacs.config.site.database_url)
    yield Reconciler(pacs.config, "PACS", registry)
    registry.close()


def held(site: Any) -> list[str]:
    """What lies in the spool."""
    return sorted(path.stem for path in (site.root / "spool" / "instances").rglob("*.dcm"))


def stable(orthanc: LocalOrthanc, series: int) -> None:
    """Waits until Orthanc holds this number of series and calls them all stable."""

    def done() -> bool:
        held = [orthanc.get(f"/series/{one}") for one in orthanc.get("/series")]
        return len(held) == series and all(one["IsStable"] for one in held)

    assert wait_until(done, 20, 0.2)


def test_what_came_while_we_were_away_arrives_afterwards_once(
    pacs: Any, orthanc: LocalOrthanc, reconciler: Reconciler, spots: Callable[..., Path]
) -> None:
    reconciler.look()  # the first look notes our place
    orthanc.upload(spots(1))  # nobody routes it to us
    stable(orthanc, 1)
    for _ in range(2):
        with pytest.raises(PeerUnreachable, match="does not reach our listener"):
            reconciler.look()  # said, and not forgotten
    with Listener(pacs.config):
        assert reconciler.look() == Reconciled(series=1, arrived=1, waiting=0)
        assert reconciler.look() == Reconciled(series=0, arrived=0, waiting=0)
        assert reconciler.look(from_start=True).arrived == 0  # it is here, and not asked for again
    assert len(held(pacs)) == 1


def test_results_are_not_asked_for(
    pacs: Any, orthanc: LocalOrthanc, reconciler: Reconciler, spots: Callable[..., Path]
) -> None:
    reconciler.look()
    for number, changes in enumerate(({"Modality": "SEG"}, {"Manufacturer": "medpipe"})):
        result = dcmread(spots(20 + number))
        for keyword, value in changes.items():
            setattr(result, keyword, value)
        result.save_as(path := spots(20 + number))
        orthanc.upload(path)
    stable(orthanc, 2)
    assert reconciler.look() == Reconciled(series=0, arrived=0, waiting=0)  # our listener is not even called


def test_an_orthanc_that_is_restarted_loses_no_series(
    beside: Any, start_orthanc: Callable[..., LocalOrthanc], spots: Callable[..., Path], free_port: Any
) -> None:
    """Auto-routing keeps what waits in memory only, and a series that was not yet stable is never called so."""
    orthanc = start_orthanc(stable_age=60)
    away = beside(orthanc)
    orthanc.modalities["medpipe"] = {"AET": "MEDPIPE", "Host": "127.0.0.1", "Port": away.config.listener.port}
    registry = Registry(away.config.site.database_url)
    reconciler = Reconciler(away.config, "PACS", registry)
    with Listener(away.config):
        reconciler.look()
        orthanc.upload(spots(2))
        assert reconciler.look().waiting == 1  # still growing: left alone
        orthanc.stop()
        with pytest.raises(PeerUnreachable, match="does not answer"):
            reconciler.look()
        orthanc.start()
        assert reconciler.look() == Reconciled(series=1, arrived=1, waiting=0)
    registry.close()


def test_it_begins_at_the_newest_change_unless_asked(
    pacs: Any, orthanc: LocalOrthanc, reconciler: Reconciler, spots: Callable[..., Path]
) -> None:
    orthanc.upload(spots(3))
    stable(orthanc, 1)
    with Listener(pacs.config):
        assert reconciler.look().series == 0  # an old archive is not processed unasked
        assert reconciler.look(from_start=True) == Reconciled(series=1, arrived=1, waiting=0)


def test_what_we_refuse_again_and_again_is_given_up_and_said(
    pacs: Any, orthanc: LocalOrthanc, reconciler: Reconciler, spots: Callable[..., Path], caplog: Any
) -> None:
    """An instance of a class that our listener does not take."""
    reconciler.look()
    odd = dcmread(spots(4))
    odd.SOPClassUID = odd.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"  # whole slide
    odd.save_as(path := spots(4))
    orthanc.upload(path)
    stable(orthanc, 1)
    with Listener(pacs.config):
        waiting = [reconciler.look().waiting for _ in range(_TRIES + 1)]
    assert waiting == [1] * (_TRIES - 1) + [0, 0]
    assert f"`medpipe reprocess {study_uid(4)}`" in caplog.text


def test_an_orthanc_that_does_not_know_us_says_what_to_do(
    pacs: Any, orthanc: LocalOrthanc, reconciler: Reconciler, spots: Callable[..., Path]
) -> None:
    reconciler.look()
    orthanc.delete("/modalities/medpipe")
    orthanc.upload(spots(6))
    stable(orthanc, 1)
    with pytest.raises(PeerRefused, match="add our listener to its DicomModalities"):
        reconciler.look()


def test_a_full_disk_is_waited_for(
    pacs: Any, orthanc: LocalOrthanc, reconciler: Reconciler, spots: Callable[..., Path]
) -> None:
    reconciler.look()
    orthanc.upload(spots(7))
    stable(orthanc, 1)
    full = pacs.config.site.model_copy(update={"minimum_free": 10**18})
    registry = Registry(pacs.config.site.database_url)
    cramped = Reconciler(pacs.config.model_copy(update={"site": full}), "PACS", registry)
    with Listener(pacs.config):
        for _ in range(_TRIES + 1):
            with pytest.raises(StorageError, match=r"site\.minimum_free"):
                cramped.look()
        assert reconciler.look().arrived == 1
    registry.close()


def test_only_one_process_reconciles_a_peer(pacs: Any, reconciler: Reconciler) -> None:
    with reconciler._alone(), pytest.raises(UsageError, match="another process"):
        reconciler.look()


def test_serve_catches_up_by_itself(
    pacs: Any, orthanc: LocalOrthanc, reconciler: Reconciler, spots: Callable[..., Path], tmp_path: Path
) -> None:
    reconciler.look()
    orthanc.upload(spots(5))  # while nothing of ours runs
    stable(orthanc, 1)
    command = [sys.executable, "-m", "medpipe.cli", "--config", pacs.path, "serve"]
    serve = LocalProcess("serve", command, tmp_path / "serve.log")
    serve.start()
    place = pacs.root / "reconcile" / "PACS.json"
    came = wait_until(lambda: len(held(pacs)) == 1 and not json.loads(place.read_text())["waiting"], 120, 0.3)
    code = serve.stop(60)
    assert (came, code) == (True, 0), serve.tail()
