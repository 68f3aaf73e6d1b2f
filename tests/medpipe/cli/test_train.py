"""`medpipe train` as a user types it: what cannot become a bundle is said before, not after, the training."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpipe.cli.app import run

EXPERIMENTS = Path(__file__).resolve().parents[3] / "experiments"


def test_with_export_a_fault_of_the_bundle_is_known_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (EXPERIMENTS / "breast-ultrasound.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('mirrored = ["I"]', 'mirrored = ["K"]'))
    folder = (
        tmp_path / "pictures"
    )  # is not there: to be reached at all, the check would have to come too late
    out, bundle = tmp_path / "runs", tmp_path / "breast-ultrasound"
    assert run(["train", str(path), "--data", str(folder), "--out", str(out), "--export", str(bundle)]) == 2
    said = capsys.readouterr().err
    assert "mine.toml: window: mirrored: each of J, I at most once, not 'K'" in said
    assert not out.exists() and not bundle.exists()


def test_a_bundle_is_exported_where_it_can_be_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bundles are found by the name of their folder, which is their id; of a fold's run it is another one."""
    path, data = EXPERIMENTS / "breast-ultrasound.toml", ["--data", str(tmp_path)]
    assert run(["train", str(path), *data, "--export", str(tmp_path / "mine")]) == 2
    assert "name its folder breast-ultrasound" in capsys.readouterr().err
    assert (
        run(["train", str(path), *data, "--fold", "1", "--export", str(tmp_path / "breast-ultrasound")]) == 2
    )
    assert "name its folder breast-ultrasound-fold1" in capsys.readouterr().err
    (tmp_path / "breast-ultrasound").touch()
    assert run(["train", str(path), *data, "--export", str(tmp_path / "breast-ultrasound")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_a_time_that_does_not_end_is_refused(
    minutes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = EXPERIMENTS / "breast-ultrasound.toml"
    assert run(["train", str(path), "--data", str(tmp_path), "--max-minutes", minutes]) == 2
    assert "--max-minutes:" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda path: str(path.stem))
def test_every_experiment_that_is_here_could_become_a_bundle(path: Path) -> None:
    from medpipe.training import check_describable

    check_describable(path)
