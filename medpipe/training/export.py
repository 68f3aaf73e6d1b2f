"""From a run to a bundle folder: averaged weights; thresholds and sizes from pictures kept for that; the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy import ndimage

from medpipe.bundle import Bundle, load_bundle
from medpipe.bundle.folder import DESCRIPTION, WEIGHTS
from medpipe.errors import ConfigError
from medpipe.inference import Backend, load_backend
from medpipe.training.card import write_card
from medpipe.training.evaluation import NEIGHBOURS, measure, predictions
from medpipe.training.experiment import Experiment, load_run, split
from medpipe.training.metrics import PooledScores
from medpipe.training.state import CHECKPOINT, build_network

SIZES = (1, 8, 16, 24, 32, 48, 64, 96, 128)
"""Smallest sizes to choose from, in pixels of the original picture."""


@dataclass(frozen=True)
class Choice:
    """What one class needs before it counts."""

    threshold: float = 0.5
    smallest: int = 1


def export_bundle(run: Path, bundle: Path, *, data: Path | None = None) -> Bundle:
    """Writes a bundle folder from a run: model.safetensors, bundle.toml, CARD.md.

    With `data`, thresholds and smallest sizes are chosen on the experiment's threshold pictures, through the whole
    pipeline at native resolution, and the card tells the figures of the held-out fold; without it the thresholds
    are 0.5 and the card says that nothing was measured. Raises ConfigError where the run has no checkpoint.
    """
    experiment = load_run(run)
    bundle.mkdir(parents=True, exist_ok=True)
    _write_weights(experiment, run, bundle / WEIGHTS)
    choices = {class_id: Choice() for class_id in experiment.data.classes}
    written = _write_description(experiment, bundle, choices)
    report = None
    if data is not None:
        backend = load_backend(written)
        parts = split(experiment.data)
        choices = choose(written, backend, data, parts.thresholds)
        written = _write_description(experiment, bundle, choices)
        report = measure(written, backend, data, parts.held_out)
    write_card(bundle, written, experiment, report)
    return written


def choose(bundle: Bundle, backend: Backend, data: Path, names: Sequence[str]) -> dict[str, Choice]:
    """Per class the threshold of the best pooled Dice, then the smallest size of the best lesion-wise F1."""
    count = len(bundle.classes)
    pooled = [PooledScores() for _ in range(count)]
    kept: list[tuple[NDArray[np.float16], NDArray[np.bool_]]] = []
    for prediction, truth in predictions(bundle, backend, data, names):
        assert prediction.probability is not None
        probability = np.array(prediction.probability)
        kept.append((probability, truth))
        for c in range(count):
            pooled[c].add(probability[c], truth[c])
    choices = {}
    for c, spec in enumerate(bundle.classes):
        threshold = round(pooled[c].best_threshold(), 3)
        tallies = sum(_tally(p[c] >= threshold, t[c]) for p, t in kept)
        choices[spec.id] = Choice(threshold, SIZES[int(np.argmax(_f1(np.asarray(tallies))))])
    return choices


def _tally(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each of SIZES: marked lesions, those that touch the truth, true lesions, those that are touched."""
    marked, count = ndimage.label(mask, NEIGHBOURS)
    sizes = np.bincount(marked.ravel(), minlength=count + 1)
    sizes[0] = 0
    real, lesions = ndimage.label(truth, NEIGHBOURS)
    both = mask & truth
    pairs = np.unique(np.stack([marked[both], real[both]]), axis=1)
    rows = []
    for smallest in SIZES:
        large = sizes[pairs[0]] >= smallest
        rows.append(
            (
                int((sizes[1:] >= smallest).sum()),
                len(np.unique(pairs[0][large])),
                lesions,
                len(np.unique(pairs[1][large])),
            )
        )
    return np.asarray(rows, np.int64)


def _f1(tallies: NDArray[np.int64]) -> NDArray[np.float64]:
    marked, right, lesions, found = tallies.T.astype(np.float64)
    precision, recall = right / np.maximum(marked, 1), found / np.maximum(lesions, 1)
    return np.asarray(2 * precision * recall / np.maximum(precision + recall, 1e-9))


def _write_weights(experiment: Experiment, run: Path, path: Path) -> None:
    """The averaged weights; kernels in float16, what normalises in float32, where a small variance must stay exact."""
    try:
        saved = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{run}: no {CHECKPOINT} to export; train first") from error
    network = build_network(experiment)
    network.load_state_dict(saved["average"])
    half = path.with_name(f".{path.name}.half")
    save_file(
        {
            name: (value.half() if value.dim() > 1 else value).contiguous()
            for name, value in network.state_dict().items()
        },
        half,
    )
    half.chmod(0o644)
    half.replace(path)


def _write_description(experiment: Experiment, folder: Path, choices: Mapping[str, Choice]) -> Bundle:
    given, data = experiment.bundle, experiment.data
    classes = {row["id"]: row for row in given.get("classes", ())}
    if list(classes) != list(data.classes):
        raise ConfigError(f"bundle.classes: {', '.join(classes) or 'none'}, but data.classes: {data.classes}")
    content: dict[str, Any] = {
        "id": experiment.name,
        "version": given.get("version", "0.0.0"),
        "title": given.get("title", experiment.name),
        "network": {"name": experiment.network.name, "hyper": dict(experiment.network.hyper)},
        "input": experiment.input.model_dump(exclude_none=True, exclude_defaults=True),
        "classes": [
            {**row, "threshold": choices[class_id].threshold, "smallest": choices[class_id].smallest}
            for class_id, row in classes.items()
        ],
        **{key: given[key] for key in ("window", "crf", "precision", "provenance") if key in given},
    }
    (folder / DESCRIPTION).write_text(tomli_w.dumps(content), encoding="utf-8")
    return load_bundle(folder)
