"""From a run to a bundle that loads, predicts and says on its card where its figures come from."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from numpy.typing import NDArray

from medpipe.bundle import Bundle, load_bundle
from medpipe.errors import ConfigError
from medpipe.inference import load_network
from medpipe.training import check_describable, evaluate_bundle, export_bundle, train
from medpipe.training.cross_validation import read_report
from medpipe.training.decision import SIZES, Choice
from medpipe.training.evaluation import predictions
from medpipe.training.state import CHECKPOINT
from medpipe.types import Prediction


def test_the_bundle_holds_the_averaged_network(run: Path, tmp_path: Path) -> None:
    bundle = export_bundle(run, tmp_path / "tiny")
    assert load_bundle(tmp_path / "tiny").hash == bundle.hash
    averaged = torch.load(run / CHECKPOINT, weights_only=True)["average"]
    shipped = load_network(bundle).state_dict()
    assert shipped.keys() == averaged.keys()
    for name, value in averaged.items():
        assert torch.allclose(shipped[name], value, rtol=1e-3, atol=1e-6), name
        if value.dim() <= 1:
            assert torch.equal(shipped[name], value), f"{name} normalises: it stays exact"


def test_half_precision_kernels_change_no_probability_that_matters(run: Path, tmp_path: Path) -> None:
    bundle = export_bundle(run, tmp_path / "tiny")
    shipped, exact = load_network(bundle), load_network(bundle)
    exact.load_state_dict(torch.load(run / CHECKPOINT, weights_only=True)["average"])
    torch.manual_seed(0)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        difference = torch.sigmoid(shipped(image)) - torch.sigmoid(exact(image))
    assert difference.abs().max() < 2e-3


def test_sizes_of_a_class_go_from_the_experiment_to_the_bundle_and_its_card(
    run: Path, tmp_path: Path
) -> None:
    content = tomllib.loads((run / "experiment.toml").read_text())
    content["bundle"]["classes"][0]["scales"] = [0.8, 1.25]
    (run / "experiment.toml").write_text(tomli_w.dumps(content))
    bundle = export_bundle(run, tmp_path / "tiny")
    assert [c.scales for c in bundle.classes] == [(0.8, 1.25), *[(1.0,)] * (len(bundle.classes) - 1)]
    lines = (tmp_path / "tiny" / "CARD.md").read_text().splitlines()
    table = lines[lines.index("## Thresholds") + 2 :]
    assert table[0].startswith("| class | name | sizes seen | threshold |")
    assert f"{bundle.classes[0].name} | 0.8 and 1.25 | 0.5 |" in table[2]
    assert "| 1 | 0.5 |" in table[3]


def test_a_peak_that_was_chosen_is_in_the_bundle_and_on_its_card(
    run: Path, drawn_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is chosen on so small a network tells nothing: the choice is given."""

    def chosen(bundle: Bundle, *_: object) -> dict[str, Choice]:
        return {
            c.id: Choice(0.01, 10**5, None) if n else Choice(0.4, 2, 0.7)
            for n, c in enumerate(bundle.classes)
        }

    monkeypatch.setattr("medpipe.training.export.choose", chosen)
    bundle = export_bundle(run, tmp_path / "tiny", data=drawn_data)
    assert [c.peak for c in bundle.classes] == [0.7, *[None] * (len(bundle.classes) - 1)]
    card = (tmp_path / "tiny" / "CARD.md").read_text()
    assert f"| {bundle.classes[0].name} | 0.4 | 0.7 | 2 |" in card
    assert f"| {bundle.classes[1].name} | 0.01 | - | 100000 |" in card

    def right(*asked: Any) -> Iterator[tuple[Prediction, NDArray[np.bool_]]]:
        for prediction, truth in predictions(*asked):
            yield replace(prediction, probability=(0.9 * truth).astype(np.float16)), truth

    monkeypatch.setattr("medpipe.training.evaluation.predictions", right)
    report = evaluate_bundle(tmp_path / "tiny", data=drawn_data, folds=run / "folds.toml", fold=0)
    assert [s.froc.threshold for s in report.classes] == [0.4, *[0.01] * (len(bundle.classes) - 1)]
    assert report.classes[0].froc.found.any()
    assert not any(s.froc.found.any() for s in report.classes[1:]), "no lesion is so large"


def test_with_data_thresholds_are_chosen_and_the_card_tells_the_figures(
    run: Path, drawn_data: Path, tmp_path: Path
) -> None:
    bundle = export_bundle(run, tmp_path / "tiny", data=drawn_data, report_into=run / "report")
    assert all(0.05 <= c.threshold <= 0.95 and c.smallest in SIZES for c in bundle.classes)
    card = (tmp_path / "tiny" / "CARD.md").read_text()
    assert "chosen on 1 pictures that were not trained on: drawn_1" in card
    assert (
        "measured on the 1 pictures of fold 0, in no training step and no choice of thresholds: drawn_0"
        in card
    )
    report = evaluate_bundle(tmp_path / "tiny", data=drawn_data, folds=run / "folds.toml", fold=0)
    assert report.table() in card
    assert "Over no other folds or runs: no spread is known." in card
    content = read_report(run)
    assert (content["grid"], content["fold"], content["worst"]) == ("native resolution", 0, ["drawn_0"])
    assert [content["classes"][s.class_id]["aupr"] for s in report.classes] == [
        s.pooled.aupr for s in report.classes
    ]
    assert (run / "report" / "index.html").is_file()


def test_a_network_that_every_fold_trained_is_measured_on_its_threshold_pictures(
    experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    experiment.write_text(experiment.read_text().replace("held_out = 0", 'held_out = "none"'))
    run = train(experiment, data=drawn_data, out=tmp_path / "runs", device="cpu", report=True).run
    assert read_report(run)["pictures"] == ["drawn_1"]
    export_bundle(run, tmp_path / "tiny", data=drawn_data, report_into=run / "report")
    assert (read_report(run)["pictures"], read_report(run)["fold"]) == (["drawn_1"], None)
    card = (tmp_path / "tiny" / "CARD.md").read_text()
    assert "trained on 4 pictures of every fold" in card
    assert "measured on those same pictures, no fold being held out" in card


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b["classes"][1].update(scales=[1, 1]), "tiny.toml: classes.1.scales: names a size twice"),
        (lambda b: b["window"].update(overlap=1.5), "tiny.toml: window.overlap: "),
        (lambda b: b.update(windows={}), r"tiny.toml: \[bundle\] has no windows"),
        (lambda b: b["card"].update(failurs="x"), r"tiny.toml: \[bundle\] has no card.failurs"),
        (lambda b: b["classes"].pop(), "bundle.classes: MA, HE, EX, but data.classes: "),
    ],
)
def test_what_no_bundle_could_be_written_from_is_known_before_the_training(
    experiment: Path, change: Callable[[Any], Any], says: str
) -> None:
    check_describable(experiment)
    content = tomllib.loads(experiment.read_text())
    change(content["bundle"])
    experiment.write_text(tomli_w.dumps(content))
    with pytest.raises(ConfigError, match=says):
        check_describable(experiment)


def test_an_export_that_fails_leaves_the_bundle_that_was_there(
    run: Path, drawn_data: Path, tmp_path: Path
) -> None:
    """Its thresholds were measured: those of .5 beside them would be taken for as good."""
    bundle = tmp_path / "bundles" / "tiny"
    export_bundle(run, bundle)
    (bundle / "golden.npz").write_bytes(b"of the site")
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    broken = Path(shutil.copytree(drawn_data, tmp_path / "broken"))
    (broken / "masks" / "drawn_1.png").write_bytes(b"no picture")
    for folder in (bundle, tmp_path / "bundles" / "new"):
        with pytest.raises(ConfigError, match=r"drawn_1\.png"):
            export_bundle(run, folder, data=broken)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert [path.name for path in bundle.parent.iterdir()] == ["tiny"]
    export_bundle(run, bundle, data=drawn_data)
    assert (bundle / "golden.npz").read_bytes() == b"of the site"
    assert (bundle / "CARD.md").read_bytes() != before["CARD.md"]


def test_without_data_the_card_says_that_nothing_was_measured(run: Path, tmp_path: Path) -> None:
    bundle = export_bundle(run, tmp_path / "tiny")
    assert {c.threshold for c in bundle.classes} == {0.5}
    assert "Nothing was measured" in (tmp_path / "tiny" / "CARD.md").read_text()


def test_a_run_without_a_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    (run / CHECKPOINT).unlink()
    with pytest.raises(ConfigError, match="train first"):
        export_bundle(run, tmp_path / "tiny")


def test_the_card_tells_what_the_crf_was_measured_to_change(
    tmp_path: Path, drawn_data: Path, experiment: Path
) -> None:
    """One threshold picture has no spread, so by the rule no class uses the CRF; one class states that it does."""
    content = tomllib.loads(experiment.read_text())
    content["decision"] = {"crf": "measure"}
    content["bundle"]["classes"][1]["crf"] = True
    content["bundle"]["summary"] = [{"says": "Anything", "when": {"HE_count": {"min": 1}}}]
    experiment.write_text(tomli_w.dumps(content))
    finished = train(experiment, data=drawn_data, out=tmp_path / "runs", device="cpu").run
    bundle = export_bundle(finished, tmp_path / "tiny", data=drawn_data)
    assert [c.crf for c in bundle.classes] == [False, True, False, False]
    assert bundle.summary[0].says == "Anything"
    card = (tmp_path / "tiny" / "CARD.md").read_text()
    assert "| gain in Dice by the CRF |" in card
    assert (
        "no interval: 1 of the pictures have the class" in card and "unless the experiment states it" in card
    )
