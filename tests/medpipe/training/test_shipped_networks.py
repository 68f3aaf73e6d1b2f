"""The networks that ship find lesions: drawn ones anywhere, real ones on pictures that no training step saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medpipe.bundle import Bundle, find_bundle
from medpipe.inference import Backend, load_backend, predict
from medpipe.samples.fundus import draw_fundus
from medpipe.training.evaluation import measure
from medpipe.training.experiment import load_experiment, split
from medpipe.training.lesion_scores import count_lesions
from medpipe.training.sources import photograph

EXPERIMENT = Path(__file__).resolve().parents[3] / "experiments" / "fundus-lesions.toml"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return find_bundle("fundus-lesions")


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> Backend:
    return load_backend(bundle, device="cpu")


def test_it_is_fed_as_it_was_trained(bundle: Bundle) -> None:
    spec = load_experiment(EXPERIMENT)
    assert bundle.class_ids == spec.data.classes
    assert bundle.input == spec.input
    assert dict(bundle.network.hyper) == dict(spec.network.hyper)


def test_it_finds_drawn_lesions_of_every_class(bundle: Bundle, backend: Backend, tmp_path: Path) -> None:
    """Seed 40 is in no training step (those are 1000 and up)."""
    sample = draw_fundus(40, 2144, 1424)
    image = photograph(sample.picture, "drawn", "OP")
    mask = predict(image, bundle, backend, tmp_path).mask
    for c, class_id in enumerate(bundle.class_ids):
        found, lesions, false = count_lesions(mask[c], sample.truth[c][None])
        assert found >= 0.5 * lesions, f"{class_id}: {found} of {lesions} found"
        assert false <= max(3, lesions), f"{class_id}: {false} false lesions beside {lesions} true ones"


def test_it_finds_little_where_nothing_was_drawn(bundle: Bundle, backend: Backend, tmp_path: Path) -> None:
    sample = draw_fundus(41, 2144, 1424, lesions=False)
    image = photograph(sample.picture, "healthy", "OP")
    mask = predict(image, bundle, backend, tmp_path).mask
    marked = {c: count_lesions(m, np.zeros_like(m))[2] for c, m in zip(bundle.class_ids, mask, strict=True)}
    assert sum(marked.values()) <= 10, marked


def test_it_finds_real_lesions_on_pictures_kept_out(
    bundle: Bundle, backend: Backend, shared_data: Path
) -> None:
    unseen = split(load_experiment(EXPERIMENT).data).unseen
    report = measure(bundle, backend, shared_data / "idrid_train", unseen[:2])
    exudates = report.classes[bundle.class_ids.index("EX")]
    assert exudates.mean_dice is not None
    assert exudates.mean_dice >= 0.5, report.table()
