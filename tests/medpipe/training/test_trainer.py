"""A run learns, resumes exactly, ends when its budget says, and leaves what it should."""

from __future__ import annotations

import fcntl
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor, nn
from torch.nn import functional

from medpipe.bundle import InputSpec
from medpipe.errors import ConfigError
from medpipe.training import train
from medpipe.training.experiment import Optimiser, Paste, Stage, load_experiment, load_run
from medpipe.training.state import CHECKPOINT, learning_rate, new_state
from medpipe.training.trainer import Trainer, autocast

from .conftest import write_experiment

CPU = torch.device("cpu")


def weights(run: Path, part: str = "network") -> dict[str, Tensor]:
    saved: dict[str, Tensor] = torch.load(run / CHECKPOINT, weights_only=True)[part]
    return saved


def with_steps(experiment: Path, steps: int) -> Path:
    experiment.write_text(experiment.read_text().replace("steps = 12", f"steps = {steps}"))
    return experiment


def test_steps_on_one_batch_lower_its_loss(experiment: Path, drawn_data: Path, tmp_path: Path) -> None:
    trainer = Trainer(load_experiment(experiment), drawn_data, tmp_path, CPU)
    batch = trainer.sampler.batch(0)
    losses = [trainer.step(batch, 0.0) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]
    assert trainer.state.steps == 40


def test_with_deep_supervision_every_head_learns_and_the_last_one_is_kept(
    experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    experiment.write_text(experiment.read_text().replace("aspp = 16", "aspp = 16\ndeep_supervision = true"))
    trainer = Trainer(load_experiment(experiment), drawn_data, tmp_path, CPU)
    before = {name: value.clone() for name, value in trainer.state.network.state_dict().items()}
    batch = trainer.sampler.batch(0)
    losses = [trainer.step(batch, 0.0) for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]
    heads = [name for name in before if name.startswith(("head", "auxiliary")) and name.endswith("weight")]
    assert len(heads) == 4
    assert not any(torch.equal(before[name], trainer.state.network.state_dict()[name]) for name in heads)
    case = trainer.cases.measured["held_out"][0]
    assert trainer.probabilities(case).shape == (4, *case.image.shape[1:])


@pytest.mark.parametrize(("padding", "beyond"), [("edge", 0.0), ("zero", 0.0), ("black", -2.0)])
def test_it_is_measured_on_pictures_surrounded_as_in_use(
    experiment: Path, drawn_data: Path, tmp_path: Path, padding: str, beyond: float
) -> None:
    """A strip of grey below each picture once hid what a network knew."""
    spec = load_experiment(experiment)
    window = {**spec.bundle["window"], "padding": padding}
    normalise = {"kind": "mean-std", "mean": [0.5] * 3, "std": [0.25] * 3}
    spec = spec.model_copy(
        update={
            "bundle": {**spec.bundle, "window": window},
            "input": InputSpec.model_validate({**spec.input.model_dump(), "normalise": normalise}),
        }
    )
    trainer = Trainer(spec, drawn_data, tmp_path, CPU)
    case = trainer.cases.measured["held_out"][0]
    cut = replace(case, image=case.image[..., :-5], masks=case.masks[..., :-5], inside=case.inside[..., :-5])
    seen: list[Tensor] = []
    trainer.state.average.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    assert trainer.probabilities(cut).shape[1:] == cut.image.shape[1:]
    (fed,) = seen
    assert fed.shape[-1] % 32 == 0 and fed.shape[-1] - cut.image.shape[-1] >= 5
    strip, edge = fed[..., cut.image.shape[-1] :], fed[..., cut.image.shape[-1] - 1 : cut.image.shape[-1]]
    assert torch.allclose(strip, edge.expand_as(strip) if padding == "edge" else torch.tensor(beyond))


def test_a_run_leaves_its_experiment_its_folds_and_its_figures(
    experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    report = train(experiment, data=drawn_data, out=tmp_path / "runs", device="cpu")
    assert report.run == tmp_path / "runs" / "tiny"
    assert (report.run / "experiment.toml").read_bytes() == experiment.read_bytes()
    assert load_run(report.run).data.folds.is_file()
    lines = [json.loads(line) for line in (report.run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("start", 0),
        ("validate", 12),
        ("validate", 12),
    ]
    assert set(lines[-1]["aupr"]) == {"MA", "HE", "EX", "SE"}
    assert "12 steps" in report.summary()


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    trained: Path, experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    """12 steps at once, and 12 steps stopped after the fifth: the same weights, bit for bit."""
    spec = load_experiment(experiment)
    halves = tmp_path / "halves" / spec.name
    broken = Trainer(spec, drawn_data, halves, CPU)

    class Stop(Exception):
        pass

    step = broken.step

    def five_steps(*arguments: object) -> float:
        if broken.state.steps == 5:
            raise Stop
        return step(*arguments)  # type: ignore[arg-type]

    broken.step = five_steps  # type: ignore[method-assign]
    with pytest.raises(Stop):
        broken.run()
    resumed = train(experiment, data=drawn_data, out=tmp_path / "halves", device="cpu")
    assert resumed.steps == 12
    for part in ("network", "average"):
        one, two = weights(trained, part), weights(halves, part)
        assert all(torch.equal(one[name], two[name]) for name in one), part


def test_patches_grow_at_the_same_step_in_a_resumed_run(
    experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    """Batches are cut ahead; those of step 6 of 12 on are of the larger size, wherever the run was resumed."""
    spec = load_experiment(experiment)
    stage = Stage(until=0.5, size=32, batch=4)
    spec = spec.model_copy(
        update={
            "patches": spec.patches.model_copy(update={"stages": (stage,)}),
            "optimiser": spec.optimiser.model_copy(update={"accumulate": 2}),
        }
    )
    trainer = Trainer(spec, drawn_data, tmp_path, CPU)
    for resumed in (0, 4, 5):
        trainer.state.steps = resumed
        batches = trainer._batches(resumed)
        sizes = [tuple(next(batches).image.shape[::3]) for _ in range(2 * (8 - resumed))]
        batches.close()
        assert sizes == [(4, 32)] * 2 * (6 - resumed) + [(2, 64)] * 4


def test_a_finished_run_does_nothing_more(run: Path, experiment: Path, drawn_data: Path) -> None:
    kept = weights(run)
    again = train(experiment, data=drawn_data, out=run.parent, device="cpu")
    assert (again.run, again.steps) == (run, 12)
    assert all(torch.equal(kept[name], value) for name, value in weights(run).items())


def test_the_budget_of_minutes_counts_over_resumes(run: Path, experiment: Path, drawn_data: Path) -> None:
    saved = torch.load(run / CHECKPOINT, weights_only=True)
    torch.save({**saved, "seconds": 600.0}, run / CHECKPOINT)
    again = with_steps(experiment, 1000)
    assert train(again, data=drawn_data, out=run.parent, max_minutes=9, device="cpu").steps == 12


def test_a_run_is_not_begun_anew_over_another(run: Path, experiment: Path, drawn_data: Path) -> None:
    with pytest.raises(ConfigError, match="holds a run already"):
        train(experiment, data=drawn_data, out=run.parent, resume=False, device="cpu")


def test_two_processes_do_not_train_into_one_run(experiment: Path, drawn_data: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    with (tmp_path / "tiny" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process is training"):
            train(experiment, data=drawn_data, out=tmp_path, device="cpu")
    assert train(experiment, data=drawn_data, out=tmp_path, device="cpu").steps == 12


def test_a_checkpoint_of_another_network_is_refused(run: Path, experiment: Path, drawn_data: Path) -> None:
    experiment.write_text(experiment.read_text().replace("aspp = 16", "aspp = 24"))
    with pytest.raises(ConfigError, match=r"holds a run with another network\.hyper"):
        train(experiment, data=drawn_data, out=run.parent, device="cpu")


def test_training_needs_data_and_a_known_network(experiment: Path, drawn_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data"):
        train(experiment, data=None, out=tmp_path)
    with pytest.raises(ConfigError, match="no picture"):
        train(experiment, data=tmp_path, out=tmp_path)
    experiment.write_text(experiment.read_text().replace("attention-unet", "resnet"))
    with pytest.raises(ConfigError, match="known: attention-unet"):
        train(experiment, data=drawn_data, out=tmp_path)


def test_the_held_out_and_threshold_pictures_are_not_trained_on(
    experiment: Path, drawn_data: Path, tmp_path: Path
) -> None:
    spec = load_experiment(experiment)
    spec = spec.model_copy(update={"patches": spec.patches.model_copy(update={"paste": Paste()})})
    sampler = Trainer(spec, drawn_data, tmp_path, CPU).sampler
    assert {picture.name for picture in sampler._real.cases} == {"drawn_2", "drawn_3", "drawn_4"}
    assert sampler._paster is not None
    pasted = {cut.case.name for bank in sampler._paster._banks for cut in bank}
    assert pasted == {"drawn_2", "drawn_3", "drawn_4"}


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    spec = Optimiser(rate=1e-3, warm_up_steps=10, floor=0.01)
    assert learning_rate(spec, 0, 0) == pytest.approx(1e-4)
    assert learning_rate(spec, 9, 0) == pytest.approx(1e-3)
    assert learning_rate(spec, 500, 0.5) == pytest.approx(1e-3 * (0.01 + 0.99 * 0.5))
    assert learning_rate(spec, 999, 1) == pytest.approx(1e-5)


def test_the_average_follows_the_network(experiment: Path) -> None:
    state = new_state(load_experiment(experiment), CPU)
    with torch.no_grad():
        for value in state.network.parameters():
            value.fill_(1.0)
        for value in state.average.parameters():
            value.fill_(0.0)
    state.steps = 10**6
    state.follow(0.9)
    assert all(torch.allclose(v, torch.tensor(0.1)) for v in state.average.parameters())


def test_the_first_weights_follow_from_the_seed(experiment: Path) -> None:
    spec = load_experiment(experiment)
    one, two = new_state(spec, CPU).network, new_state(spec, CPU).network
    other = new_state(spec.model_copy(update={"seed": 4}), CPU).network
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_class_that_no_picture_has_is_refused(drawn_data: Path, tmp_path: Path) -> None:
    """It would be learned as never there; the loss of a set without any truth is 0."""
    folder = Path(shutil.copytree(drawn_data, tmp_path / "data"))
    for path in (folder / "masks").iterdir():
        bits = np.asarray(Pillow.open(path)) & 0b1011
        Pillow.fromarray(bits).save(path)
    with pytest.raises(ConfigError, match="no picture to train on has EX in its truth"):
        train(write_experiment(tmp_path), data=folder, out=tmp_path / "runs", device="cpu")


DENSE, BY_CHANNEL = nn.Conv3d(4, 4, 3), nn.Conv3d(4, 4, 3, groups=4)


@pytest.mark.parametrize(
    ("network", "has_bf16", "computed_in"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), True, torch.bfloat16),
        (DENSE, True, torch.bfloat16),
        (nn.Sequential(DENSE, BY_CHANNEL), True, torch.float32),  # torch's depthwise volumes crawl in bf16
        (DENSE, False, torch.float32),
    ],
)
def test_cpus_compute_in_bf16_where_they_have_it_and_it_is_faster(
    network: nn.Module, has_bf16: bool, computed_in: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bf16})
    with autocast(CPU, network):
        assert functional.linear(torch.ones(1, 4), torch.ones(2, 4)).dtype == computed_in
