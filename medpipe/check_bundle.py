"""A bundle's self-test: files, codes, weights, and a golden case that it must answer as it did when it was made.

golden.json names a drawn sample (kind, seed, size) and holds what the bundle says of it: the lesions per class and the
probabilities as block means on a coarse grid. A CPU, a driver or a library that computes something else is noticed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.bundle import GOLDEN, Bundle, load_bundle
from medpipe.errors import BundleError, MedpipeError
from medpipe.types import Grid, Image, SourceFrame

CARD = "CARD.md"
TOLERANCE = 0.01
"""Largest difference of a block mean of probability."""
COUNT_TOLERANCE = 0.02
"""Part of a class's lesions (but one at least) by which a count may differ: another CPU rounds at the threshold."""
_FORMAT = 1
_KINDS = {"OP": "fundus", "US": "ultrasound", "CT": "ct", "MR": "mr"}
_SEED = 7
_FUNDUS_SIZE = (1424, 2144)
_SMALL_SIZE = (340, 512)
"""Of the picture for a bundle that does not scale."""


@dataclass(frozen=True)
class Check:
    """One thing looked at: what, whether it is as it should be, and what was found."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class CheckReport:
    folder: Path
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def lines(self) -> tuple[str, ...]:
        """One line per check, as the command prints it."""
        return tuple(f"{'ok  ' if c.passed else 'FAIL'} {c.name}: {c.found}" for c in self.checks)


def check_bundle(folder: Path, device: str = "cpu") -> CheckReport:
    """Checks a bundle folder from its description to its golden case; faults are in the report, not raised."""
    checks: list[Check] = []
    try:
        bundle = load_bundle(folder)
        checks.append(
            Check("description", True, f"{bundle.id} {bundle.version}, {len(bundle.classes)} classes")
        )
        checks += _check_codes(bundle)
        checks.append(_check_card(folder))
        checks += _check_golden(bundle, device)
    except MedpipeError as error:
        checks.append(Check(error.code.lower(), False, str(error)))
    return CheckReport(folder, tuple(checks))


def write_golden(folder: Path, device: str = "cpu") -> Path:
    """Writes golden.json from what the bundle says of its sample now; gives its path."""
    bundle = load_bundle(folder)
    sample = default_sample(bundle)
    golden = {
        "format": _FORMAT,
        "bundle_hash": bundle.hash,
        "weights_sha256": bundle.weights_sha256,
        "tolerance": TOLERANCE,
        "sample": sample,
        **_answer(bundle, sample, device, "auto"),
    }
    path = folder / GOLDEN
    path.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    return path


def default_sample(bundle: Bundle) -> dict[str, Any]:
    """The drawn sample that suits a bundle's modality."""
    kind = next((_KINDS[m] for m in bundle.input.modality if m in _KINDS), None)
    if kind is None:
        raise BundleError(f"{bundle.id}: no sample is drawn for {', '.join(bundle.input.modality)}")
    sample: dict[str, Any] = {"kind": kind, "seed": _SEED}
    if kind == "fundus":
        rows, columns = _FUNDUS_SIZE if bundle.input.scale == "fit" else _SMALL_SIZE
        sample |= {"rows": rows, "columns": columns}
    if bundle.input.extent_mm is not None and kind in (
        "ct",
        "mr",
    ):  # as large as the bundle's field of view, 1 mm
        low, high = bundle.input.extent_mm.min, bundle.input.extent_mm.max
        sample["shape"] = [round((a + b) / 2) for a, b in zip(low, high, strict=True)]
        sample["spacing"] = [1.0, 1.0, 1.0]
    return sample


def _check_golden(bundle: Bundle, device: str) -> Iterator[Check]:
    golden = _read_golden(bundle)
    yield Check(
        "hash",
        golden["bundle_hash"] == bundle.hash,
        bundle.hash
        if golden["bundle_hash"] == bundle.hash
        else "the bundle was changed since golden.json was written",
    )
    precisions = ("f32", "bf16") if bundle.precision.cpu_bf16 and device == "cpu" else ("auto",)
    for precision in precisions:
        found = _answer(bundle, golden["sample"], device, precision)
        name = f"golden case ({found['backend']}, {found['precision']})"
        yield _compare_counts(f"{name}: lesions", golden["lesions"], found["lesions"])
        yield _compare_means(f"{name}: probabilities", golden, found)


def _read_golden(bundle: Bundle) -> dict[str, Any]:
    path = bundle.folder / GOLDEN
    try:
        golden = json.loads(path.read_text(encoding="utf-8"))
        known = golden["format"] == _FORMAT and isinstance(golden["sample"], dict)
        complete = known and {"bundle_hash", "lesions", "block_means"} <= golden.keys()
    except OSError as error:
        raise BundleError(f"{path}: no golden case; write one with check-bundle --write-golden") from error
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path}: not a golden case: {error}") from error
    if not complete:
        raise BundleError(
            f"{path}: a golden case of another format; write it anew with check-bundle --write-golden"
        )
    return dict(golden)


def _compare_counts(name: str, expected: Mapping[str, int], found: Mapping[str, int]) -> Check:
    near = expected.keys() == found.keys() and all(
        abs(found[c] - n) <= max(1, COUNT_TOLERANCE * n) and (found[c] > 0 or n == 0)
        for c, n in expected.items()
    )
    shown = ", ".join(f"{c} {found.get(c, 0)} (expected {n})" for c, n in expected.items())
    return Check(name, near, shown)


def _compare_means(name: str, golden: Mapping[str, Any], found: Mapping[str, Any]) -> Check:
    worst = 0.0
    for class_id, expected in golden["block_means"].items():
        ours = np.asarray(found["block_means"].get(class_id, ()), dtype=np.float64)
        theirs = np.asarray(expected, dtype=np.float64)
        if ours.shape != theirs.shape:
            return Check(name, False, f"{class_id}: blocks of {ours.shape}, expected {theirs.shape}")
        worst = max(worst, float(np.nan_to_num(np.abs(ours - theirs), nan=np.inf).max()))
    return Check(
        name, worst <= TOLERANCE, f"largest difference of a block mean {worst:.4f} (allowed {TOLERANCE})"
    )


def _answer(bundle: Bundle, sample: Mapping[str, Any], device: str, precision: str) -> dict[str, Any]:
    from medpipe.inference import load_backend, predict

    backend = load_backend(bundle, device=device, precision=precision)
    with tempfile.TemporaryDirectory(prefix="medpipe-golden-") as scratch:
        done = predict(draw(sample), bundle, backend, Path(scratch), keep_probability=True)
        assert done.probability is not None
        means = {
            c: np.round(block_means(done.probability[n]), 4).tolist() for n, c in enumerate(done.class_ids)
        }
    return {
        "backend": backend.name.split()[0],
        "precision": backend.precision,
        "lesions": done.counts(),
        "block_means": means,
    }


def block_means(probability: NDArray[Any]) -> NDArray[np.float64]:
    """(K, J, I) -> means over at most 16 x 16 blocks of a picture, 8 x 8 x 8 of a volume."""
    means = probability.astype(np.float64)
    most = 16 if probability.shape[0] == 1 else 8
    for axis, size in enumerate(probability.shape):
        edges = np.linspace(0, size, min(most, size) + 1).astype(int)
        parts = [
            means.take(range(a, b), axis=axis).mean(axis=axis, keepdims=True) for a, b in pairwise(edges)
        ]
        means = np.concatenate(parts, axis=axis)
    return means


def draw(sample: Mapping[str, Any]) -> Image:
    """The drawn sample (kind, seed, and its size where that is said) as an Image, without going through DICOM."""
    kind, seed = sample["kind"], sample["seed"]
    if kind == "fundus":
        from medpipe.samples.fundus import draw_fundus

        picture = draw_fundus(seed, sample["columns"], sample["rows"]).picture
        return _as_image(picture.transpose(2, 0, 1)[:, None], np.eye(4), "OP")
    if kind == "ultrasound":
        from medpipe.samples.ultrasound import draw_ultrasound

        return _as_image(draw_ultrasound(seed).picture[None, None], np.eye(4), "US")
    if kind in ("ct", "mr"):
        from medpipe.samples.phantom import draw_phantom

        options: dict[str, Any] = {key: tuple(sample[key]) for key in ("shape", "spacing") if key in sample}
        phantom = draw_phantom(kind, seed, **options)
        return _as_image(phantom.array[None], phantom.affine, kind.upper())
    raise BundleError(f"a golden case of kind {kind!r} cannot be drawn")


def _as_image(array: NDArray[Any], affine: NDArray[np.float64], modality: str) -> Image:
    volume = array.shape[1] > 1
    return Image(
        array=np.ascontiguousarray(array),
        grid=Grid(array.shape[1:], affine, spatial=volume),
        sources=tuple(SourceFrame(f"2.25.{k + 1}", "", None, Path()) for k in range(array.shape[1])),
        study_uid="2.25.1",
        series_uid="2.25.1",
        name="2.25.1",
        modality=modality,
        photometric="RGB" if array.shape[0] == 3 else "MONOCHROME2",
        calibrated=volume,
    )


def _check_card(folder: Path) -> Check:
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return Check("card", bool(text.strip()), f"{CARD}, {len(text.split())} words" if text else f"no {CARD}")


def _check_codes(bundle: Bundle) -> Iterator[Check]:
    faults = [
        f"{spec.id}: {fault}"
        for spec in bundle.classes
        for code in (spec.category, spec.type)
        if (fault := code_fault(*code)) is not None
    ]
    yield Check("codes", not faults, "; ".join(faults) or "well-formed, check digits right")


def code_fault(value: str, scheme: str, meaning: str) -> str | None:
    """What is wrong with a coded concept, or None. SNOMED CT identifiers carry a check digit (Verhoeff)."""
    if scheme == "SCT":
        if not (value.isascii() and value.isdigit() and 6 <= len(value) <= 18 and value[0] != "0"):
            return f"{value!r} is not a SNOMED CT identifier (6 to 18 digits)"
        if value[-3:-1] not in ("00", "10"):
            return f"{value} is not the identifier of a SNOMED CT concept (partition 00 or 10)"
        if not verhoeff_holds(value):
            return f"{value} has a wrong check digit"
    elif scheme == "DCM":
        if not (value.isascii() and value.isdigit() and 6 <= len(value) <= 7):
            return f"{value!r} is not a code of DICOM's own scheme (6 or 7 digits)"
    elif not scheme.startswith("99"):
        return f"coding scheme {scheme!r} is neither SCT nor DCM nor a private one (99...)"
    return None if meaning.isprintable() else f"{meaning!r} is not printable"


def verhoeff_holds(digits: str) -> bool:
    """Whether a number's last digit is its Verhoeff check digit (dihedral group of order ten)."""
    state = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[value]
        state = _dihedral(state, value)
    return state == 0


def _dihedral(a: int, b: int) -> int:
    """Product in the dihedral group D5: 0..4 are rotations, 5..9 reflections."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b - 5) % 5
    return 5 + (a - b) % 5 if b < 5 else (a - b) % 5
