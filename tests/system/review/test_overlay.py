"""What a doctor sees: segmentations at the lesions' places, in their classes' colours, without a click."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

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
    """`segmented(files, truth, bundle)`: a study and the segmentation of its truth in the PACS.

    Gives the image, the truth by class name, and the address that opens both.
    """

    def make(files, truth, bundle_id):
        bundle = find_bundle(bundle_id, ())
        with GuardedReader(Reading(), uid_root="2.25") as reader:
            (image,) = reader.assemble(files, tmp_path / "scratch").images
            made = build_seg(predicted(image, bundle, truth), bundle, ResultOptions())
        result = tmp_path / "result.seg.dcm"
        result.write_bytes(made.content)
        for path in (*files, result):
            orthanc.upload(path)
        names = [spec.name for spec in bundle.classes]
        link = with_segmentation(image.study_uid, image.series_uid, made.series_instance_uid)
        return image, dict(zip(names, truth, strict=True)), link

    return make


def draw_mammogram(path):
    """A breast with one mass; of a frame of reference, but without a position in it, as mammograms are."""
    rows, columns = 900, 700
    y, x = np.mgrid[:rows, :columns]
    mass = np.hypot(y - 400, x - 200) < 40
    picture = (np.hypot(y - 450, x / 1.2) < 400) * 1200 + mass * 900
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.1.2", "MG"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.7001", "2.25.7002"
    dataset.SOPInstanceUID, dataset.FrameOfReferenceUID = "2.25.7003", "2.25.7004"
    dataset.PatientName, dataset.PatientID, dataset.PatientSex = "Sample^Mammogram", "SAMPLE-MG", "F"
    dataset.StudyDate = dataset.ContentDate = "20240229"
    dataset.StudyTime = dataset.ContentTime = "101500"
    dataset.PatientBirthDate = dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.StudyID = ""
    dataset.PositionReferenceIndicator, dataset.Manufacturer = "", "drawing"
    dataset.PatientOrientation, dataset.ImageLaterality, dataset.ViewPosition = ["A", "R"], "R", "CC"
    dataset.ImageType, dataset.ImagerPixelSpacing = ["ORIGINAL", "PRIMARY"], [0.1, 0.1]
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.WindowCenter, dataset.WindowWidth = 1000, 2000
    dataset.PixelData = picture.astype(np.uint16).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return mass[None, None]


def test_a_photographs_lesions_lie_at_their_places_in_their_colours(segmented, start_site, reader, tmp_path):
    study = write_study("fundus", tmp_path, seed=3, width=1072, height=712)
    _, truth, link = segmented(study.files, read_truth(study.truth), "fundus-lesions")
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


def test_a_volumes_lesions_lie_at_their_places_on_the_slice_that_is_shown(
    segmented, start_site, reader, tmp_path
):
    study = write_study("ct", tmp_path, seed=3)
    image, truth, link = segmented(study.files, read_truth(study.truth), "phantom")
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


def test_a_mammograms_lesion_lies_at_its_place(segmented, start_site, reader, tmp_path):
    path = tmp_path / "mammogram.dcm"
    _, truth, link = segmented([path], draw_mammogram(path), "phantom-2d")
    reader.page.goto(start_site("review").origin + link)
    (name,) = truth
    reader.wait_for_segment(name)
    overlay, _ = reader.overlay()
    reader.agree(overlay, reader.on_screen(truth[name][0], overlay.shape))
