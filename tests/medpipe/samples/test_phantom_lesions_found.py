"""The test bundle for volumes finds the drawn lesions, all of them and nothing else, whichever way the slices lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import ndimage

from medpipe.bundle import SHIPPED, load_bundle
from medpipe.config import Reading
from medpipe.dicom import GuardedReader
from medpipe.inference import load_backend, predict
from medpipe.samples import read_truth, write_study
from medpipe.samples.phantom import AXIAL, CORONAL, draw_phantom

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


@pytest.mark.parametrize(
    ("kind", "orientation", "spacing"),
    [("ct", AXIAL, (2.5, 1.0, 1.3)), ("mr", CORONAL, (2.0, 1.2, 1.0)), ("ct", OBLIQUE, (1.5, 1.0, 1.0))],
)
def test_the_phantom_bundle_finds_exactly_the_lesions(
    kind: str, orientation: tuple[float, ...], spacing: tuple[float, float, float], tmp_path: Path
) -> None:
    options = {"shape": (30, 80, 72), "spacing": spacing, "orientation": orientation}
    study = write_study(kind, tmp_path / "study", 11, **options)
    bundle = load_bundle(SHIPPED / "phantom")
    with GuardedReader(Reading()) as reader:
        (image,) = reader.assemble(study.files, tmp_path).images
    found = predict(image, bundle, load_backend(bundle), tmp_path)
    lesions = draw_phantom(kind, 11, **options).lesions
    assert len(found.lesions) == len(lesions) >= 3
    truth = read_truth(study.truth)[0]
    assert not (found.mask[0] & ~ndimage.binary_dilation(truth)).any(), "more than a voxel beyond a lesion"
    assert not (ndimage.binary_erosion(truth) & ~found.mask[0]).any(), (
        "a hole more than a voxel inside a lesion"
    )
