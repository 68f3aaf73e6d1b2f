"""A bundle folder is checked when it is loaded: each fault is one line that names the key."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from medpipe.bundle import InputSpec, available_bundles, find_bundle, load_bundle
from medpipe.errors import BundleError, NotFound
from medpipe.process import default_bundle_ids

GOOD = """
id = "spots"
version = "1.2.0"
title = "Bright spots"
[network]
name = "phantom"
hyper = { spatial_dims = 2 }
[input]
modality = ["OP"]
channels = 3
spatial_dims = 2
working_size = [960, 1440]
scale = "fit"
normalise = { kind = "mean-std", mean = [0.5, 0.5, 0.5], std = [0.2, 0.2, 0.2] }
field = "fundus"
[[classes]]
id = "MA"
name = "Microaneurysm"
category = ["49755003", "SCT", "Morphologically abnormal structure"]
type = ["1522000", "SCT", "Microaneurysm"]
colour_cielab = [53.2, 80.1, 67.2]
threshold = 0.42
smallest = 6
[window]
patch = [512, 512]
[provenance]
data = "drawn"
licence = "Apache-2.0"
"""


def write(folder: Path, text: str = GOOD) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bundle.toml").write_text(text)
    save_file({"kernel": np.ones((1, 3, 3, 3), np.float32)}, folder / "model.safetensors")
    return folder


def test_a_sound_folder_gives_a_bundle(tmp_path: Path) -> None:
    bundle = load_bundle(write(tmp_path / "spots"))
    assert (bundle.id, bundle.version, bundle.class_ids) == ("spots", "1.2.0", ("MA",))
    assert bundle.input.working_size == (960, 1440)
    assert bundle.network_arguments() == {"in_channels": 3, "classes": 1, "spatial_dims": 2}
    assert bundle.crf.mode == "guarded" and not bundle.classes[0].crf


def test_black_is_what_the_lowest_value_becomes(tmp_path: Path) -> None:
    text = GOOD.replace("[window]", '[window]\npadding = "black"').replace("mean = [0.5,", "mean = [0.3,")
    bundle = load_bundle(write(tmp_path / "spots", text))
    assert bundle.input.black == pytest.approx((-1.5, -2.5, -2.5)) and bundle.window.padding == "black"
    own = {"modality": ["MR"], "channels": 1, "spatial_dims": 3}
    window = {"kind": "window", "low": -100, "high": 300, "mean": 0.5, "std": 0.25}
    percentile = {"kind": "percentile", "low": 1, "high": 99}
    assert [
        InputSpec.model_validate({**own, "normalise": normalise}).black
        for normalise in (window, percentile, {"kind": "z-score"})
    ] == [(-2.0,), (0.0,), None]
    scored = re.sub(r"normalise = .*", 'normalise = { kind = "z-score" }', text)
    with pytest.raises(BundleError, match="with z-score black has no value"):
        load_bundle(write(tmp_path / "scored", scored))


def test_sizes_belong_to_pictures_that_are_fitted(tmp_path: Path) -> None:
    text = GOOD.replace("threshold = 0.42", "threshold = 0.42\nscales = [0.8, 1.25]")
    assert load_bundle(write(tmp_path / "spots", text)).classes[0].scales == (0.8, 1.25)
    unscaled = text.replace('working_size = [960, 1440]\nscale = "fit"', 'scale = "none"')
    with pytest.raises(BundleError, match="scales go with input"):
        load_bundle(write(tmp_path / "other", unscaled))


def test_softmax_has_a_background_channel_more(tmp_path: Path) -> None:
    text = GOOD.replace('name = "phantom"', 'name = "phantom"\nactivation = "softmax"')
    bundle = load_bundle(write(tmp_path / "spots", text))
    assert bundle.network_arguments()["classes"] == 2 and bundle.exclusive


def test_the_hash_follows_description_and_weights(tmp_path: Path) -> None:
    folder = write(tmp_path / "spots")
    first = load_bundle(folder)
    assert load_bundle(folder).hash == first.hash
    write(folder, GOOD.replace("0.42", "0.43"))
    second = load_bundle(folder)
    assert second.hash != first.hash and second.weights_sha256 == first.weights_sha256
    save_file({"kernel": np.zeros((1, 3, 3, 3), np.float32)}, folder / "model.safetensors")
    assert load_bundle(folder).hash != second.hash


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('modality = ["OP"]', 'modality = ["op"]', "input.modality.0"),
        ("threshold = 0.42", "threshold = 1.5", "classes.0.threshold"),
        ("threshold = 0.42", "threshold = 0.42\nthreshhold = 1", "classes.0.threshhold: unknown key"),
        ('version = "1.2.0"', 'version = "1.2"', "version"),
        ('scale = "fit"', 'scale = "stretch"', "input.scale"),
        ("channels = 3", "channels = 1", 'field = "fundus" needs'),
        ('field = "fundus"', "field_degrees = 50", 'field_degrees goes with field = "fundus"'),
        ("patch = [512, 512]", "patch = [512]", "window.patch needs 2 sizes"),
        (
            "patch = [512, 512]",
            'patch = [512, 512]\nmirrored = ["K"]',
            "window: mirrored: each of J, I at most once",
        ),
        ("patch = [512, 512]", 'patch = [512, 512]\nmirrored = ["I", "I"]', "at most once, not 'I'"),
        ("threshold = 0.42", "threshold = 0.42\npeak = 0.4", "classes.0: peak must not be below threshold"),
        ("threshold = 0.42", "threshold = 0.42\nscales = [1, 9]", "classes.0.scales.1"),
        ("threshold = 0.42", "threshold = 0.42\nscales = [1, 2, 1]", "classes.0.scales: names a size twice"),
        ('kind = "mean-std"', 'kind = "histogram"', "histogram"),
        ("std = [0.2, 0.2, 0.2]", "std = [0.2]", "normalise.std needs 3 values"),
        ("std = [0.2, 0.2, 0.2]", "std = [0.2, 0.0, 0.2]", "input.normalise.std.1"),
        ('id = "spots"', 'id = "../spots"', "id: String should match"),
        ("hyper = { spatial_dims = 2 }", "hyper = { width = { x = 1 } }", "network.hyper.width"),
        ('id = "spots"', 'id = "spots', "not valid TOML"),
        ('type = ["1522000", "SCT", "Microaneurysm"]', 'type = ["1522000", "SCT"]', "classes.0.type"),
    ],
)
def test_each_fault_is_one_line_that_names_the_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(BundleError) as caught:
        load_bundle(write(tmp_path / "spots", GOOD.replace(old, new)))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_changed_weights_are_noticed_where_the_description_states_them(tmp_path: Path) -> None:
    digest = load_bundle(write(tmp_path / "spots")).weights_sha256
    stated = GOOD.replace('name = "phantom"', f'name = "phantom"\nweights_sha256 = "{digest}"')
    folder = write(tmp_path / "spots", stated)
    assert load_bundle(folder).weights_sha256 == digest
    save_file({"kernel": np.zeros((1, 3, 3, 3), np.float32)}, folder / "model.safetensors")
    with pytest.raises(BundleError, match="the weights were changed"):
        load_bundle(folder)


SUMMARY = """
[[summary]]
says = "Many"
when = { MA_count = { min = 5 }, MA_size = { max = 1000 } }
[[summary]]
says = "Something or nothing"
"""


def test_a_bundle_may_say_something_of_the_study(tmp_path: Path) -> None:
    many, rest = load_bundle(write(tmp_path / "spots", GOOD + SUMMARY)).summary
    assert many.when["MA_count"].hold(5) and not many.when["MA_count"].hold(4)
    assert many.when["MA_size"].hold(1000) and not many.when["MA_size"].hold(1001)
    assert rest.when == {}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("MA_count", "HE_count", "summary.1.when: 'HE_count' is none of MA_count, MA_size, MA_mm2, MA_ml"),
        ("MA_count", "MA_mean", "'MA_mean' is none of"),
        ("{ min = 5 }", "{}", "needs min or max"),
        ("{ min = 5 }", "{ min = 5, max = 4 }", "min must not be above max"),
        ("{ min = 5 }", '"5 < x"', "summary.0.when.MA_count"),
        ("when = { MA_count = { min = 5 }, MA_size = { max = 1000 } }", "", "never reached"),
    ],
)
def test_a_rule_that_cannot_hold_is_told(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in SUMMARY
    with pytest.raises(BundleError) as caught:
        load_bundle(write(tmp_path / "spots", GOOD + SUMMARY.replace(old, new)))
    assert says in str(caught.value) and "\n" not in str(caught.value)


MEMBERS = GOOD.replace('name = "phantom"', 'name = "phantom"\nmembers = 3')


def write_members(folder: Path, *sizes: int) -> Path:
    """The bundle of several members; `sizes` are the numbers of weights of those after the first."""
    write(folder, MEMBERS)
    for number, size in enumerate(sizes, 1):
        save_file({"kernel": np.full(size, number, np.float32)}, folder / f"model-{number}.safetensors")
    return folder


def test_each_member_is_a_bundle_of_its_own_weights(tmp_path: Path) -> None:
    bundle = load_bundle(write_members(tmp_path / "spots", 10, 20))
    assert [m.weights.name for m in bundle.members()] == [
        "model.safetensors",
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    assert len({m.weights_sha256 for m in bundle.members()} | {bundle.weights_sha256}) == 4
    assert all(m.members() == (m,) for m in bundle.members())
    alone = load_bundle(write(tmp_path / "alone" / "spots"))
    assert alone.members() == (alone,)


def test_the_hash_covers_every_member(tmp_path: Path) -> None:
    first = load_bundle(write_members(tmp_path / "spots", 10, 20))
    second = load_bundle(write_members(tmp_path / "spots", 10, 21))
    assert first.hash != second.hash and first.weights_sha256 != second.weights_sha256


def test_members_that_are_missing_too_large_or_impossible_are_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no model-2\.safetensors"):
        load_bundle(write_members(tmp_path / "missing", 10))
    with pytest.raises(BundleError, match="3 members with more than 25 MB"):
        load_bundle(write_members(tmp_path / "large", 3_500_000, 3_500_000))
    foreign = MEMBERS.replace('name = "phantom"\n', 'name = "onnx"\n')
    with pytest.raises(BundleError, match="a network of kind onnx comes alone"):
        load_bundle(write(tmp_path / "foreign", foreign))


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04\x95 pickle", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x04\0\0\0\0\0\0\0nope"]
)
def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path / "spots")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match="not a safetensors file"):
        load_bundle(folder)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "spots")
    weights = folder / "model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(BundleError, match="leads out of the bundle's folder"):
        load_bundle(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "spots")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"no model\.safetensors"):
        load_bundle(folder)


def test_bundles_are_found_by_id_in_a_folder_or_its_parent(tmp_path: Path) -> None:
    folder = write(tmp_path / "more" / "spots")
    assert find_bundle("spots", [tmp_path / "more"]).folder == folder
    assert find_bundle("spots", [folder]).folder == folder
    assert "spots" in [bundle.id for bundle in available_bundles([tmp_path / "more"])]


@pytest.mark.parametrize("bundle_id", ["nothing-like-this", "../spots", "/etc", ""])
def test_an_unknown_id_lists_the_known_ones(tmp_path: Path, bundle_id: str) -> None:
    write(tmp_path / "spots")
    with pytest.raises(NotFound, match="spots"):
        find_bundle(bundle_id, [tmp_path])


def test_a_folder_named_unlike_its_bundle_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "other")
    with pytest.raises(BundleError, match="is not the folder's name"):
        find_bundle("other", [tmp_path])


def test_each_kind_of_picture_has_one_bundle_that_nobody_needs_to_name() -> None:
    """`fundus-lesions-small` is for those who name it; the phantoms are for tests."""
    bundles = available_bundles()
    taken = {modality: default_bundle_ids(modality, bundles) for modality in ("OP", "US", "MR", "CT")}
    assert taken == {
        "OP": ("fundus-lesions",),
        "US": ("breast-ultrasound",),
        "MR": ("hippocampus",),
        "CT": (),
    }
    assert find_bundle("fundus-lesions-small").named_only
