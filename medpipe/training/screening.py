"""A row of the ablation computed: its experiment written, trained, and measured on the fold kept out.

What is finished is not computed again, what was stopped goes on: every folder and file is named by a digest of what it
hangs on (medpipe.training.ablation.Plan).
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
import torch

from medpipe.bundle import Bundle, load_bundle
from medpipe.inference import Backend, load_backend, predict, with_crf
from medpipe.training.ablation import Plan, filled
from medpipe.training.class_scores import ClassScores
from medpipe.training.decision import choose
from medpipe.training.experiment import EXPERIMENT, Experiment, load_run, split
from medpipe.training.export import export_bundle
from medpipe.training.launch import TASKS, train
from medpipe.training.pruning import prune_experiment
from medpipe.training.sources import open_source
from medpipe.training.state import CHECKPOINT, build_network
from medpipe.training.trainer import CACHE, pick_device
from nets.cost import cost

DONE = "done.json"


@dataclass(frozen=True)
class Place:
    """Where pictures are and figures go, and on what device. `cache` holds the pictures at working size."""

    out: Path
    cache: Path
    data: Path
    folds: Path
    unlabelled: Path | None
    device: str

    def experiment(self, plan: Plan) -> Path:
        return self.out / "experiments" / plan.run_name / EXPERIMENT

    def run(self, plan: Plan) -> Path:
        return self.out / "runs" / plan.run_name

    def bundle(self, plan: Plan) -> Path:
        return self.out / "bundles" / plan.run_name

    def result(self, plan: Plan) -> Path:
        return self.out / "results" / f"{plan.name}-{plan.fold}-{plan.stamp}.json"


def written(plan: Plan, place: Place) -> Path:
    """The experiment of a plan's run as a file, its side runs' results filled in."""
    path = place.experiment(plan)
    if plan.prune is not None:
        *_, before = plan.needs
        if not path.is_file():
            prune_experiment(place.experiment(before), place.run(before), path.parent, ratio=plan.prune)
        return _write(path, {**tomllib.loads(path.read_text(encoding="utf-8")), "name": plan.run_name})
    places = _given(place)
    for need in plan.needs:
        restores = need.content.get("task") == "restore"
        places[need.name] = str(place.run(need) / CHECKPOINT if restores else place.bundle(need))
    content = filled(plan.content, places)
    data = {**content["data"], "folds": str(place.folds)}
    return _write(path, {**content, "name": plan.run_name, "data": data})


def _write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}")
    half.write_text(tomli_w.dumps(content), encoding="utf-8")
    half.replace(path)
    return path


def trained(plan: Plan, place: Place) -> str:
    """Trains a plan's run to its end, where it has not come there yet, and writes its bundle."""
    run = place.run(plan)
    if (run / DONE).is_file():
        return f"{plan.run_name}: trained before"
    experiment = written(plan, place)
    _link_cache(run, place)
    report = train(experiment, data=place.data, out=place.out / "runs", device=place.device)
    if plan.content.get("task") != "restore":
        export_bundle(report.run, place.bundle(plan))
    facts = {"steps": report.steps, "minutes": round(report.minutes, 2), "device": _kind(place.device)}
    (run / DONE).write_text(json.dumps(facts))
    return report.summary()


def measured(plan: Plan, place: Place) -> str:
    """Measures a row on the fold kept out, thresholds chosen on the pictures kept for them; keeps its figures."""
    path, run = place.result(plan), place.run(plan)
    if path.is_file():
        return f"{path.stem}: measured before"
    spec = load_run(run)
    bundle = load_bundle(place.bundle(plan))
    backend = load_backend(bundle, device=place.device, backend="torch", precision="f32")
    parts = split(spec.data)
    choices = choose(with_crf(bundle, "off"), backend, place.data, parts.thresholds, spec.decision)
    classes = tuple(c.model_copy(update=asdict(choices[c.id])) for c in bundle.classes)
    used = with_crf(replace(bundle, classes=classes), plan.measure.crf)
    scores = _scores(used, backend, place.data, parts.held_out, tta=plan.measure.tta)
    image = torch.zeros(1, spec.input.channels, *spec.patches.shape(flat=True)[1:])
    weights, multiply_adds = cost(build_network(spec), image)
    facts = {
        "row": plan.name,
        "fold": plan.fold,
        "stamp": plan.stamp,
        "budget": {
            key: plan.content["budget"][key] for key in ("minutes", "steps") if key in plan.content["budget"]
        },
        **json.loads((run / DONE).read_text()),
        "weights": weights,
        "multiply_adds": multiply_adds,
        "patch": image.shape[-1],
        "classes": {
            s.class_id: {
                "aupr": s.pooled.aupr,
                "dice": s.dice,
                "found": s.found,
                "lesions": s.lesions,
                "false_per_picture": s.false_per_picture,
            }
            for s in scores
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_text(json.dumps(facts, indent=1))
    half.replace(path)
    shown = ", ".join(f"{s.class_id} {s.pooled.aupr or 0:.3f}" for s in scores)
    return f"{path.stem}: AUPR {shown}"


def _scores(
    bundle: Bundle, backend: Backend, data: Path, names: Sequence[str], *, tta: bool
) -> list[ClassScores]:
    source = open_source(data, bundle.input)
    scores = [ClassScores(class_id) for class_id in bundle.class_ids]
    for name in names:
        truth = source.truth(name, len(scores))
        with tempfile.TemporaryDirectory(prefix="medpipe-ablation-") as scratch:
            found = predict(
                source.image(name), bundle, backend, Path(scratch), tta=tta, keep_probability=True
            )
            assert found.probability is not None
            for c, score in enumerate(scores):
                score.add(found.mask[c], truth[c], found.probability[c])
    return scores


def fill_cache(plans: Sequence[Plan], place: Place) -> None:
    """Brings every picture to its working size once, so that runs beside each other find them there."""
    folder = place.out / "preparing"
    _link_cache(folder, place)
    kinds = {(plan.content.get("task"), "unlabelled" in plan.content): plan for plan in plans}
    for plan in kinds.values():
        places = dict.fromkeys((need.name for need in plan.needs), "")
        content = filled(plan.content, places | _given(place))
        spec = Experiment.model_validate({**content, "name": "preparing"})
        data = spec.data.model_copy(update={"folds": place.folds})
        TASKS[spec.task].prepare(spec.model_copy(update={"data": data}), place.data, folder)


def _link_cache(run: Path, place: Place) -> None:
    """All runs share the pictures at working size: a file's name says what it was made from."""
    place.cache.mkdir(parents=True, exist_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    if not (run / CACHE).exists():
        (run / CACHE).symlink_to(place.cache.resolve(), target_is_directory=True)


def _kind(device: str) -> str:
    """cuda of cuda:1."""
    return pick_device(device).type


def _given(place: Place) -> dict[str, str]:
    return {} if place.unlabelled is None else {"unlabelled": str(place.unlabelled)}
