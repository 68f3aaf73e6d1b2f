"""What each part of the design is worth: rows that add one thing each, and how they differ, paired over the folds."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator
from scipy import stats

from medpipe.bundle.input_spec import Section
from medpipe.errors import ConfigError
from medpipe.training.experiment import read_folds

THRESHOLD_PICTURES = 6
"""Of the fold after the one held out: thresholds are chosen on them, and they are in no training step."""


class Measure(Section):
    """How a network is used: mean over flips, and the CRF."""

    tta: bool = False
    crf: Literal["off", "seed", "guarded"] = "off"


class Row(Section):
    """One thing that is added to the rows before, and whether the shipped bundle uses it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    says: str
    shipped: str
    set: dict[str, Any] = Field(default_factory=dict)
    measure: dict[str, Any] = Field(default_factory=dict)
    prune: float | None = Field(default=None, gt=0, lt=1)

    @property
    def trains(self) -> bool:
        """Whether there is anything to train that the row before has not trained."""
        return bool(self.set) or self.prune is not None


class Side(Section):
    """A run that a row needs, of the same fold: the experiment of row `from_`, changed."""

    name: str
    from_: str = Field(alias="from")
    says: str
    set: dict[str, Any]


class Rows(Section):
    """The content of rows.toml."""

    row: tuple[Row, ...] = Field(min_length=1)
    side: tuple[Side, ...] = ()

    @model_validator(mode="after")
    def _named_once(self) -> Rows:
        names = [row.name for row in self.row] + [side.name for side in self.side]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        return self


@dataclass(frozen=True)
class Plan:
    """A row, or a side run, of one fold.

    `content` is the TOML of the experiment that `run` trains: this row's, or for a row that only measures that of the
    last one that trained. `needs` are the runs that must be there before: side runs, and what is pruned.
    """

    name: str
    run: str
    fold: int
    content: dict[str, Any]
    needs: tuple[Plan, ...]
    measure: Measure
    prune: float | None

    @property
    def run_stamp(self) -> str:
        """A digest of all that the run's weights hang on, but for the pictures."""
        return _stamp(self.run, self.fold, self.content, self.prune, [need.run_stamp for need in self.needs])

    @property
    def stamp(self) -> str:
        """A digest of all that the row's figures hang on, but for the pictures."""
        return _stamp(self.run_stamp, self.measure.model_dump())

    @property
    def run_name(self) -> str:
        return f"{self.run}-{self.fold}-{self.run_stamp}"


def _stamp(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


class Ablation:
    """The rows over one screening experiment. Raises ConfigError where a file does not say what it should."""

    def __init__(self, screening: Path, rows: Path) -> None:
        try:
            self._base = tomllib.loads(screening.read_text(encoding="utf-8"))
            given = Rows.model_validate(tomllib.loads(rows.read_text(encoding="utf-8")))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{screening}, {rows}: cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"{rows}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        self.rows, self._sides = given.row, {side.name: side for side in given.side}
        self.folds_file = screening.parent / self._base["data"]["folds"]
        self.folds = read_folds(self.folds_file)

    def row(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise ConfigError(f"there is no row {name!r}; there are {', '.join(row.name for row in self.rows)}")

    def plan(self, name: str, fold: int, budget: Mapping[str, float]) -> Plan:
        """What a row, or a side run, is of one fold."""
        if not 0 <= fold < len(self.folds):
            raise ConfigError(f"there is no fold {fold}, only 0 to {len(self.folds) - 1}")
        side = self._sides.get(name)
        content, measure, run, before = dict(self._base), Measure(), self.rows[0].name, ""
        prune = None
        for row in self.rows[: self.rows.index(self.row(side.from_ if side else name)) + 1]:
            content = laid_over(content, row.set)
            measure = Measure.model_validate({**measure.model_dump(), **row.measure})
            if row.trains:
                before, run, prune = run, row.name, row.prune
        if side is not None:
            content, run, measure, prune = laid_over(content, side.set), side.name, Measure(), None
        content = self._of_fold(content, fold, budget)
        needs = [other for other in self._sides if f"{{{other}}}" in json.dumps(content)]
        if prune is not None:
            needs.append(before)
        plans = tuple(self.plan(other, fold, budget) for other in needs)
        return Plan(name, run, fold, content, plans, measure, prune)

    def _of_fold(self, content: dict[str, Any], fold: int, budget: Mapping[str, float]) -> dict[str, Any]:
        following = self.folds[(fold + 1) % len(self.folds)]
        data = {**content["data"], "held_out": fold, "thresholds": list(following[:THRESHOLD_PICTURES])}
        kept = {key: value for key, value in content["budget"].items() if key not in ("minutes", "steps")}
        return {**content, "data": data, "budget": {**kept, **budget}}


def levels(plans: Sequence[Plan]) -> list[list[Plan]]:
    """The runs that plans need, and their own, each after those it needs, each once."""
    depth: dict[str, int] = {}
    by_name: dict[str, Plan] = {}

    def visit(plan: Plan) -> int:
        if plan.run_name not in depth:
            depth[plan.run_name] = 1 + max((visit(need) for need in plan.needs), default=-1)
            by_name[plan.run_name] = plan
        return depth[plan.run_name]

    deepest = max((visit(plan) for plan in plans), default=-1)
    return [[by_name[name] for name, d in depth.items() if d == level] for level in range(deepest + 1)]


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A table with another laid over it, table by table; one that has another `name` replaces the one below whole."""
    if "name" in above and above["name"] != below.get("name", above["name"]):
        return dict(above)
    out = dict(below)
    for key, value in above.items():
        lower = out.get(key)
        out[key] = laid_over(lower, value) if isinstance(value, dict) and isinstance(lower, dict) else value
    return out


def filled(content: Any, places: Mapping[str, str]) -> Any:
    """The content with "{name}" replaced by the place of that name. ConfigError where it is not known."""
    if isinstance(content, dict):
        return {key: filled(value, places) for key, value in content.items()}
    if isinstance(content, str) and content.startswith("{") and content.endswith("}"):
        if content[1:-1] not in places:
            raise ConfigError(f"this row needs {content[1:-1]}: name its folder with --{content[1:-1]}")
        return places[content[1:-1]]
    return content


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and its 95 % t interval; without an interval where there are fewer than two."""

    mean: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        between = "" if self.low is None else f" ({self.low:+.3f} to {self.high:+.3f})"
        return f"{self.mean:+.3f}{between}"


def paired(before: Mapping[int, float], after: Mapping[int, float]) -> Difference | None:
    """How the values of the same folds differ; None where no fold has both."""
    both = sorted(before.keys() & after.keys())
    if not both:
        return None
    values = np.array([after[fold] - before[fold] for fold in both])
    if len(values) < 2:
        return Difference(float(values.mean()))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Difference(float(values.mean()), float(values.mean()) - half, float(values.mean()) + half)


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over folds; None of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
