"""This machine: its programs, disk, memory and GPU, and whether the networks compute here as they should."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from medpipe.bundle import available_bundles, find_bundle
from medpipe.check_bundle import check_bundle
from medpipe.config import Config
from medpipe.errors import MedpipeError
from workers.selftest.check import Check, State, size


def check_programs() -> Iterator[Check]:
    if shutil.which("setpriv") is None:
        yield Check(
            "programs",
            State.NOTE,
            "no setpriv: children of a process that is killed may live on",
            "install the package util-linux",
        )


def check_disk(config: Config) -> Iterator[Check]:
    """`site.root` and, where it lies elsewhere, `worker.scratch`: there, writable, with room."""
    root, wanted = config.site.root, config.site.minimum_free
    if not root.is_dir():
        yield Check("disk", State.FAILED, f"{root} is not there", "run `medpipe init`, or correct site.root")
        return
    places = {"disk": root} | ({"scratch": config.worker.scratch} if config.worker.scratch else {})
    for name, folder in places.items():
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"medpipe")
                os.fsync(file.fileno())
            free = shutil.disk_usage(folder).free
        except OSError as error:
            advice = "make the folder, and let the user of medpipe write there"
            yield Check(name, State.FAILED, f"{folder}: {error.strerror}", advice)
            continue
        found = f"{folder}: {size(free)} free, {file_system(folder)}"
        if free < wanted and folder == root:
            advice = f"free it: below site.minimum_free ({size(wanted)}) nothing is accepted"
            yield Check(name, State.FAILED, found, advice)
        elif free < 2 * wanted:
            yield Check(name, State.NOTE, found, f"free it before it falls below {size(wanted)}")
        else:
            yield Check(name, State.OK, found)


def check_memory(config: Config) -> Iterator[Check]:
    total, needed = psutil.virtual_memory().total, config.reading.memory * config.worker.slots
    found = f"{size(total)}, {os.cpu_count()} cores"
    if total < needed:
        advice = f"a study may take {size(needed)} (reading.memory x worker.slots): lower them or add memory"
        yield Check("memory", State.NOTE, found, advice)
    else:
        yield Check("memory", State.OK, found)


def check_device(config: Config) -> Iterator[Check]:
    try:
        import torch

        from medpipe.inference.torch_backend import pick_device
    except Exception as error:  # a library or a driver that does not load here
        found = f"torch cannot be loaded ({type(error).__name__})"
        yield Check("device", State.FAILED, found, "install it again (docs/install.md)")
        return
    try:
        device = pick_device(config.worker.device)
    except MedpipeError as error:
        yield Check(
            "device", State.FAILED, str(error), "correct worker.device, or install the CUDA build of torch"
        )
        return
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        yield Check("device", State.OK, f"{device}: {properties.name}, {size(properties.total_memory)}")
    elif config.worker.device == "auto" and Path("/proc/driver/nvidia/version").exists():
        advice = (
            f'torch {torch.__version__} cannot use it: install the CUDA build, or set worker.device = "cpu"'
        )
        yield Check("device", State.NOTE, "CPU, though there is an NVIDIA GPU", advice)
    else:
        yield Check("device", State.OK, "CPU")


def check_bundles(config: Config, quick: bool) -> Iterator[Check]:
    """The bundles that the rules name (or all at hand), each with its golden case."""
    folders = config.worker.bundle_folders
    names = list(dict.fromkeys(rule.bundle for rule in config.rules)) or [
        b.id for b in available_bundles(folders)
    ]
    for name in names:
        try:
            bundle = find_bundle(name, folders)
        except MedpipeError as error:
            yield Check(
                f"bundle {name}", State.FAILED, str(error), "correct the rule or worker.bundle_folders"
            )
            continue
        try:
            failed = [] if quick else [c for c in check_bundle(bundle.folder).checks if not c.passed]
        except Exception as error:  # a library or a driver that cannot compute here
            found = f"its golden case cannot be computed ({type(error).__name__})"
            yield Check(f"bundle {name}", State.FAILED, found, "try another worker.backend or worker.device")
            continue
        if failed:
            found = "; ".join(f"{check.name}: {check.found}" for check in failed)
            yield Check(f"bundle {name}", State.FAILED, found, f"run `medpipe check-bundle {bundle.folder}`")
        else:
            done = "loads (golden case not tried)" if quick else "answers its golden case as when it was made"
            yield Check(f"bundle {name}", State.OK, f"{bundle.version} {done}")


def file_system(path: Path) -> str:
    """The kind of file system that a folder lies on, from the longest mount point above it."""
    real = path.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if real.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"
