"""A network learns to restore damaged patches, without any truth, and another begins with what it learned."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medpipe.errors import ConfigError
from medpipe.training import export_bundle, train
from medpipe.training.experiment import load_experiment
from medpipe.training.patches import PatchSampler
from medpipe.training.restoring import Restorer, damaged, error
from medpipe.training.state import CHECKPOINT, begin_with, build_network
from medpipe.training.ways import Restore

from .conftest import NAMES, write_experiment

CPU = torch.device("cpu")
NETWORK = {
    "name": "attention-unet",
    "hyper": {"aspp": 16, "decoder": [16, 12, 8, 8, 8], "full_stem": 4, "prior": 0.5},
}
PARTS = ["encoder", "full", "aspp", "decoder"]


def restoring(folder: Path, **sections: object) -> Path:
    path = write_experiment(folder, network=NETWORK, **sections)  # type: ignore[arg-type]
    path.write_text('task = "restore"\n' + path.read_text())
    return path


@pytest.fixture
def pictures(drawn_data: Path, tmp_path: Path) -> Path:
    """The drawn pictures without a single mask."""
    shutil.copytree(drawn_data / "images", tmp_path / "bare" / "images")
    return tmp_path / "bare"


def test_damage_hides_and_shuffles_what_it_says() -> None:
    rng = np.random.default_rng(0)
    image = torch.full((3, 64, 64), 7.0)
    hidden = damaged(image, rng, Restore(hidden=0.25, block=(4, 8), shuffled=0.5, tone=0.0))
    share = float((hidden != 7).any(dim=0).float().mean())
    assert 0.15 < share < 0.3  # shuffling leaves one value as it is; blocks overlap
    ramp = torch.arange(64 * 64.0).reshape(1, 64, 64)
    shuffled = damaged(ramp, rng, Restore(hidden=0.0, shuffled=0.5, tone=0.0))
    assert torch.equal(shuffled.flatten().sort().values, ramp.flatten())
    assert float((shuffled != ramp).float().mean()) > 0.2
    assert torch.equal(ramp, torch.arange(64 * 64.0).reshape(1, 64, 64))
    channels = torch.cat([ramp, 2 * ramp])
    together = damaged(channels, rng, Restore(hidden=0.0, shuffled=0.5, tone=0.0))
    assert torch.equal(together[1], 2 * together[0])  # a pixel keeps its colour


def test_blocks_are_of_many_sizes() -> None:
    image, rng = torch.full((1, 64, 64), 7.0), np.random.default_rng(0)
    one = Restore(hidden=0.001, block=(4, 16), shuffled=0.0, tone=0.0)  # the first block is share enough
    areas = {int((damaged(image, rng, one) != 7).sum()) for _ in range(30)}
    assert len(areas) > 10 and min(areas) >= 16 and max(areas) <= 256


def test_a_curve_keeps_the_order_of_values_and_their_ends() -> None:
    values, rng = torch.linspace(-2, 3, 4096).reshape(1, 64, 64), np.random.default_rng(1)
    for _ in range(10):
        curved = damaged(values, rng, Restore(hidden=0.0, shuffled=0.0, tone=1.0)).flatten()
        assert (curved.diff() >= 0).all()
        assert curved[0] == pytest.approx(-2)
        assert curved[-1] == pytest.approx(3, abs=1e-5)
        assert float((curved - values.flatten()).abs().max()) > 0.1


def test_only_valid_pixels_count() -> None:
    image, restored, valid = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    valid[..., :2] = 1
    restored[..., 2:] = 50
    assert float(error(restored, image, valid)) == pytest.approx(1)


def test_steps_on_one_batch_restore_it(pictures: Path, tmp_path: Path) -> None:
    trainer = Restorer(load_experiment(restoring(tmp_path)), pictures, tmp_path / "run", CPU)
    batch = trainer._cut(0, 0.0, 0)
    assert batch.target.shape == batch.image.shape == (2, 3, 64, 64)
    losses = [trainer.step(batch, 0.0) for _ in range(15)]
    assert losses[-1] < 0.7 * losses[0]


def test_what_is_to_be_restored_is_the_patch_as_it_was_damaged_anew_each_time(
    pictures: Path, tmp_path: Path
) -> None:
    path = restoring(tmp_path, restore={"tone": 0.0, "shuffled": 0.0, "hidden": 0.2})
    trainer = Restorer(load_experiment(path), pictures, tmp_path / "run", CPU)
    first, again, later = trainer._cut(0, 0.0, 0), trainer._cut(0, 0.0, 0), trainer._cut(1, 0.0, 0)
    elsewhere = trainer._cut(0, 0.0, 1)  # another process of the same run
    assert torch.equal(first.target, trainer.sampler.batch(0).image)
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.target, elsewhere.target)
    places = [(cut.image != cut.target).any(dim=1) for cut in (first, later, elsewhere)]
    assert 0.1 < float(places[0].float().mean()) < 0.3
    assert not torch.equal(places[0], places[1]) and not torch.equal(places[0], places[2])


def test_the_measure_is_one_for_all_undone_and_nothing_for_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Restorer(load_experiment(restoring(tmp_path)), pictures, tmp_path / "run", CPU)
    cases, spec = trainer.cases.measured["held_out"], trainer.spec
    sampler = PatchSampler(cases, spec.patches, spec.input, seed=spec.seed)
    whole = (sampler.batch(number).image for number in itertools.count())
    monkeypatch.setattr(trainer, "_average_of", lambda image: next(whole))
    assert trainer._measured(cases)[0]["restored"] == pytest.approx(1)
    monkeypatch.setattr(trainer, "_average_of", lambda image: image)
    assert trainer._measured(cases)[0]["restored"] == pytest.approx(0)


def test_it_learns_from_unlabelled_pictures_too(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "more" / "images").mkdir(parents=True)
    shutil.copyfile(pictures / "images" / f"{NAMES[2]}.png", tmp_path / "more" / "images" / "other.png")
    path = restoring(tmp_path, unlabelled={"folder": "more"})
    trainer = Restorer(load_experiment(path), pictures, tmp_path / "run", CPU)
    assert [case.name for case in trainer.cases.training] == [*NAMES[2:], "other"]


def test_it_sees_no_picture_that_is_measured(pictures: Path, tmp_path: Path) -> None:
    """Nor needs a mask: the folder has none."""
    trainer = Restorer(load_experiment(restoring(tmp_path)), pictures, tmp_path / "run", CPU)
    assert [case.name for case in trainer.cases.training] == NAMES[2:]
    assert {part: [c.name for c in cases] for part, cases in trainer.cases.measured.items()} == {
        "thresholds": NAMES[1:2],
        "held_out": NAMES[:1],
    }


def test_another_run_begins_with_what_it_learned(pictures: Path, drawn_data: Path, tmp_path: Path) -> None:
    first = restoring(tmp_path, budget={"steps": 2})
    report = train(first, data=pictures, out=tmp_path / "runs", device="cpu")
    assert "part of the damage that is undone" in report.summary()
    assert set(report.scores["held_out"]) == {"restored"}
    with pytest.raises(ConfigError, match="restores patches"):
        export_bundle(report.run, tmp_path / "bundle")
    begun = write_experiment(
        tmp_path,
        network={**NETWORK, "weights": "runs/tiny/checkpoint.pt", "take": PARTS},
        budget={"steps": 1},
    )
    spec = load_experiment(begun)
    network, learned = build_network(spec), torch.load(report.run / CHECKPOINT, weights_only=True)["average"]
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    assert spec.network.weights is not None
    begin_with(network, spec.network.weights, spec.network.take)
    for name, value in network.state_dict().items():
        taken = not name.startswith("head.")
        assert torch.equal(value, learned[name] if taken else fresh[name]), name
    assert train(begun, data=drawn_data, out=tmp_path / "segmenting", device="cpu").steps == 1


@pytest.mark.parametrize(
    ("take", "said"),
    [
        (["encoder", "neck"], "no part 'neck'; they have aspp, decoder, encoder"),
        ([], "does not fit this network"),
        ([*PARTS, "head"], "does not fit this network"),
    ],
)
def test_what_is_taken_must_be_there_and_fit(take: list[str], said: str, tmp_path: Path) -> None:
    """A head of three channels is not one of four classes: without `take` the whole is refused."""
    other = load_experiment(restoring(tmp_path))
    torch.save({"average": build_network(other).state_dict()}, tmp_path / "checkpoint.pt")
    network = build_network(other.model_copy(update={"task": "segment"}))
    with pytest.raises(ConfigError, match=said):
        begin_with(network, tmp_path / "checkpoint.pt", take)


def test_restoring_has_no_teacher_and_draws_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no classes to be taught"):
        load_experiment(restoring(tmp_path, distil={"teacher": "x"}))
    with pytest.raises(ConfigError, match="real pictures alone"):
        load_experiment(restoring(tmp_path, drawn={"seeds": [1000]}))


def test_taking_needs_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no network\.weights"):
        load_experiment(write_experiment(tmp_path, network={**NETWORK, "take": PARTS}))


def test_a_network_with_deep_supervision_restores_at_full_size(pictures: Path, tmp_path: Path) -> None:
    hyper = {**NETWORK["hyper"], "deep_supervision": True}  # type: ignore[dict-item]
    path = write_experiment(tmp_path, network={**NETWORK, "hyper": hyper}, budget={"steps": 1})
    path.write_text('task = "restore"\n' + path.read_text())
    done = train(path, data=pictures, out=tmp_path / "runs", device="cpu")
    assert done.steps == 1 and done.loss > 0
