"""Whether boxes with a name or a date, as cameras lay over their photographs, change the field of view that is found.

    python bench/labels.py --data IDRID [--picture IDRiD_03]

Boxes of sixteen sizes and three shades are laid at places all over a photograph, but for those of which more than three
tenths would lie within the field. The field's width with the box against that without.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medpipe.errors import Refused
from medpipe.inference.field import Field, find_field

SIDES = (0.07, 0.13, 0.2, 0.33)
"""Of a box, as a part of the picture's."""
SHADES = (60, 120, 255)
STEP = 0.1
"""Between places, as a part of the picture's side."""
WITHIN = 0.3


def main() -> None:
    """Reads the command line and prints one row for boxes that touch the field and one for those that do not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/idrid_train"))
    parser.add_argument("--picture", default="IDRiD_03")
    args = parser.parse_args()
    with Image.open(args.data / "images" / f"{args.picture}.jpg") as file:
        file.draft("RGB", (1072, 712))
        picture = np.moveaxis(np.asarray(file.convert("RGB")), -1, 0)
    told: dict[str, Counter[str]] = {"touches": Counter(), "beside": Counter()}
    true = find_field(picture)
    for height, width, shade in product(SIDES, SIDES, SHADES):
        for place, covered in places(true, picture.shape[1:], height, width):
            labelled = picture.copy()
            labelled[:, *place] = shade
            told["touches" if covered else "beside"][judged(labelled, true)] += 1
    ends = ("within 3 %", "3 to 10 %", "more", "refused")
    print(f"{args.picture}: the field's width with a box laid over the picture, against that without.\n")
    print("| box | " + " | ".join(ends) + " |\n| --- |" + " ---: |" * len(ends))
    for kind, counts in told.items():
        print(f"| {kind} | " + " | ".join(str(counts[end]) for end in ends) + " |")


def places(
    field: Field, shape: tuple[int, ...], height: float, width: float
) -> list[tuple[tuple[slice, slice], float]]:
    """Where boxes lie, and which part of each lies within the field."""
    inside = np.zeros(shape, bool)
    j0, i0, j1, i1 = field.box
    rows, columns = (
        np.linspace(0, m - 1, n).astype(int)
        for n, m in zip((j1 - j0, i1 - i0), field.mask.shape, strict=True)
    )
    inside[j0:j1, i0:i1] = field.mask[np.ix_(rows, columns)]
    found = []
    for down, right in product(np.arange(0, 1 - height + 1e-6, STEP), np.arange(0, 1 - width + 1e-6, STEP)):
        box = tuple(
            slice(round(n * a), round(n * (a + b)))
            for n, a, b in zip(shape, (down, right), (height, width), strict=True)
        )
        covered = float(inside[box].mean())
        if covered <= WITHIN:
            found.append(((box[0], box[1]), covered))
    return found


def judged(picture: NDArray[np.uint8], true: Field) -> str:
    """How far the field's width is from the true one."""
    try:
        box = find_field(picture).box
    except Refused:
        return "refused"
    off = abs((box[3] - box[1]) / (true.box[3] - true.box[1]) - 1)
    return "within 3 %" if off <= 0.03 else "3 to 10 %" if off <= 0.1 else "more"


if __name__ == "__main__":
    main()
