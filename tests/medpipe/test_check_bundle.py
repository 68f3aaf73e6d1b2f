"""A bundle's self-test notices changed weights, wrong codes and answers that moved."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medpipe.bundle import SHIPPED, available_bundles, load_bundle
from medpipe.check_bundle import block_means, check_bundle, code_fault, verhoeff_holds, write_golden
from medpipe.errors import BundleError
from nets.phantom import Phantom


@pytest.fixture
def phantom(tmp_path: Path) -> Path:
    """A copy of the 3-D test bundle."""
    return Path(shutil.copytree(SHIPPED / "phantom", tmp_path / "phantom"))


@pytest.mark.parametrize("name", ["phantom", "phantom-2d"])
def test_the_test_bundles_are_what_they_were_when_made(name: str) -> None:
    report = check_bundle(SHIPPED / name)
    assert report.passed, "\n".join(report.lines)


@pytest.mark.parametrize("name", ["phantom", "phantom-2d"])
def test_the_test_bundles_weights_are_the_networks_own(name: str) -> None:
    bundle = load_bundle(SHIPPED / name)
    written = load_file(bundle.weights)
    fixed = Phantom(**bundle.network_arguments()).state_dict()
    assert written.keys() == fixed.keys() and all(torch.equal(written[k], fixed[k]) for k in fixed)


def test_every_shipped_bundle_has_well_formed_codes() -> None:
    for bundle in available_bundles():
        for spec in bundle.classes:
            assert code_fault(*spec.category) is None and code_fault(*spec.type) is None, (bundle.id, spec.id)


def test_changed_weights_fail_the_golden_case(phantom: Path) -> None:
    weights = load_file(phantom / "model.safetensors")
    weights["compare.bias"] += 3
    save_file(weights, phantom / "model.safetensors")
    report = check_bundle(phantom)
    failed = [check.name for check in report.checks if not check.passed]
    assert "hash" in failed and any("probabilities" in name for name in failed)
    assert any(line.startswith("FAIL hash: the bundle was changed") for line in report.lines)


def test_golden_means_that_moved_are_noticed(phantom: Path) -> None:
    golden = json.loads((phantom / "golden.json").read_text())
    golden["block_means"]["LESION"][0][0][0] += 0.02
    golden["lesions"]["LESION"] += 5
    (phantom / "golden.json").write_text(json.dumps(golden))
    report = check_bundle(phantom)
    assert [check.passed for check in report.checks if "golden" in check.name] == [False, False]


def test_a_network_that_finds_nothing_fails_where_one_lesion_is_expected(phantom: Path) -> None:
    """One more or less is allowed, but none at all is no answer."""
    weights = load_file(phantom / "model.safetensors")
    weights["compare.bias"] -= 1000
    save_file(weights, phantom / "model.safetensors")
    golden = json.loads((phantom / "golden.json").read_text())
    golden["lesions"]["LESION"] = 1
    (phantom / "golden.json").write_text(json.dumps(golden))
    lesions = [check for check in check_bundle(phantom).checks if check.name.endswith("lesions")]
    assert lesions and not any(check.passed for check in lesions)


def test_a_network_that_gives_no_numbers_fails(phantom: Path) -> None:
    weights = load_file(phantom / "model.safetensors")
    weights["compare.bias"] *= float("nan")
    save_file(weights, phantom / "model.safetensors")
    report = check_bundle(phantom)
    assert not report.passed and any("no numbers" in line for line in report.lines)


def test_any_member_that_changed_is_noticed(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED / "phantom-2d", tmp_path / "phantom-2d"))
    text = (folder / "bundle.toml").read_text().replace("[network]", "[network]\nmembers = 2")
    (folder / "bundle.toml").write_text(text)
    shutil.copy(folder / "model.safetensors", folder / "model-1.safetensors")
    write_golden(folder)
    assert check_bundle(folder).passed
    weights = load_file(folder / "model-1.safetensors")
    weights["compare.bias"] += 3
    save_file(weights, folder / "model-1.safetensors")
    report = check_bundle(folder)
    failed = [check.name for check in report.checks if not check.passed]
    assert "hash" in failed and any("probabilities" in name for name in failed)


def test_a_golden_case_can_be_written_anew(phantom: Path) -> None:
    (phantom / "golden.json").unlink()
    assert not check_bundle(phantom).passed
    write_golden(phantom)
    assert check_bundle(phantom).passed
    assert json.loads((phantom / "golden.json").read_text()) == json.loads(
        (SHIPPED / "phantom" / "golden.json").read_text()
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}'])
def test_a_spoiled_golden_case_is_one_line(phantom: Path, text: str) -> None:
    (phantom / "golden.json").write_text(text)
    report = check_bundle(phantom)
    assert not report.passed and report.checks[-1].name == "bundle" and "golden" in report.checks[-1].found


def test_a_missing_card_is_noticed(phantom: Path) -> None:
    (phantom / "CARD.md").unlink()
    assert [check.name for check in check_bundle(phantom).checks if not check.passed] == ["card"]


def test_an_unsound_folder_is_a_report_too(tmp_path: Path) -> None:
    report = check_bundle(tmp_path)
    assert not report.passed and report.lines[0].startswith("FAIL bundle:")
    with pytest.raises(BundleError):
        write_golden(tmp_path)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (("52988006", "SCT", "Lesion"), None),
        (("52988005", "SCT", "Lesion"), "check digit"),
        (("59288006", "SCT", "Lesion"), "check digit"),  # two digits exchanged
        (("T-D0050", "SCT", "Tissue"), "not a SNOMED CT identifier"),
        (("111030", "DCM", "Image Region"), None),
        (("DCM1", "DCM", "Image Region"), "DICOM's own scheme"),
        (("X1", "99OURS", "Something"), None),
        (("X1", "SNM3", "Something"), "neither SCT nor DCM"),
    ],
)
def test_codes(code: tuple[str, str, str], fault: str | None) -> None:
    found = code_fault(*code)
    assert found is None if fault is None else found is not None and fault in found


def test_check_digits() -> None:
    assert verhoeff_holds("2363") and not verhoeff_holds("2364")
    digits = "52988006"
    wrong = [digits[:n] + str((int(digits[n]) + 1) % 10) + digits[n + 1 :] for n in range(len(digits))]
    assert verhoeff_holds(digits) and not any(verhoeff_holds(w) for w in wrong)


@pytest.mark.parametrize("shape", [(1, 100, 37), (12, 20, 5)])
def test_block_means_keep_the_mean(shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).random(shape)
    means = block_means(values)
    assert means.size <= 512 and abs(means.mean() - values.mean()) < 0.02
    assert np.allclose(block_means(np.full(shape, 0.25)), 0.25)
