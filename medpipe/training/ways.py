"""Sections of an experiment that learn from more than pictures with truth: unlabelled ones, and damaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from medpipe.bundle.input_spec import Section

Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=2)]


class Unlabelled(Section):
    """Images without truth that the network learns from too: see medpipe.training.mean_teacher.

    `folder` holds images/ and lies beside the experiment; `medpipe train --unlabelled` names it otherwise. `batch` of
    its patches are in each step. Their term of the loss has `weight` once the part `ramp` of the budget is spent, and
    counts for `classes` (none named: all): a class whose lesions are too small in these images is better left out.
    `noise` is the standard deviation, in those of the input, of what is added to both views.
    """

    folder: Path | None = None
    batch: int = Field(default=2, ge=1)
    weight: float = Field(default=10.0, gt=0)
    ramp: Share = 0.3
    classes: tuple[str, ...] = ()
    noise: float = Field(default=0.1, ge=0)


class Restore(Section):
    """How patches are damaged that the network learns to restore: see medpipe.training.restoring.

    `hidden` and `shuffled` are the shares of a patch that are covered with blocks of noise, and whose pixels are
    shuffled within small windows; `block` and `window` are the least and largest sides of these. `tone` is the share
    of patches whose values go through a random curve.
    """

    hidden: Share = 0.25
    block: tuple[Side, Side] = (4, 32)
    shuffled: Share = 0.25
    window: tuple[Side, Side] = (2, 8)
    tone: Share = 0.5
