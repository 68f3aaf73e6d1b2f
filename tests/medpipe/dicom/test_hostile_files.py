"""Every kind of broken file of docs/security.md: what becomes of it, and that the study's others are read."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import file_mutations
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEGBaseline8Bit,
    RLELossless,
)

from medpipe.config import Reading
from medpipe.dicom import GuardedReader
from medpipe.errors import Refused
from medpipe.samples import write_study

from .hostile_files import READ, REFUSED, assembled, bomb, file_of


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_its_reason_and_the_other_picture_of_the_study_is_read(
    name: str, reader: GuardedReader, sound: Path, tmp_path: Path
) -> None:
    make, code = REFUSED[name]
    other, assembly = assembled(make(pydicom.dcmread(sound)), sound, reader, tmp_path)
    assert [refusal.code.value for refusal in assembly.refused] == [code]
    assert [image.name for image in assembly.images] == [other]


@pytest.mark.parametrize("name", READ)
def test_it_is_odd_but_says_all_that_is_needed_and_is_read(
    name: str, reader: GuardedReader, sound: Path, tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(sound)
    truth = dataset.pixel_array
    _, assembly = assembled(READ[name](dataset), sound, reader, tmp_path)
    assert not assembly.refused
    image, _ = sorted(assembly.images, key=lambda image: image.name == "2.25.99")
    if image.photometric == "RGB":  # the palette: past its end its last colour stands
        truth = np.clip(truth, 0, 3) + 1
    np.testing.assert_array_equal(image.array[0, 0], truth)


@pytest.mark.parametrize("spacing", ["1e300", "1e-300", "-0.3", "0", "1e5"])
def test_a_picture_with_an_impossible_spacing_is_measured_in_pixels(
    spacing: str, reader: GuardedReader, sound: Path, tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(sound)
    del dataset.SequenceOfUltrasoundRegions
    dataset.PixelSpacing = [spacing, spacing]
    _, assembly = assembled(file_of(dataset), sound, reader, tmp_path)
    assert sorted(image.calibrated for image in assembly.images) == [False, True]


@pytest.mark.parametrize(
    ("ratio", "height"),
    [(["4", "3"], 4 / 3), (["1", "1"], 1), (["0", "3"], 1), (["900", "1"], 1), (["4"], 1), (None, 1)],
)
def test_an_aspect_ratio_says_how_high_the_pixels_of_a_picture_are(
    ratio: list[str] | None, height: float, reader: GuardedReader, sound: Path, tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(sound)
    del dataset.SequenceOfUltrasoundRegions
    dataset.PixelAspectRatio = ratio
    _, assembly = assembled(file_of(dataset), sound, reader, tmp_path)
    (image,) = (image for image in assembly.images if not image.calibrated)
    assert image.grid.spacing == pytest.approx((1, height, 1))


def large_in_little(dataset: Dataset) -> bytes:
    """16,000 x 16,000 grey values in four megabytes: sound, and too much for a reader of little memory."""
    side = 16_000
    segment = b"\x81\x00" * (side * side // 128)
    dataset.Rows = dataset.Columns = side
    dataset.PixelData = encapsulate([struct.pack("<16I", 1, 64, *[0] * 14) + segment])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return file_of(dataset, RLELossless)


def test_a_picture_that_breaks_the_reader_is_left_out_and_the_others_are_read(
    sound: Path, tmp_path: Path
) -> None:
    with GuardedReader(Reading(memory=200_000_000)) as small:
        other, assembly = assembled(large_in_little(pydicom.dcmread(sound)), sound, small, tmp_path)
    assert [refusal.code.value for refusal in assembly.refused] == ["MEMORY_LIMIT"]
    assert assembly.refused[0].instances == (str(pydicom.dcmread(sound).SOPInstanceUID),)
    assert [image.name for image in assembly.images] == [other]


def test_a_study_of_many_instances_that_break_the_reader_is_refused(
    sound: Path, reader: GuardedReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medpipe.dicom.guarded._MOST_BROKEN", 0)
    with pytest.raises(Refused) as refused:
        assembled(bomb(pydicom.dcmread(sound)), sound, reader, tmp_path)
    assert refused.value.code == "MEMORY_LIMIT"


def test_the_markers_of_a_jpeg_say_how_colour_is_coded(reader: GuardedReader, tmp_path: Path) -> None:
    (path,) = write_study("fundus", tmp_path, seed=1, width=256, height=192).files
    (truth,) = reader.assemble([path], tmp_path / "truth").images
    lying = pydicom.dcmread(path)
    lying.PhotometricInterpretation = "RGB"
    path.write_bytes(file_of(lying, JPEGBaseline8Bit))
    (image,) = reader.assemble([path], tmp_path / "scratch").images
    np.testing.assert_array_equal(image.array, truth.array)


def test_a_fuzzed_file_is_read_or_refused_and_its_neighbours_always_read(tmp_path: Path) -> None:
    """bench/file_mutations.py does thousands."""
    studies = random.Random(0).sample(file_mutations.sound_studies(tmp_path), 12)
    with GuardedReader(Reading(memory=400_000_000, seconds=60)) as reader:
        child = reader.warm_up()
        ends = [outcome for _, outcome in file_mutations.outcomes(reader, studies, range(150), tmp_path)]
        assert child is None and reader._child is not None and reader._child.poll() is None
    assert len(ends) == 150 and "nothing" not in ends
    assert {"image", "BAD_PIXELS", "BAD_HEADER"} <= set(ends)


def test_what_a_mutation_writes_is_what_its_seed_says(tmp_path: Path) -> None:
    studies = file_mutations.sound_studies(tmp_path)[:3]
    one, other = (file_mutations.mutated(random.Random(7), studies)[1] for _ in range(2))
    assert one == other != studies[0].files[0]
    assert pydicom.dcmread(io.BytesIO(studies[0].files[0])).Modality == "OP"
