"""Folds for a folder of training data: its images dealt evenly, those of one patient never parted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import tomli_w

from medpipe.errors import ConfigError
from medpipe.training.dicom_pairs import Label
from medpipe.training.sources import open_source


def write_folds(data: Path, out: Path, count: int, labels: Sequence[Label] = ()) -> list[list[str]]:
    """Writes the list of folds that an experiment names as `data.folds`; returns it.

    With `labels`, the experiment's classes, images whose SEGs are all about other things are left out.
    Raises ConfigError where there is nothing to deal, or `out` exists: a list that was trained by is not replaced.
    """
    if out.exists():
        raise ConfigError(
            f"{out}: exists; images would change sides, so a list of folds is never overwritten"
        )
    folds = deal(open_source(data, None, labels).groups(), count)
    out.write_text(tomli_w.dumps({"fold": [{"pictures": fold} for fold in folds]}), encoding="utf-8")
    return folds


def deal(groups: Mapping[str, str], count: int) -> list[list[str]]:
    """Names in `count` folds; `groups` says which names belong together.

    Groups are dealt in the order of their digests, which follows nothing that names may say of time or place, each to
    the fold that has the fewest images yet: the same folder gives the same folds.
    """
    together: dict[str, list[str]] = {}
    for name, group in groups.items():
        together.setdefault(group, []).append(name)
    if len(together) < count:
        raise ConfigError(f"{len(together)} patients or images with a truth are too few for {count} folds")
    folds: list[list[str]] = [[] for _ in range(count)]
    for group in sorted(together, key=lambda group: hashlib.sha256(group.encode()).digest()):
        min(folds, key=len).extend(together[group])
    return [sorted(fold) for fold in folds]
