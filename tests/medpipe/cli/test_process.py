"""`medpipe process` as a user types it: files in, results out, one line or one JSON object per input, exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from medpipe.bundle import SHIPPED
from medpipe.cli.app import run
from medpipe.samples import write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study("fundus", tmp_path / "sample", seed=1, width=320, height=256).files[0].parent


def reports(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_folder_gives_seg_and_sr(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(["process", str(study), "--bundle", "phantom-2d", "--out", str(out), "--json"]) == 0
    (report,) = reports(capsys)
    assert set(report) == {
        "input", "state", "reason", "bundle", "study", "outputs", "lesions", "uncertainty", "summary", "seconds",
    }  # fmt: skip
    assert report["state"] == "done" and report["input"] == str(study)
    assert report["uncertainty"] == {} and report["summary"] is None
    names = sorted(path.name.split(".phantom-2d.")[1] for path in out.rglob("*.*") if path.is_file())
    assert names == ["seg.dcm", "sr.dcm"]


def test_preview_probabilities_and_other_formats(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--format", "png", "--preview", "--probabilities", "--json"]
    assert run(["process", str(study), "--bundle", "phantom-2d", "--out", str(out), *options]) == 0
    (report,) = reports(capsys)
    outputs = {Path(path).name.split(".phantom-2d.")[1]: Path(path) for path in report["outputs"]}  # type: ignore[union-attr]
    assert set(outputs) == {"png", "npz", "preview.png"}
    with np.load(outputs["npz"]) as arrays:
        assert arrays["probability"].shape == (1, 1, 256, 320) and arrays["probability"].dtype == np.float16
        assert list(arrays["classes"]) == ["SPOT"]
    mask = np.array(PillowImage.open(outputs["png"]))
    assert mask.shape == (256, 320) and set(np.unique(mask)) <= {0, 1}


def test_a_camera_picture_gives_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = np.zeros((80, 120, 3), np.uint8)
    picture[20:40, 30:60] = 255
    PillowImage.fromarray(picture).save(tmp_path / "photo.png")
    command = [
        "process",
        str(tmp_path / "photo.png"),
        "--bundle",
        "phantom-2d",
        "--out",
        str(tmp_path / "out"),
    ]
    assert run(command) == 0
    mask = np.array(PillowImage.open(tmp_path / "out" / "photo.phantom-2d.png"))
    assert mask[30, 45] == 1 and mask[60, 90] == 0
    assert "1 SPOT" in capsys.readouterr().out


def test_pictures_of_one_name_keep_their_results_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the folders they lie in; where that does not tell them apart nothing is begun."""
    picture = np.zeros((80, 120, 3), np.uint8)
    for number, name in enumerate(("ann/left.png", "bob/left.png")):
        picture[20 : 40 + 10 * number, 30:60] = 255
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        PillowImage.fromarray(picture).save(tmp_path / "in" / name)
    out = tmp_path / "out"
    command = ["process", str(tmp_path / "in"), "--bundle", "phantom-2d", "--out", str(out)]
    assert run([*command, "--json"]) == 0
    assert [Path(path).relative_to(out) for report in reports(capsys) for path in report["outputs"]] == [  # type: ignore[union-attr, attr-defined]
        Path("ann/left.phantom-2d.png"),
        Path("bob/left.phantom-2d.png"),
    ]
    PillowImage.fromarray(picture).save(tmp_path / "in" / "bob" / "Left.jpg")
    shutil.rmtree(out)
    assert run(command) == 2
    assert (
        "Left.jpg and " in (said := capsys.readouterr().err) and "bob/left; process them one by one" in said
    )
    assert not out.exists()


def test_mirrored_views_tell_how_uncertain_and_the_bundle_s_rules_what_was_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(SHIPPED / "phantom-2d", tmp_path / "bundles" / "phantom-2d"))
    rules = '[[summary]]\nsays = "One spot or more"\nwhen = { SPOT_count = { min = 1 } }\n'
    (folder / "bundle.toml").write_text((folder / "bundle.toml").read_text() + rules)
    (tmp_path / "m.toml").write_text(f'[worker]\nbundle_folders = ["{tmp_path}/bundles"]\n')
    picture = np.zeros((80, 120, 3), np.uint8)
    picture[20:40, 30:60] = 255
    PillowImage.fromarray(picture).save(tmp_path / "photo.png")
    command = [
        "--config",
        str(tmp_path / "m.toml"),
        "process",
        str(tmp_path / "photo.png"),
        "--tta",
        "--json",
    ]
    assert run([*command, "--bundle", "phantom-2d", "--out", str(tmp_path / "out")]) == 0
    (report,) = reports(capsys)
    assert report["lesions"] == {"SPOT": 1}
    assert report["uncertainty"] == {"SPOT": pytest.approx(0, abs=1e-3)}, (
        "a symmetric network is sure of itself"
    )
    assert str(report["summary"]).startswith("One spot or more (a rule of the bundle")


def test_what_is_refused_says_why_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.dcm").write_bytes(b"no DICOM at all")
    assert run(["process", str(tmp_path / "broken.dcm"), "--out", str(tmp_path / "out"), "--json"]) == 3
    (report,) = reports(capsys)
    assert report["state"] == "quarantined" and str(report["reason"]).split(":")[0] in (
        "NOT_DICOM",
        "UNREADABLE",
    )
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["process", "/no/such/file", "--out", "OUT"], 2, "no such file or folder"),
        (["process", "FILE", "--out", "OUT", "--bundle", "nope"], 1, "no bundle 'nope'; known: "),
        (["process", "FILE", "--out", "OUT", "--format", "gif"], 2, "--format 'gif'"),
        (["--config", "/no/medpipe.toml", "config", "show"], 2, "/no/medpipe.toml: cannot be read"),
        (["sample", "dragon", "--out", "OUT"], 2, "dragon"),
        (["procses"], 2, "error: USAGE: No such command 'procses'"),
        (["train"], 2, "Missing argument 'EXPERIMENT.toml'; `medpipe train --help` says more"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(
    command: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.dcm").touch()
    names = {"OUT": str(tmp_path / "out"), "FILE": str(tmp_path / "file.dcm")}
    assert run([names.get(word, word) for word in command]) == code
    shown = capsys.readouterr()
    assert said in shown.err and "Traceback" not in shown.err and shown.out == ""
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1


def test_a_database_that_is_away_is_a_peer_that_cannot_be_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.toml").write_text(
        f'[site]\nroot = "{tmp_path}/root"\ndatabase = "postgresql+psycopg://nobody@127.0.0.1:9/none"\n'
    )
    assert run(["--config", str(tmp_path / "m.toml"), "status"]) == 4
    assert capsys.readouterr().err.startswith("error: DATABASE: ")


def test_a_site_without_tables_is_told_to_make_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.toml").write_text(f'[site]\nroot = "{tmp_path}/root"\n')
    assert run(["--config", str(tmp_path / "m.toml"), "status"]) == 1
    assert "run `medpipe init`" in capsys.readouterr().err
    assert run(["--config", str(tmp_path / "m.toml"), "init"]) == 0
    assert run(["--config", str(tmp_path / "m.toml"), "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 1)[1]) == []
    assert run(["--config", str(tmp_path / "m.toml"), "status", "1.2.3"]) == 1
    assert capsys.readouterr().err == "error: NOT_FOUND: study 1.2.3: nothing received under this UID\n"
    assert run(["--config", str(tmp_path / "m.toml"), "status", "--state", "lost"]) == 2


def test_no_volume_is_made_of_what_is_left_of_a_series(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last slice says its patient twice: without it the volume would be one slice shorter, and nothing show it."""
    *_, last = write_study("mr", tmp_path / "sample", seed=1, shape=(8, 32, 32)).files
    raw = last.read_bytes()
    at = raw.rindex(b"\xe0\x7f\x10\x00O")
    last.write_bytes(raw[:at] + b"\x10\x00\x20\x00LO\x04\x00ELSE" + raw[at:])
    command = ["process", str(last.parent), "--bundle", "phantom", "--out", str(tmp_path / "out"), "--json"]
    assert run(command) == 3
    told = reports(capsys)
    assert len(told) == 8 and {report["state"] for report in told} == {"quarantined"}
    assert all(str(report["reason"]).startswith("UNREADABLE") for report in told)
