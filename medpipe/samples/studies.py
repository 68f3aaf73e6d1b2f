"""Drawn studies as real DICOM files with the truth beside them. The same arguments give the same bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from pydicom.uid import JPEGBaseline8Bit

from medpipe.errors import UsageError
from medpipe.identity import safe_name, uid_from
from medpipe.samples import KINDS, objects

_DATE, _TIME = "20240229", "101500"
_QUALITY = 93


@dataclass(frozen=True)
class SampleStudy:
    """A written study: its UID, its DICOM files, and the folder `truth` with truth.npz and truth.json."""

    study_uid: str
    files: tuple[Path, ...]
    truth: Path


def write_study(kind: str, out: Path, seed: int = 0, **options: Any) -> SampleStudy:
    """Draws a study of `kind` into `<out>/dicom/`, its truth into `<out>/truth/`.

    truth.npz holds the mask (classes, K, J, I), packed along its last axis (`read_truth` unpacks it); truth.json the
    classes, the lesions and, of volumes, the affine. `options` go to the drawing (width, height; shape, spacing,
    orientation, ...). Raises UsageError for an unknown kind or option.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    try:
        return _WRITERS[kind](kind, out, seed, options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a {kind} sample cannot be drawn so: {error}") from error


def read_truth(folder: Path) -> NDArray[np.bool_]:
    """The truth of `SampleStudy.truth` as bool (classes, K, J, I)."""
    with np.load(folder / "truth.npz") as stored:
        shape = tuple(int(size) for size in stored["shape"])
        return np.unpackbits(stored["mask"], axis=-1, count=shape[-1]).astype(np.bool_)


def _fundus(kind: str, out: Path, seed: int, options: Mapping[str, Any]) -> SampleStudy:
    from medpipe.samples.fundus import CLASSES, draw_fundus

    drawn = draw_fundus(seed, lesions=kind == "fundus", **options)
    identity, sop_uid = _identity(kind, seed, options, "Fundus", "Drawn fundus photograph")
    dataset = objects.start(identity, objects.OPHTHALMIC_PHOTOGRAPHY_8_BIT, sop_uid, "OP")
    objects.add_ophthalmic(dataset, identity, drawn.laterality)
    objects.set_size(dataset, drawn.picture.shape[0], drawn.picture.shape[1], "YBR_FULL_422")
    coded = io.BytesIO()
    PillowImage.fromarray(drawn.picture).save(coded, "JPEG", quality=_QUALITY, subsampling="4:2:2")
    objects.set_jpeg(dataset, coded.getvalue())
    path = objects.save(dataset, out / "dicom" / f"{safe_name(sop_uid)}.dcm", JPEGBaseline8Bit)
    lesions = [
        {"class": lesion.class_id, "centre_yx": list(lesion.centre), "radius": round(lesion.radius, 2)}
        for lesion in drawn.lesions
    ]
    _write_truth(out / "truth", drawn.truth[:, None], {"classes": list(CLASSES), "lesions": lesions})
    return SampleStudy(identity.study_uid, (path,), out / "truth")


def _ultrasound(kind: str, out: Path, seed: int, options: Mapping[str, Any]) -> SampleStudy:
    from medpipe.samples.ultrasound import draw_ultrasound

    drawn = draw_ultrasound(seed, **options)
    rows, columns = drawn.picture.shape
    identity, sop_uid = _identity(kind, seed, options, "Ultrasound", "Drawn breast ultrasound")
    dataset = objects.start(identity, objects.ULTRASOUND, sop_uid, "US")
    objects.add_ultrasound(dataset, identity, rows, columns, drawn.spacing)
    objects.set_size(dataset, rows, columns, "MONOCHROME2")
    dataset.PixelData = drawn.picture.tobytes() + b"\0" * (drawn.picture.size % 2)
    dataset["PixelData"].VR = "OB"
    path = objects.save(dataset, out / "dicom" / f"{safe_name(sop_uid)}.dcm")
    masses = [
        {
            "class": "MASS",
            "centre_yx": list(mass.centre),
            "radius": mass.radius,
            "spiculated": mass.spiculated,
        }
        for mass in drawn.masses
    ]
    _write_truth(out / "truth", drawn.truth[None, None], {"classes": ["MASS"], "lesions": masses})
    return SampleStudy(identity.study_uid, (path,), out / "truth")


def _volume(kind: str, out: Path, seed: int, options: Mapping[str, Any]) -> SampleStudy:
    from medpipe.samples.phantom import draw_phantom
    from medpipe.samples.slices import write_slices

    drawn = draw_phantom(kind, seed, **options)
    identity, _ = _identity(kind, seed, options, kind.upper(), f"Drawn {kind.upper()} phantom")
    files = write_slices(kind, identity, drawn.array, drawn.affine, out / "dicom")
    lesions = [
        {
            "class": "LESION",
            "centre_lps": [round(x, 3) for x in lesion.centre],
            "radius_mm": round(lesion.radius, 3),
        }
        for lesion in drawn.lesions
    ]
    facts = {"classes": ["LESION"], "affine": drawn.affine.tolist(), "lesions": lesions}
    _write_truth(out / "truth", drawn.truth[None], facts)
    return SampleStudy(identity.study_uid, files, out / "truth")


def _identity(
    kind: str, seed: int, options: Mapping[str, Any], name: str, description: str
) -> tuple[objects.Identity, str]:
    """Study, series and (first) SOP Instance UID from what was asked for: other options, another study."""
    parts = ("sample", kind, str(seed), json.dumps(options, sort_keys=True, default=str))
    identity = objects.Identity(
        study_uid=uid_from("2.25", *parts),
        series_uid=uid_from("2.25", *parts, "series"),
        patient_id=f"SAMPLE-{kind.upper()}-{seed}",
        patient_name=f"Sample^{name}",
        accession_number=f"S{seed}",
        date=_DATE,
        time=_TIME,
        study_description=description,
        model="drawing",
    )
    return identity, uid_from("2.25", *parts, "instance", "0")


def _write_truth(folder: Path, mask: NDArray[np.bool_], facts: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    packed = np.packbits(mask, axis=-1)
    np.savez_compressed(folder / "truth.npz", mask=packed, shape=np.array(mask.shape, dtype=np.int64))
    (folder / "truth.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


_WRITERS: Mapping[str, Callable[[str, Path, int, Mapping[str, Any]], SampleStudy]] = {
    "fundus": _fundus,
    "fundus-healthy": _fundus,
    "ultrasound": _ultrasound,
    "ct": _volume,
    "mr": _volume,
}
