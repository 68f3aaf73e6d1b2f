"""nnU-Net's folders: both generations of dataset.json, regions, channels, and what is wrong with them in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medpipe.bundle import InputSpec
from medpipe.dicom.nifti import read_nifti
from medpipe.errors import ConfigError
from medpipe.training.dicom_pairs import Label
from medpipe.training.nnunet_folder import NnunetFolder, read_dataset, values_of
from medpipe.training.sources import open_source

V1 = {"modality": {"0": "MRI"}, "labels": {"0": "background", "2": "Posterior", "1": "Anterior"}}
V2 = {
    "channel_names": {"0": "T1", "1": "T2", "2": "FLAIR"},
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "Enhancing": 3},
    "regions_class_order": [1, 2, 3],
    "numTraining": 1,
    "file_ending": ".nrrd",
}
GREY = {"modality": ["MR"], "channels": 1, "spatial_dims": 3, "normalise": {"kind": "z-score"}}


def described(folder: Path, content: object) -> Path:
    path = folder / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write(path: Path, values: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 2)) -> None:
    path.parent.mkdir(exist_ok=True)
    volume = sitk.GetImageFromArray(values)
    volume.SetSpacing(spacing)
    sitk.WriteImage(volume, str(path))


@pytest.fixture
def brain(tmp_path: Path) -> Path:
    """One case of three channels in version 2: channel n is n + 1 everywhere, labels 0 to 3 lie in four columns."""
    described(tmp_path, V2)
    for n in range(3):
        write(tmp_path / "imagesTr" / f"one_{n:04d}.nrrd", np.full((3, 4, 8), n + 1, np.int16))
    write(tmp_path / "labelsTr" / "one.nrrd", np.tile(np.repeat(np.arange(4), 2), (3, 4, 1)).astype(np.uint8))
    return tmp_path


def test_version_1_is_read_with_labels_in_order_of_their_values(tmp_path: Path) -> None:
    dataset = read_dataset(described(tmp_path, V1))
    assert list(dataset.labels.items()) == [("Anterior", (1,)), ("Posterior", (2,))]
    assert (dataset.channels, dataset.ending) == (1, None)


def test_version_2_is_read_with_regions_in_the_order_written(tmp_path: Path) -> None:
    dataset = read_dataset(described(tmp_path, V2))
    assert list(dataset.labels.items()) == [("whole", (1, 2, 3)), ("core", (2, 3)), ("Enhancing", (3,))]
    assert (dataset.channels, dataset.ending) == (3, ".nrrd")


def test_classes_are_matched_by_name_in_any_case_else_in_order(tmp_path: Path) -> None:
    path = described(tmp_path, V1)
    dataset = read_dataset(path)
    assert values_of([Label("posterior"), Label("x", "ANTERIOR")], dataset, path) == [(2,), (1,)]
    assert values_of([Label("posterior")], dataset, path) == [(2,)]
    assert values_of([Label("HEAD"), Label("TAIL")], dataset, path) == [(1,), (2,)]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["Anterior", "TAIL"], "no label is named TAIL; there are Anterior, Posterior"),
        (["HEAD"], "1 classes"),
    ],
)
def test_classes_that_may_be_any_label_are_refused(classes: list[str], said: str, tmp_path: Path) -> None:
    path = described(tmp_path, V1)
    with pytest.raises(ConfigError, match=said):
        values_of([Label(c) for c in classes], read_dataset(path), path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "needs labels"),
        ({"labels": ["a"]}, "needs labels"),
        ({"labels": {"a": "b"}}, "label 'a' is neither"),
        ({"labels": {"a": []}}, "label 'a' is neither"),
        ({"labels": {"a": 1, "ignore": 2}}, "label to ignore"),
        ({"labels": {"a": 1}, "file_ending": ".png"}, "file_ending '.png'"),
    ],
)
def test_what_is_wrong_with_a_dataset_is_said_in_one_line(content: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_dataset(described(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert "dataset.json" in str(caught.value)


def test_channels_and_regions_of_a_case_are_read(brain: Path) -> None:
    source = NnunetFolder(brain, "MR", 3, [Label("core"), Label("enhancing"), Label("whole")])
    image = source.image("one")
    assert image.array.shape == (3, 3, 4, 8)
    assert image.array[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert image.grid.spacing == (2, 1, 1)
    truth = source.truth("one", 3)
    assert [np.flatnonzero(mask[0, 0]).tolist() for mask in truth] == [
        [4, 5, 6, 7],
        [6, 7],
        [2, 3, 4, 5, 6, 7],
    ]
    assert source.groups() == {"one": "one"}


def test_a_volumes_range_is_its_files_as_process_takes_it(tmp_path: Path) -> None:
    write(tmp_path / "imagesTr" / "one.nii.gz", np.linspace(-50, 3000, 96).reshape(4, 4, 6).astype(np.int16))
    plain = read_nifti(tmp_path / "imagesTr" / "one.nii.gz", tmp_path, {"maximum_pixels": 10**6})
    assert NnunetFolder(tmp_path, "MR").image("one").value_range == tuple(plain["value_range"]) == (-50, 3000)


def test_the_number_of_channels_is_the_experiments(brain: Path) -> None:
    with pytest.raises(ConfigError, match=r"3 channel\(s\), but input.channels of the experiment is 1"):
        open_source(brain, InputSpec.model_validate(GREY))
    assert open_source(brain, None).groups() == {"one": "one"}


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("described_so", [V1, None], ids=["version 1", "no dataset.json"])
def test_files_may_end_as_they_do_where_nothing_is_said(
    ending: str, described_so: object, tmp_path: Path
) -> None:
    if described_so is not None:
        described(tmp_path, described_so)
    write(tmp_path / "imagesTr" / f"one{ending}", np.full((3, 4, 8), 5, np.int16))
    write(tmp_path / "labelsTr" / f"one{ending}", np.ones((3, 4, 8), np.uint8))
    folder = NnunetFolder(tmp_path)
    assert folder.groups() == {"one": "one"}
    assert folder.image("one").array.max() == 5 and folder.truth("one", 1).all()
    write(
        tmp_path / "labelsTr" / ("two.nii" if ending == ".mha" else "two.mha"), np.ones((3, 4, 8), np.uint8)
    )
    with pytest.raises(
        ConfigError, match=r"labelsTr: files end in \.\w+(\.gz)? and \.\w+; name one in dataset"
    ):
        NnunetFolder(tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 1, 2, 7], r"has the value\(s\) 7; dataset.json names 0, 1, 2, 3"),
        ([0, 255], r"has the value\(s\) 255"),
        ([0, 0.5, 1], "labels are whole numbers"),
        ([0, np.nan, 1], "labels are whole numbers"),
    ],
)
def test_labels_that_nobody_names_are_refused(values: list[float], said: str, brain: Path) -> None:
    label = brain / "labelsTr" / "one.nrrd"
    write(label, np.resize(np.array(values, np.float32), (3, 4, 8)))
    with pytest.raises(ConfigError, match=f"one.nrrd: {said}"):
        NnunetFolder(brain).truth("one", 3)


def test_labels_kept_as_floats_are_rounded(brain: Path) -> None:
    before = NnunetFolder(brain).truth("one", 3)
    label = brain / "labelsTr" / "one.nrrd"
    write(label, sitk.GetArrayFromImage(sitk.ReadImage(str(label))).astype(np.float32) * np.float32(0.99999))
    assert before.any() and np.array_equal(NnunetFolder(brain).truth("one", 3), before)


def test_a_volume_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        write(tmp_path / part / "one.nii.gz", np.arange(96, dtype=np.int16).reshape(3, 4, 8) % 2)
    label = tmp_path / "labelsTr" / "one.nii.gz"
    label.write_bytes(label.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=r"labelsTr/one.nii.gz: the NIfTI file is cut off"):
        NnunetFolder(tmp_path).truth("one", 1)


def test_files_of_a_case_that_lie_apart_are_refused(brain: Path) -> None:
    source = NnunetFolder(brain, "MR", 3)
    write(brain / "labelsTr" / "one.nrrd", np.zeros((3, 4, 8), np.uint8), (1, 1, 3))
    with pytest.raises(ConfigError, match=r"one\.nrrd: does not lie where the volume"):
        source.truth("one", 3)
    write(brain / "imagesTr" / "one_0002.nrrd", np.zeros((3, 4, 8), np.int16), (1, 2, 2))
    with pytest.raises(ConfigError, match=r"one_0002\.nrrd: does not lie where the first channel"):
        source.image("one")


def test_a_missing_channel_and_a_file_that_is_no_volume_are_named(brain: Path) -> None:
    source = NnunetFolder(brain, "MR", 3)
    (brain / "imagesTr" / "one_0001.nrrd").write_bytes(b"no volume")
    with pytest.raises(ConfigError, match=r"one_0001\.nrrd: cannot be read"):
        source.image("one")
    (brain / "imagesTr" / "one_0001.nrrd").unlink()
    with pytest.raises(ConfigError, match=r"no volume imagesTr/one_0001\.nrrd$"):
        source.image("one")


def test_a_case_is_stamped_with_its_labels_and_what_they_mean(brain: Path) -> None:
    before = NnunetFolder(brain, "MR", 3).stamp("one")
    assert before == NnunetFolder(brain, "MR", 3).stamp("one")
    other = [Label("whole"), Label("core"), Label("enhancing")]
    assert before != NnunetFolder(brain, "MR", 3, other).stamp("one")
    write(brain / "labelsTr" / "one.nrrd", np.ones((3, 4, 9), np.uint8))
    assert before != NnunetFolder(brain, "MR", 3).stamp("one")


def test_the_decathlons_hippocampus_is_read_by_name_and_in_order(shared_data: Path) -> None:
    folder, spec = shared_data / "hippocampus", InputSpec.model_validate(GREY)
    named = open_source(folder, spec, [Label("posterior"), Label("anterior")])
    ordered = open_source(folder, spec, [Label("ANT", "Anterior hippocampus"), Label("POST")])
    assert len(named.groups()) == 208
    back, front = named.truth("hippocampus_003", 2)
    assert front.any() and back.any()
    assert np.array_equal(ordered.truth("hippocampus_003", 2), [front, back])
