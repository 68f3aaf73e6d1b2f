"""Files that survive: written aside, fsynced, renamed into place, and the folder fsynced (POSIX rename is atomic)."""

from __future__ import annotations

import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def sync_file(path: Path) -> None:
    """Flushes a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_flushers = ThreadPoolExecutor(8, thread_name_prefix="flush")


def sync_files(first: Path, second: Path) -> None:
    """Flushes two files at once: a journalling file system commits both in the time of one."""
    other = _flushers.submit(sync_file, second)
    try:
        sync_file(first)
    finally:
        other.result()


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_text(content: dict[str, Any]) -> str:
    """A JSON object as all our files hold it."""
    return json.dumps(content, ensure_ascii=False, sort_keys=True)


def write_json(path: Path, content: dict[str, Any], *, replace: bool = True) -> None:
    """Writes a JSON object durably; readers see the old file or the new one, never a part.

    Without `replace` raises FileExistsError where there is an old one, and leaves it as it is.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(json_text(content))
        file.flush()
        os.fsync(file.fileno())
    if replace:
        aside.replace(path)
    else:
        try:
            os.link(aside, path)
        finally:
            aside.unlink()
    sync_folder(path.parent)


def publish_folder(source: Path, target: Path) -> None:
    """Makes a finished folder durable and gives it its final name. A target that is already there stays as it is."""
    for path in source.iterdir():
        sync_file(path)
    sync_folder(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    sync_folder(target.parent)
