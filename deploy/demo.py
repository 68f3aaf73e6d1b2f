"""The demo behind `make run`: a modality sends a study to a PACS, the PACS routes it to medpipe, the result comes back.

All of it is real: Orthanc with the auto-routing script that a hospital would install, medpipe's listener, worker and
review under `medpipe serve`, DCMTK's storescu as the modality. Everything runs on free ports of the loopback, keeps
its files under .demo/, and is stopped by process id on Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import tomli_w
from demo_report import Found, read_results, show
from demo_sample import PROPOSE, DemoError, by_syntax, sample_files, studies_of
from local_orthanc import LocalOrthanc
from local_process import LocalProcess, StartError, free_port, wait_until
from rich.console import Console
from rich.markup import escape

from medpipe.config import load_config
from workers.registry import Registry
from workers.status import status_rows

ROOT = Path(__file__).resolve().parent.parent
MEDPIPE = Path(sys.executable).with_name("medpipe")
ENDED = {"confirmed", "sent", "ignored", "quarantined", "failed", "cancelled"}
LISTENER_AE = "MEDPIPE"
MODALITY_AE = "MODALITY"

console = Console(highlight=False)


@dataclass
class Demo:
    """What was started and how far it came; `stop` ends it all, the newest first."""

    folder: Path
    orthanc: LocalOrthanc
    listener_port: int
    serve: LocalProcess
    config: Path
    review: str
    seconds: dict[str, float] = field(default_factory=dict)

    def stop(self) -> None:
        for process in (self.serve, self.orthanc.process):
            if process is not None:
                process.ask()
        self.serve.stop(30)
        self.orthanc.stop()


# Before anything runs


def own_folder() -> Path:
    """A fresh folder under .demo/; those of demos that no longer run are removed."""
    base = ROOT / ".demo"
    base.mkdir(exist_ok=True)
    for old in base.iterdir():
        number = old.name.removeprefix("run-")
        if number.isdecimal() and not Path(f"/proc/{number}").exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = base / f"run-{os.getpid()}"
    folder.mkdir()
    return folder


def write_config(
    path: Path,
    folder: Path,
    listener_port: int,
    orthanc: LocalOrthanc,
    review_port: int,
    more_rules: Sequence[Mapping[str, Any]] = (),
) -> None:
    """A medpipe.toml as a hospital would write it, with short times and one rule per bundle that ships."""
    from medpipe.bundle import available_bundles

    rules = [
        {
            "name": bundle.id,
            "when": {"Modality": list(bundle.input.modality)},
            "bundle": bundle.id,
            "send": ["PACS"],
        }
        for bundle in available_bundles(())
        if bundle.by_modality  # the others find bright blobs in test pictures, or are for slow machines
    ]
    settings = {
        "site": {"root": str(folder / "site"), "minimum_free": "200 MB"},
        "listener": {
            "ae_title": LISTENER_AE,
            "port": listener_port,
            "calling": [orthanc.ae_title],
            "settle_seconds": 2,
        },
        "peers": {
            "PACS": {
                "ae_title": orthanc.ae_title,
                "host": orthanc.host,
                "port": orthanc.dicom_port,
                "commitment": True,
                "dicomweb": orthanc.dicomweb,
            }
        },
        "review": {"port": review_port},
        "rules": [*rules, *more_rules],
    }
    path.touch(mode=0o600)  # it holds the demo PACS's password
    path.write_text(tomli_w.dumps(settings))


# Starting


def start(folder: Path, more_rules: Sequence[Mapping[str, Any]] = ()) -> Demo:
    """Starts the PACS and medpipe, and waits until both answer."""
    listener_port = free_port()
    modalities = {
        "medpipe": {
            "AET": LISTENER_AE,
            "Host": "127.0.0.1",
            "Port": listener_port,
            "AllowStorageCommitment": True,
        },
        "modality": {"AET": MODALITY_AE, "Host": "127.0.0.1", "Port": free_port(), "AllowFind": False},
    }
    orthanc = LocalOrthanc(folder / "orthanc", autorouting=True, stable_age=1, modalities=modalities)
    config = folder / "medpipe.toml"
    serve = LocalProcess(
        "medpipe serve", [MEDPIPE, "--config", config, "serve"], folder / "medpipe.log", folder=folder
    )
    review_port = free_port()
    demo = Demo(folder, orthanc, listener_port, serve, config, f"http://127.0.0.1:{review_port}")
    begin = time.monotonic()
    try:
        orthanc.start()
        console.print(
            f"PACS       Orthanc, {orthanc.ae_title} on port {orthanc.dicom_port}, web {orthanc.url}"
        )
        write_config(config, folder, listener_port, orthanc, review_port, more_rules)
        initialise(config)
        serve.start()
        serve.wait_ready(lambda: listens(listener_port, orthanc.ae_title), 120)
        console.print(f"medpipe    {LISTENER_AE} on port {listener_port}, settings {shown(config)}")
        serve.wait_ready(lambda: get(demo.review, "/readyz") is not None, 120)
        console.print(f"review     {demo.review}/app")
    except BaseException:
        demo.stop()
        raise
    demo.seconds["start of PACS and medpipe"] = time.monotonic() - begin
    return demo


def initialise(config: Path) -> None:
    done = subprocess.run([MEDPIPE, "--config", config, "init"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"medpipe init failed: {done.stderr.strip()}")


def listens(port: int, calling_ae: str) -> bool:
    """Whether our listener answers a C-ECHO on that port."""
    from medpipe.config import Peer
    from medpipe.errors import MedpipeError
    from medpipe.pacs import echo

    try:
        echo(Peer(ae_title=LISTENER_AE, host="127.0.0.1", port=port, timeout=5), calling_ae)
    except MedpipeError:
        return False
    return True


def get(origin: str, path: str) -> Any:
    """A JSON answer of the review, None where it does not answer so."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
    try:
        with opener.open(origin + path, timeout=10) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def shown(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


# The study's way


def send_as_modality(demo: Demo, files: Sequence[Path]) -> None:
    """storescu, as the modality would: the study goes to the PACS, not to us."""
    storescu = shutil.which("storescu")
    if storescu is None:
        raise DemoError("storescu is missing: install the package dcmtk (deploy/setup.sh does)")
    to = ["-aet", MODALITY_AE, "-aec", demo.orthanc.ae_title, demo.orthanc.host, str(demo.orthanc.dicom_port)]
    begin = time.monotonic()
    for syntax, group in by_syntax(files).items():
        for part in (group[i : i + 500] for i in range(0, len(group), 500)):
            done = subprocess.run(
                [storescu, "-R", *PROPOSE.get(syntax, []), *to, *map(str, part)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
            if done.returncode != 0:
                raise DemoError(f"storescu failed: {(done.stdout + done.stderr).strip()[-800:]}")
    demo.seconds["modality to PACS"] = time.monotonic() - begin


def follow(demo: Demo, studies: Sequence[str], timeout: float) -> list[dict[str, Any]]:
    """Waits until every job of the studies has ended, telling each change of state; the jobs as they ended.

    Raises DemoError when there is no job, or not its end, in time.
    """
    registry = Registry(load_config(demo.config).site.database_url)
    try:
        return _follow(demo, registry, studies, timeout)
    finally:
        registry.close()


def _follow(demo: Demo, registry: Registry, studies: Sequence[str], timeout: float) -> list[dict[str, Any]]:
    begin = before = time.monotonic()
    told: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    while time.monotonic() - begin < timeout:
        if not demo.serve.running:
            raise DemoError(f"medpipe serve ended; the end of {demo.serve.log}:\n{demo.serve.tail(30)}")
        rows = [row for study in studies for row in status_rows(registry, study)]
        now = time.monotonic()
        for row in rows:
            name, state = row["bundle"] or "study", row["state"]
            if told.get(name) != state:
                console.print(f"medpipe    {name}: {state} ({now - begin:.1f} s after the modality)")
                step = STEPS.get(told.get(name, ""), STEPS[""])
                demo.seconds[step] = demo.seconds.get(step, 0) + now - before
                before, told[name] = now, state
        if {row["study"] for row in rows if row["job"]} == set(studies) and all(map(has_ended, rows)):
            return [row for row in rows if row["job"]]
        time.sleep(0.2)
    what = ", ".join(f"{row['bundle'] or 'study'}: {row['state']}" for row in rows) or "nothing arrived"
    raise DemoError(
        f"no result within {timeout:g} s ({what})\n{explain(demo, studies)}\n{demo.serve.tail(20)}"
    )


STEPS = {
    "": "PACS to medpipe, settled",
    "queued": "waiting for a worker",
    "running": "job",
    "sending": "medpipe to PACS",
    "sent": "confirmed by the PACS",
}
"""What the time in each state is called in the table; before the job there is no state."""


def has_ended(row: Mapping[str, Any]) -> bool:
    """Whether nothing more will happen to a job: a sent one still waits for its confirmation."""
    return row["state"] in ENDED and not (row["state"] == "sent" and row["step"] == "confirm")


def explain(demo: Demo, studies: Sequence[str]) -> str:
    done = subprocess.run(
        [MEDPIPE, "--config", demo.config, "explain", *studies], capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).strip()


def results_in_pacs(demo: Demo, studies: Sequence[str], jobs: Sequence[dict[str, Any]]) -> Found:
    """What the PACS holds of the results; DemoError where it holds none."""
    uids = {result["sop_instance_uid"] for job in jobs for result in job["results"]}
    if not uids:
        reasons = "; ".join(
            f"{job['bundle'] or 'study'} {job['state']}: {job['reason'] or 'no reason given'}" for job in jobs
        )
        raise DemoError(f"no result came: {reasons}\n{explain(demo, studies)}\n{demo.serve.tail(20)}")
    wait_until(lambda: all(demo.orthanc.find("Instance", SOPInstanceUID=uid) for uid in uids), 30, 0.2)
    found = read_results(demo.orthanc, uids)
    if found.missing:
        raise DemoError(f"the PACS lacks {len(found.missing)} of {len(uids)} results; see {demo.orthanc.log}")
    return found


def run(sample: Path | None, once: bool, timeout: float) -> int:
    console.print("[bold]medpipe demo[/bold]: modality -> PACS -> medpipe -> PACS")
    folder = own_folder()
    begin = time.monotonic()
    try:
        files = sample_files(sample, folder)
        studies = studies_of(files)
        seconds = {"drawing the sample" if sample is None else "reading the sample": time.monotonic() - begin}
        demo = start(folder)
        demo.seconds = seconds | demo.seconds
        with stopping(demo):
            console.print(
                f"modality   sends {len(files)} file{'s' * (len(files) != 1)} to the PACS as {MODALITY_AE}"
            )
            send_as_modality(demo, files)
            jobs = follow(demo, studies, timeout)
            found = results_in_pacs(demo, studies, jobs)
            show(console, files, jobs, found, demo.seconds)
            if not once:
                serve_until_interrupted(demo, studies)
    except (DemoError, StartError) as error:
        console.print(f"[bold red]demo failed[/bold red]: {escape(str(error))}", soft_wrap=True)
        console.print(f"logs and files: {shown(folder)}")
        return 1
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def serve_until_interrupted(demo: Demo, studies: Sequence[str]) -> None:
    """Prints the addresses and waits for Ctrl-C or SIGTERM. Raises DemoError when a server ends by itself."""
    orthanc = demo.orthanc
    send = f"storescu -aet {MODALITY_AE} -aec {orthanc.ae_title} {orthanc.host} {orthanc.dicom_port} FILE"
    pictures = [get(demo.review, f"/api/studies/{study}") for study in studies]
    links = [demo.review + one["study"]["link"] for one in pictures if one and one["study"]["link"]]
    for name, address in {
        "worklist": f"{demo.review}/app",
        "the result": "\n".join(links) or "(no viewer here: medpipe fetch-viewer installs it)",
        "PACS, web": f"{orthanc.url}/app/explorer.html (user {orthanc.user}, password {orthanc.password})",
        "PACS, DICOM": send,
        "medpipe's jobs": f"{shown(MEDPIPE)} --config {shown(demo.config)} status",
    }.items():
        console.print(f"{name:16}{address}", soft_wrap=True, markup=False)
    console.print("Ctrl-C stops it all.")
    assert orthanc.process is not None
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(0.5)
            for process in (demo.serve, orthanc.process):
                if not process.running:
                    raise DemoError(f"{process.name} ended; the end of {process.log}:\n{process.tail(20)}")
    console.print("\nstopping")


@contextlib.contextmanager
def stopping(demo: Demo) -> Iterator[None]:
    """Stops all processes at the end, however it comes."""
    try:
        yield
    finally:
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # an impatient second Ctrl-C must not leave anything behind
            signal.signal(number, signal.SIG_IGN)
        demo.stop()


def interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="end after the table")
    parser.add_argument(
        "--sample", type=Path, help="a DICOM file or folder, or a fundus picture (JPEG, PNG, TIFF)"
    )
    parser.add_argument("--timeout", type=float, default=480, help="seconds to wait for the result")
    given = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell in the background had SIGINT ignored
        signal.signal(number, interrupt)
    try:
        return run(given.sample, given.once, given.timeout)
    except KeyboardInterrupt:
        console.print("\ninterrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
