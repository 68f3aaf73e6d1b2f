"""What is found is called what its category says: lesions, structures of the body, or findings where both are meant."""

from __future__ import annotations

import pytest

from medpipe.bundle import find_bundle, noun_of

LESION = ("49755003", "SCT", "Morphologically Abnormal Structure")
ANATOMY = ("123037004", "SCT", "Anatomical Structure")


@pytest.mark.parametrize(
    ("categories", "noun"),
    [
        ([LESION, LESION], "lesion"),
        ([ANATOMY], "structure"),
        ([ANATOMY, LESION], "finding"),
        ([("309825002", "SCT", "Spatial and Relational Concept")], "finding"),
        ([], "finding"),
    ],
)
def test_the_noun_follows_the_categories(categories: list[tuple[str, str, str]], noun: str) -> None:
    assert noun_of(categories) == noun


def test_the_shipped_bundles_are_called_what_they_find() -> None:
    nouns = {name: find_bundle(name).noun for name in ("fundus-lesions", "breast-ultrasound", "hippocampus")}
    assert nouns == {"fundus-lesions": "lesion", "breast-ultrasound": "lesion", "hippocampus": "structure"}
