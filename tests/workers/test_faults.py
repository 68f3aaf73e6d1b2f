"""The fault points: what is armed happens once, where it is said; a receipt broken off at any of them is made good."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workers import faults
from workers.spool import Arrival, Spool

PACKAGE = Path(faults.__file__).parent
ARRIVAL = Arrival(
    "2.25.1", "1.2.840.10008.5.1.4.1.1.7", "2.25.2", "2.25.3", "1.2.840.10008.1.2.1", "MODALITY", "MEDPIPE"
)


@pytest.fixture
def armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "faults"
    (folder / "met").mkdir(parents=True)
    monkeypatch.setenv("MEDPIPE_FAULTS", str(folder))
    return folder


def test_every_point_is_passed_somewhere_and_every_passed_point_is_known() -> None:
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "faults.py")
    passed = re.findall(r'faults\.point\("(\w+)"\)', sources)
    assert set(passed) == set(faults.POINTS) and set(faults.WRITES) < set(passed)


def test_nothing_happens_where_nothing_is_armed(armed: Path) -> None:
    faults.point("received")
    (armed / "after_fsync").write_text("full")
    faults.point("received")
    assert not list((armed / "met").iterdir())


def test_an_armed_point_is_met_once(armed: Path) -> None:
    (armed / "received").write_text("full")
    with pytest.raises(OSError, match="No space left"):
        faults.point("received")
    faults.point("received")
    (met,) = (armed / "met").iterdir()
    assert met.name.startswith(f"received.{os.getpid()}.") and not (armed / "received").exists()


def test_poison_is_for_whom_it_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    monkeypatch.setenv("MEDPIPE_POISON", "abc,worker:def")
    faults.poison([Path("x/zzz.dcm")])
    faults.poison([Path("x/abc.dcm")], kills="worker")
    faults.poison([Path("x/def.dcm")])
    assert killed == []
    faults.poison([Path("x/abc.dcm")])
    faults.poison([Path("x/def.dcm")], kills="worker")
    assert killed == [signal.SIGKILL, signal.SIGKILL]


def incoming(spool: Spool) -> Path:
    path = spool.incoming / "received.dcm"
    path.write_bytes(bytes(128) + b"DICM" + b"content")
    return path


@pytest.mark.parametrize("point", ["before_sidecar", "after_fsync", "after_rename", "after_sidecar"])
def test_a_receipt_killed_at_any_point_is_made_good_by_the_next(
    point: str, tmp_path: Path, armed: Path
) -> None:
    root = tmp_path / "root"
    incoming(Spool(root))
    (armed / point).write_text("kill")
    code = (
        "import sys\nfrom pathlib import Path\nfrom workers.spool import Arrival, Spool\n"
        "spool = Spool(Path(sys.argv[1]))\n"
        f"spool.receive(spool.incoming / 'received.dcm', Arrival(*{list(vars(ARRIVAL).values())!r}), 1.0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(root)], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    spool = Spool(root)
    spool.repair()  # the listener starts again, and the sender, who heard nothing, sends again
    sidecar, _ = spool.receive(incoming(spool), ARRIVAL, 2.0)
    assert spool.path_of(sidecar).read_bytes() == bytes(128) + b"DICM" + b"content"
    assert [one.file for one in spool.arrivals()] == [sidecar.file] and not sidecar.aside


def test_a_full_disk_leaves_no_half_of_an_instance(tmp_path: Path, armed: Path) -> None:
    spool = Spool(tmp_path / "root")
    (armed / "before_sidecar").write_text("full")
    with pytest.raises(OSError, match="No space left"):
        spool.receive(incoming(spool), ARRIVAL, 1.0)
    assert list(spool.sidecars()) == [] and spool.arrivals() == []
    assert not list(spool.instances.glob("??/*.dcm"))
    spool.receive(incoming(spool), ARRIVAL, 2.0)
    assert len(list(spool.sidecars())) == len(spool.arrivals()) == 1
