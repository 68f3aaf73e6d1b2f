"""A site with an engine but without workers: tests claim workflows as the engine would."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medpipe.config import Config, parse_config
from medpipe.identity import digest, file_sha256, uid_from
from workers.queue import JobQueue, status_table
from workers.registry import ROUTINE, JobPlan, Registry
from workers.retention import Janitor
from workers.settle import register_arrivals
from workers.spool import Arrival, Sidecar, Spool
from workers.tables import JobState, delivery, instance, job, result, study
from workers.work import prepare

ME = "host-1-aaaaaaaa"
SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"


@dataclass
class Site:
    """Registry, queue and folders of one site, and what the tests do to them."""

    config: Config
    registry: Registry
    queue: JobQueue
    jobs: int = field(default=0)

    @property
    def root(self) -> Path:
        return self.config.site.root

    def plan(self, study: str = "2.25.1", content: str = "a", **options: Any) -> str:
        """Plans and queues a job; its id."""
        self.jobs += 1
        values: dict[str, Any] = {
            "study_uid": study,
            "bundle": "phantom-2d",
            "bundle_version": "1.0.0",
            "bundle_hash": "b" * 64,
            "content": digest(content),
            "instances": (),
            "rule": "spots",
            "priority": ROUTINE,
            "destinations": ("PACS",),
            "received_at": 1000.0 + self.jobs,
        }
        plan = JobPlan(**(values | options))
        with self.registry.begin() as connection:
            assert self.registry.plan(connection, plan, self.queue.enqueue, 1000.0 + self.jobs)
        return plan.id

    def claim(self, workflow_id: str, executor_id: str = ME) -> str:
        """What the engine does when a worker takes a workflow from the queue; the token of the claim."""
        token = str(uuid.uuid4())
        self.sql(
            "UPDATE {workflows} SET status = 'PENDING', executor_id = :executor, owner_xid = :token "
            "WHERE workflow_uuid = :id",
            executor=executor_id,
            token=token,
            id=workflow_id,
        )
        return token

    def end(self, workflow_id: str, status: str = "SUCCESS") -> None:
        """What the engine does at a workflow's end."""
        self.sql(
            "UPDATE {workflows} SET status = :status WHERE workflow_uuid = :id", status=status, id=workflow_id
        )

    def sql(self, text: str, **values: Any) -> None:
        with self.registry.begin() as connection:
            connection.execute(sa.text(text.format(workflows=status_table(connection))), values)

    def workflows(self) -> dict[str, tuple[str, int]]:
        """Status and priority of every workflow."""
        with self.registry.read() as connection:
            rows = connection.execute(
                sa.text(f"SELECT workflow_uuid, status, priority FROM {status_table(connection)}")
            )
            return {row.workflow_uuid: (row.status, row.priority) for row in rows}

    def state(self, job_id: str) -> str:
        return str(self.registry.job(job_id).state)

    def deliveries(self) -> dict[str, str]:
        """State of each result at its destination."""
        with self.registry.read() as connection:
            rows = connection.execute(sa.select(delivery.c.sop_instance_uid, delivery.c.state))
            return {row.sop_instance_uid: row.state for row in rows}

    def current(self) -> dict[str, str]:
        """The results in force, and the job that each belongs to."""
        with self.registry.read() as connection:
            rows = connection.execute(
                sa.select(result.c.sop_instance_uid, result.c.job).where(result.c.superseded_by.is_(None))
            )
            return {row.sop_instance_uid: row.job for row in rows}

    def put(self, job_id: str, **values: Any) -> None:
        """Writes columns of a job."""
        with self.registry.begin() as connection:
            connection.execute(sa.update(job).where(job.c.id == job_id).values(**values))


def segmentation(name: str) -> Dataset:
    """As much of a SEG as it takes to be sent."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SEG, uid_from("2.25", name)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.1", uid_from("2.25", name, "series")
    return dataset


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, made once."""
    root = tmp_path_factory.mktemp("template")
    prepare(parse_config({"site": {"root": str(root)}}))
    return root / "medpipe.sqlite"


@pytest.fixture
def make_site(tmp_path: Path, template: Path) -> Iterator[Callable[..., Site]]:
    """A function that makes a site: `make_site(worker={"attempts": 2}, peers={...})`."""
    made: list[Site] = []

    def make(**sections: Any) -> Site:
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        shutil.copy(template, root / "medpipe.sqlite")
        peers = {"PACS": {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 4242}}
        config = parse_config(
            {"peers": peers} | sections | {"site": {"root": str(root)} | sections.get("site", {})}
        )
        site = Site(config, Registry(config.site.database_url), JobQueue(config.site.database_url))
        made.append(site)
        return site

    yield make
    for site in made:
        site.queue.close()
        site.registry.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


class Kept:
    """A site with a spool of real files, and a janitor."""

    study = "2.25.1"
    long_ago = 1000.0

    def __init__(self, site: Site) -> None:
        self.site, self.registry, self.spool = site, site.registry, Spool(site.root)
        self.janitor = Janitor(site.config, self.spool, site.registry)

    def receive(self, number: int, at: float = long_ago, content: bytes = b"") -> Sidecar:
        """What the listener does with an instance."""
        path = self.spool.incoming / f"{number}.part"
        path.write_bytes(bytes(128) + b"DICM" + content + str(number).encode())
        arrival = Arrival(
            f"2.25.1.{number}", "1.2.3", self.study, "2.25.1.0", "1.2.840.10008.1.2", "PACS", "M"
        )
        return self.spool.receive(path, arrival, at)[0]

    def register(self) -> int:
        return register_arrivals(self.spool, self.registry)

    def settle(self, state: JobState, content: str = "a", **values: Any) -> str:
        """The study's present content becomes a job, which ends long ago."""
        files = tuple(row.file for row in self.registry.instances_of(self.study))
        plan = JobPlan(
            self.study,
            "phantom-2d",
            "1.0.0",
            "b" * 64,
            content,
            files,
            "spots",
            100,
            ("PACS",),
            self.long_ago,
        )
        for row in self.registry.unsettled():
            self.registry.settle(row, [plan], self.site.queue.enqueue)
        self.site.put(plan.id, state=state.value, updated_at=self.long_ago, **values)
        return plan.id

    def files(self) -> int:
        """Files of instances that are on the disk, sidecars included."""
        return len(list(self.spool.instances.glob("??/*-*.*")))

    def row(self) -> Any:
        with self.registry.read() as connection:
            return connection.execute(sa.select(study)).one()

    def retentions(self) -> list[str]:
        with self.registry.read() as connection:
            return sorted(connection.execute(sa.select(instance.c.retention)).scalars())

    def received(self, instances: int = 3) -> Kept:
        for number in range(instances):
            self.receive(number)
        self.register()
        return self


@pytest.fixture
def make_kept(make_site: Callable[..., Site]) -> Callable[..., Kept]:
    """A function that makes a site with a spool: `make_kept(site={...})`."""
    return lambda **sections: Kept(make_site(**sections))


@pytest.fixture
def kept(make_kept: Callable[..., Kept]) -> Kept:
    return make_kept()


@pytest.fixture
def finding(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """`finding("A", "B")`: a finished attempt's folder with one file per name, and the outcome that names them."""

    def make(*names: str, state: str = "done") -> tuple[Path, dict[str, Any]]:
        folder = tmp_path / f"attempt-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        results = []
        for name in names:
            path = folder / f"{name}.seg.dcm"
            segmentation(name).save_as(path, enforce_file_format=True)
            results.append(
                {
                    "sop_instance_uid": uid_from("2.25", name),
                    "sop_class_uid": SEG,
                    "series_instance_uid": uid_from("2.25", name, "series"),
                    "image_name": name,
                    "path": f"{name}.seg.dcm",
                    "sha256": file_sha256(path),
                }
            )
        image = {"name": "1", "series_uid": "2.25.5", "state": state, "lesions": {"SPOT": 3}, "reason": None}
        outcome = {
            "results": results,
            "images": [image],
            "reason": None,
            "state": state,
            "seconds": {"network": 1.0},
        }
        return folder, outcome

    return make
