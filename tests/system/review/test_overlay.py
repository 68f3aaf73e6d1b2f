"""What a doctor sees: segmentations at the lesions' places, in their classes' colours, without a click."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medpipe.bundle import find_bundle
from medpipe.config import Reading
from medpipe.dicom import GuardedReader
from medpipe.results import ResultOptions
from medpipe.results.seg import build_seg
from medpipe.review.links import with_segmentation
from medpipe.samples import read_truth, write_study
from medpipe.types import Prediction, Provenance


def predicted(image, bundle, truth):
    """A prediction that is the truth."""
    provenance = Provenance(
        bundle_id=bundle.id, bundle_version=bundle.version, bundle_hash=bundle.hash,
        weights_sha256=bundle.weights_sha256, software_version="0.1.0", backend="torch", precision="f32", tta=False,
        thresholds={}, smallest={}, crf={}, source_digest="0" * 64,
    )  # fmt: skip
    return Prediction(image, bundle.class_ids, truth, None, (), provenance)


@pytest.fixture
def segmented(orthanc, tmp_path):
    """`segmented(kind, bundle)`: a drawn study and the segmentation of its truth in the PACS; (image, truth, link)."""

    def make(kind, bundle_id, **options):
        study = write_study(kind, tmp_path / kind, seed=3, **options)
        truth = read_truth(study.truth)
        with GuardedReader(Reading(), uid_root="2.25") as reader:
            (image,) = reader.assemble(study.files, tmp_path / "scratch").images
            bundle = find_bundle(bundle_id, ())
            made = build_seg(predicted(image, bundle, truth), bundle, ResultOptions())
        result = tmp_path / "result.seg.dcm"
        result.write_bytes(made.content)
        for path in (*study.files, result):
            orthanc.upload(Path(path))
        names = [spec.name for spec in bundle.classes]
        link = with_segmentation(image.study_uid, image.series_uid, made.series_instance_uid)
        return image, dict(zip(names, truth, strict=True)), link

    return make


def test_a_photographs_lesions_lie_at_their_places_in_their_colours(segmented, start_site, reader):
    _, truth, link = segmented("fundus", "fundus-lesions", width=1072, height=712)
    reader.page.goto(start_site("review").origin + link)
    reader.wait_for_segment("Hard exudates")
    overlay, picture = reader.overlay()
    shape = overlay.shape
    expected = {name: reader.on_screen(plane[0], shape) for name, plane in truth.items()}
    reader.agree(overlay, np.any(list(expected.values()), axis=0))
    colours = reader.segments()
    assert list(colours) == list(truth)
    for name, place in expected.items():
        others = np.any([reader.near(expected[other], 3) for other in truth if other != name], axis=0)
        pixels = picture[overlay & reader.near(place) & ~others].astype(int)
        distance = {other: np.abs(pixels - colour).max(axis=-1) for other, colour in colours.items()}
        assert (distance[name] < 40).any(), f"{name} is not drawn in its colour"
        wrong = [other for other in colours if other != name and (distance[other] < 40).any()]
        assert wrong == [], f"{name} is drawn in the colour of {wrong}"


def test_a_volumes_lesions_lie_at_their_places_on_the_slice_that_is_shown(segmented, start_site, reader):
    image, truth, link = segmented("ct", "phantom")
    reader.page.goto(start_site("review").origin + link)
    (name,) = truth
    reader.wait_for_segment(name)
    shown = reader.page.evaluate(
        "() => [...services.cornerstoneViewportService.viewportsById.keys()].map(id =>"
        " services.cornerstoneViewportService.getCornerstoneViewport(id).getCurrentImageId())"
    )
    (k,) = [k for k, source in enumerate(image.sources) if f"/{source.sop_instance_uid}/" in shown[0]]
    assert truth[name][k].any()  # it jumps to a slice with a lesion
    overlay, _ = reader.overlay()
    reader.agree(overlay, reader.on_screen(truth[name][k], overlay.shape))
