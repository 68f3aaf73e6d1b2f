"""The frozen types that flow through one study: sound once built, so that nobody checks twice.

Arrays are (channels or classes, K, J, I); physical space is the patient's LPS in millimetres; a probability
is a float16 or float32 in 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.errors import ReasonCode

Box = tuple[int, int, int, int, int, int]
"""Half-open index box (k0, j0, i0, k1, j1, i1)."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular sampling of space.

    `shape` is (K, J, I). `affine` (4x4, float64) takes an index (i, j, k, 1), i the column, to patient LPS mm.
    `spatial=False` is a picture without patient space (a photograph): the affine is then the identity, or a
    scaling in mm per pixel where a calibration is known, and says nothing about the patient.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    spatial: bool = True

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a grid needs three sizes of at least 1, not {self.shape}")
        if self.affine.shape != (4, 4) or self.affine.dtype != np.float64:
            raise ValueError("a grid's affine is a 4x4 float64 matrix")
        if not np.isfinite(self.affine).all():
            raise ValueError("a grid's affine must be finite")
        if abs(np.linalg.det(self.affine[:3, :3])) < 1e-12:
            raise ValueError("a grid's affine must be invertible")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distances between neighbours along (k, j, i) in mm (or pixels where `spatial` is false and uncalibrated)."""
        i, j, k = (float(np.linalg.norm(self.affine[:3, axis])) for axis in range(3))
        return k, j, i

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def to_patient(self, kji: NDArray[np.float64]) -> NDArray[np.float64]:
        """Indices (..., 3) in the order (k, j, i) -> patient LPS mm (..., 3)."""
        ijk = np.asarray(kji, dtype=np.float64)[..., ::-1]
        return np.asarray(ijk @ self.affine[:3, :3].T + self.affine[:3, 3])

    def same_as(self, other: Grid, tolerance: float = 1e-4) -> bool:
        """Whether both grids sample the same places (mm tolerance)."""
        return (
            self.shape == other.shape
            and self.spatial == other.spatial
            and bool(np.allclose(self.affine, other.affine, atol=tolerance, rtol=0))
        )


@dataclass(frozen=True)
class SourceFrame:
    """The instance (and its frame, counted from 1, where it has several) that slice k came from.

    `header` is a DICOM file without pixel data, re-written by our own guarded reader: safe to open in-process.
    """

    sop_instance_uid: str
    sop_class_uid: str
    frame: int | None
    header: Path


@dataclass(frozen=True, eq=False)
class Image:
    """One picture or volume, ready for a network, on the grid it was acquired on.

    `array` is (channels, K, J, I): uint8 RGB for colour (already converted once), else one channel of modality values
    (after the modality LUT / rescale: HU for CT) in the smallest type that holds them exactly.
    MONOCHROME1 is kept as stored; `photometric` says so and preprocessing inverts it for the network only.
    `sources[k]` is the source of slice k. `calibrated` says whether sizes in mm may be reported.
    `name` is the output's name: SOP Instance UID of a picture, Series UID (`-n` when it gives several) of a volume.
    """

    array: NDArray[Any]
    grid: Grid
    sources: tuple[SourceFrame, ...]
    study_uid: str
    series_uid: str
    name: str
    modality: str
    photometric: str
    calibrated: bool
    laterality: str | None = None
    field_degrees: float | None = None
    """A photograph's horizontal field of view, where its source states one."""
    bits_stored: int = 8
    value_range: tuple[float, float] | None = None
    """Possible modality values (from bits stored, signedness and rescale), for normalisation of grey pictures."""
    padding: NDArray[np.bool_] | None = None
    """True where the source says a pixel is padding, (K, J, I)."""

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.grid.shape:
            raise ValueError(f"array {self.array.shape} does not lie on grid {self.grid.shape}")
        if len(self.sources) != self.grid.shape[0]:
            raise ValueError(f"{len(self.sources)} sources for {self.grid.shape[0]} slices")
        if self.padding is not None and self.padding.shape != self.grid.shape:
            raise ValueError("the padding mask does not lie on the grid")

    @property
    def is_volume(self) -> bool:
        return self.grid.shape[0] > 1


@dataclass(frozen=True)
class Quarantine:
    """A refusal: stable code, one sentence for a person (no patient data), the instances concerned."""

    code: ReasonCode
    sentence: str
    series_uid: str | None = None
    instances: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lesion:
    """One connected finding of one class. Axes are in mm where the image is calibrated, else in pixels."""

    class_id: str
    tracking_uid: str
    box: Box
    voxels: int
    area_mm2: float | None
    volume_ml: float | None
    long_axis: float
    short_axis: float
    mean_probability: float
    max_probability: float
    uncertainty: float | None = None
    """Mean spread (standard deviation) of its probabilities over the network's passes; None where there was one."""
    crf_refined: bool = False


@dataclass(frozen=True)
class Provenance:
    """Everything that decided the result besides the pixels; deterministic (no times, no host names)."""

    bundle_id: str
    bundle_version: str
    bundle_hash: str
    weights_sha256: str
    software_version: str
    backend: str
    precision: str
    tta: bool
    thresholds: Mapping[str, float]
    smallest: Mapping[str, int]
    """In voxels of the image's own grid."""
    crf: Mapping[str, Any]
    source_digest: str
    """SHA-256 over the sorted SOP Instance UIDs and frame numbers of the sources."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """Of classes whose lesions must somewhere be as probable as this."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a bundle says of one image, on the image's own grid.

    `mask` is bool (classes, K, J, I); `probability`, when kept, float16 of the same shape; large ones are
    memory-mapped.
    """

    image: Image
    class_ids: tuple[str, ...]
    mask: NDArray[np.bool_]
    probability: NDArray[np.float16] | None
    lesions: tuple[Lesion, ...]
    provenance: Provenance
    seconds: Mapping[str, float] = field(default_factory=dict)
    reduction: float = 1.0
    """Voxels of the image that the network saw as one."""

    def __post_init__(self) -> None:
        expected = (len(self.class_ids), *self.image.grid.shape)
        if self.mask.shape != expected or self.mask.dtype != np.bool_:
            raise ValueError(f"mask {self.mask.shape} {self.mask.dtype} is not bool {expected}")
        if self.probability is not None and self.probability.shape != expected:
            raise ValueError(f"probability {self.probability.shape} is not {expected}")

    def counts(self) -> dict[str, int]:
        """Number of lesions per class id, zeros included."""
        return {c: sum(lesion.class_id == c for lesion in self.lesions) for c in self.class_ids}


@dataclass(frozen=True)
class Result:
    """One DICOM object made from one image (or of a refused study) and one bundle, as a file."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    modality: str
    path: Path
    sha256: str
    image_name: str | None
