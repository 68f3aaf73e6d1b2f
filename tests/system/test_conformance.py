"""The conformance statement against the listener itself: what it says is accepted is accepted, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless
from pynetdicom import AE
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from medpipe.cli.conformance import RESULT_CLASSES, conformance
from workers.listener import Listener
from workers.presentation import STORAGE_CLASSES, TRANSFER_SYNTAXES

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


@pytest.fixture
def proposed(site: Callable[..., Any]) -> Iterator[Callable[..., dict[str, str]]]:
    """`proposed([(SOP class, [syntaxes]), ...])` -> class: the syntax that the listener accepts for it."""
    config = site().config
    with Listener(config):

        def propose(contexts: list[tuple[str, list[str]]]) -> dict[str, str]:
            ae = AE(ae_title="MODALITY")
            asked = [build_context(uid, syntaxes) for uid, syntaxes in contexts]
            assoc = ae.associate(
                "127.0.0.1", config.listener.port, contexts=asked, ae_title=config.listener.ae_title
            )
            assert assoc.is_established
            accepted = {str(c.abstract_syntax): str(c.transfer_syntax[0]) for c in assoc.accepted_contexts}
            assoc.release()
            return accepted

        yield propose


def test_every_class_is_taken_in_every_syntax(proposed: Any) -> None:
    for syntax in TRANSFER_SYNTAXES:
        assert proposed([(uid, [syntax]) for uid in STORAGE_CLASSES]) == dict.fromkeys(
            STORAGE_CLASSES, syntax
        )
        assert syntax in conformance()


def test_of_several_syntaxes_the_first_of_our_list_is_accepted(proposed: Any) -> None:
    for order in (TRANSFER_SYNTAXES, TRANSFER_SYNTAXES[::-1], [JPEG2000Lossless, JPEGLSLossless]):
        first = min(order, key=TRANSFER_SYNTAXES.index)
        assert proposed([(STORAGE_CLASSES[0], list(order))]) == {STORAGE_CLASSES[0]: first}


def test_nothing_else_is_taken(proposed: Any) -> None:
    taken = proposed(
        [
            (str(Verification), list(TRANSFER_SYNTAXES[:2])),
            (WHOLE_SLIDE, list(TRANSFER_SYNTAXES)),
            (STORAGE_CLASSES[0], [DeflatedExplicitVRLittleEndian]),
        ]
    )
    assert list(taken) == [str(Verification)]
    assert WHOLE_SLIDE not in conformance() and str(StorageCommitmentPushModel) in conformance()


def test_what_we_make_is_stated() -> None:
    assert all(uid in conformance() for uid in RESULT_CLASSES)
