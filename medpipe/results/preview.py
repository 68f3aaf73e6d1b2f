"""A contact sheet of one prediction: the picture with contours, the largest lesions of each class, the counts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.identity import MANUFACTURER_MODEL_NAME
from medpipe.results.finished import write_atomically
from medpipe.results.overlay import Colour, grey_window, outlined, resized, resized_mask, shown, srgb
from medpipe.results.plain_text import shortened
from medpipe.types import Image, Lesion, Prediction

WIDTH = 1600
_EDGE = 24
_MAIN_HEIGHT = 1000
_LEGEND = 340
_CROP = 204
_GAP = 12
_SLICES = 6
_CONTEXT = 2.2
_SMALLEST_CROP = 96
_BACKGROUND: Colour = (16, 19, 24)
_TEXT: Colour = (236, 239, 244)
_QUIET: Colour = (150, 158, 170)
_WARNING: Colour = (255, 190, 80)


def write_preview(prediction: Prediction, path: Path, bundle: Bundle) -> Path:
    """Writes the sheet as PNG, 1600 pixels wide, in the class colours of the bundle; gives back `path`.

    A picture is shown whole; of a volume the (at most six) slices that hold most, as they are stored. There is
    no patient data on it. The same prediction gives the same bytes.
    """
    buffer = io.BytesIO()
    contact_sheet(prediction, bundle).save(buffer, format="PNG", compress_level=6)
    write_atomically(buffer.getvalue(), path)
    return path


def contact_sheet(prediction: Prediction, bundle: Bundle) -> Any:
    """The sheet as a PIL picture (RGB)."""
    from PIL import Image as Picture

    colours = [srgb(spec.colour_cielab) for spec in bundle.classes]
    window = grey_window(prediction.image, bundle)
    main = _slices(prediction, colours, window) if prediction.image.is_volume else None
    if main is None:
        main = _whole(prediction, colours, window)
    rows = _packed(
        [
            (number, crops)
            for number in range(len(prediction.class_ids))
            if (crops := _crops(prediction, number, colours, window))
        ]
    )
    top = 104
    legend_height = 40 + 96 * len(prediction.class_ids)
    body = max(main.shape[0], legend_height)
    height = top + body + _EDGE + len(rows) * (_CROP + _GAP + 34) + _EDGE
    sheet = Picture.new("RGB", (WIDTH, height), _BACKGROUND)
    _heading(sheet, prediction, bundle)
    sheet.paste(Picture.fromarray(main), (_EDGE, top))
    _legend(sheet, prediction, bundle, colours, top)
    y = top + body + _EDGE
    for row in rows:
        x = _EDGE
        for number, crops in row:
            x = _crop_strip(sheet, bundle.classes[number].name, colours[number], crops, x, y)
        y += _CROP + _GAP + 34
    return sheet


Strip = tuple[int, list[tuple[NDArray[np.uint8], str]]]
"""A class's number and its crops, each with what to write on it."""


def _packed(strips: Sequence[Strip]) -> list[list[Strip]]:
    """Strips in order, as many beside each other as fit."""
    fitting = (WIDTH - 2 * _EDGE + _GAP) // (_CROP + _GAP)
    rows: list[list[Strip]] = []
    for strip in strips:
        if rows and sum(len(crops) for _, crops in rows[-1]) + len(strip[1]) <= fitting:
            rows[-1].append(strip)
        else:
            rows.append([strip])
    return rows


def _pixel_size(image: Image, room: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that fits `room` and keeps the true aspect of pixels that are not square."""
    _, j_mm, i_mm = image.grid.spacing
    _, J, I = image.grid.shape  # noqa: E741
    scale = min(room[0] / (J * j_mm), room[1] / (I * i_mm))
    return max(1, round(J * j_mm * scale)), max(1, round(I * i_mm * scale))


def _drawn_slice(
    prediction: Prediction,
    k: int,
    size: tuple[int, int],
    colours: Sequence[Colour],
    window: tuple[float, float],
    width: int,
) -> NDArray[np.uint8]:
    picture = resized(shown(prediction.image, k, window), size)
    masks = [resized_mask(np.asarray(plane), size) for plane in prediction.mask[:, k]]
    return outlined(picture, masks, colours, width)


def _whole(
    prediction: Prediction, colours: Sequence[Colour], window: tuple[float, float]
) -> NDArray[np.uint8]:
    size = _pixel_size(prediction.image, (_MAIN_HEIGHT, WIDTH - 2 * _EDGE - _LEGEND - _EDGE))
    return _drawn_slice(prediction, 0, size, colours, window, 1)


def _slices(
    prediction: Prediction, colours: Sequence[Colour], window: tuple[float, float]
) -> NDArray[np.uint8]:
    """The chosen slices in their order, three in a row, each with its number."""
    from PIL import Image as Picture
    from PIL import ImageDraw

    chosen = slices_with_most(prediction.mask)
    columns = min(3, len(chosen))
    room = (WIDTH - 2 * _EDGE - _LEGEND - _EDGE - (columns - 1) * _GAP) // columns
    height, width = _pixel_size(prediction.image, (min(room, 560), room))
    rows = -(-len(chosen) // columns)
    sheet = Picture.new(
        "RGB", (columns * (room + _GAP) - _GAP, rows * (height + _GAP + 26) - _GAP), _BACKGROUND
    )
    draw = ImageDraw.Draw(sheet)
    for place, k in enumerate(chosen):
        x = place % columns * (room + _GAP)
        y = place // columns * (height + _GAP + 26)
        drawn = _drawn_slice(prediction, k, (height, width), colours, window, 2)
        sheet.paste(Picture.fromarray(drawn), (x, y))
        label = f"slice {k + 1} of {prediction.image.grid.shape[0]}"
        draw.text((x, y + height + 4), label, font=_font(17), fill=_QUIET)
    return np.asarray(sheet)


def slices_with_most(mask: NDArray[np.bool_], most: int = _SLICES) -> list[int]:
    """Indices of the slices that hold most: of each class first, then of all together, apart from each other.

    In order of the grid; the middle slice where all are empty.
    """
    counts = np.array([[int(np.count_nonzero(plane)) for plane in one] for one in mask])
    total = counts.sum(axis=0)
    if not total.any():
        return [mask.shape[1] // 2]
    apart = max(1, int(np.count_nonzero(total)) // (2 * most))
    chosen: list[int] = []
    for k in [int(np.argmax(one)) for one in counts if one.any()]:
        if k not in chosen and len(chosen) < most:
            chosen.append(k)
    for k in map(int, np.argsort(-total, kind="stable")):
        if len(chosen) == most:
            break
        if total[k] and all(abs(k - other) >= apart for other in chosen):
            chosen.append(k)
    return sorted(chosen)


def _crops(
    prediction: Prediction, number: int, colours: Sequence[Colour], window: tuple[float, float]
) -> list[tuple[NDArray[np.uint8], str]]:
    """Squares around the largest lesions of a class, with what to write below."""
    class_id = prediction.class_ids[number]
    lesions = [lesion for lesion in prediction.lesions if lesion.class_id == class_id]
    largest = sorted(lesions, key=lambda lesion: (-lesion.voxels, lesion.box))
    fitting = (WIDTH - 2 * _EDGE + _GAP) // (_CROP + _GAP)
    return [
        (_crop(prediction, lesion, colours, window), _measure(prediction.image, lesion))
        for lesion in largest[:fitting]
    ]


def _crop(
    prediction: Prediction, lesion: Lesion, colours: Sequence[Colour], window: tuple[float, float]
) -> NDArray[np.uint8]:
    image = prediction.image
    _, j_mm, i_mm = image.grid.spacing
    k0, j0, i0, k1, j1, i1 = lesion.box
    inside = prediction.mask[prediction.class_ids.index(lesion.class_id), k0:k1, j0:j1, i0:i1]
    k = k0 + int(np.argmax(np.count_nonzero(inside, axis=(1, 2))))
    _, J, I = image.grid.shape  # noqa: E741
    side = max((j1 - j0) * j_mm, (i1 - i0) * i_mm) * _CONTEXT
    side = min(max(side, _SMALLEST_CROP * (i_mm if not image.is_volume else 0)), J * j_mm, I * i_mm)
    rows = _range((j0 + j1) / 2, max(2, round(side / j_mm)), J)
    columns = _range((i0 + i1) / 2, max(2, round(side / i_mm)), I)
    picture = resized(np.ascontiguousarray(shown(image, k, window)[rows, columns]), (_CROP, _CROP))
    masks = [resized_mask(np.asarray(plane[k, rows, columns]), (_CROP, _CROP)) for plane in prediction.mask]
    return outlined(picture, masks, colours, 2)


def _range(middle: float, length: int, size: int) -> slice:
    length = min(length, size)
    start = min(max(0, round(middle - length / 2)), size - length)
    return slice(start, start + length)


def _measure(image: Image, lesion: Lesion) -> str:
    probability = f"prob. {lesion.mean_probability:.2f}"
    if lesion.uncertainty is not None:
        probability += f" \u00b1 {lesion.uncertainty:.2f}"
    if lesion.volume_ml is not None:
        return f"{lesion.volume_ml:.3g} ml, {probability}"
    if lesion.area_mm2 is not None:
        return f"{lesion.area_mm2:.3g} mm2, {probability}"
    return f"{lesion.voxels} {'voxels' if image.is_volume else 'px'}, {probability}"


def _heading(sheet: Any, prediction: Prediction, bundle: Bundle) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(sheet)
    draw.text((_EDGE, 20), bundle.title, font=_font(30), fill=_TEXT)
    provenance = prediction.provenance
    words = (
        f"{bundle.id} {bundle.version}   {prediction.image.modality}   {shortened(prediction.image.name, 72)}"
    )
    draw.text((_EDGE, 64), words, font=_font(18), fill=_QUIET)
    label = "AI result - not for diagnostic use"
    draw.text((WIDTH - _EDGE, 24), label, font=_font(22), fill=_WARNING, anchor="ra")
    draw.text(
        (WIDTH - _EDGE, 64),
        f"{MANUFACTURER_MODEL_NAME} {provenance.software_version}   {provenance.backend} {provenance.precision}",
        font=_font(18),
        fill=_QUIET,
        anchor="ra",
    )


def _legend(sheet: Any, prediction: Prediction, bundle: Bundle, colours: Sequence[Colour], top: int) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(sheet)
    left = WIDTH - _EDGE - _LEGEND
    counts = prediction.counts()
    found = sum(counts.values())
    text = f"No {bundle.noun} found" if not found else f"{found} {bundle.noun}{'s' if found > 1 else ''}"
    draw.text((left, top), text, font=_font(26), fill=_TEXT)
    y = top + 52
    for number, spec in enumerate(bundle.classes):
        ink = _TEXT if counts[spec.id] else _QUIET
        draw.rounded_rectangle((left, y + 3, left + 22, y + 25), 5, fill=colours[number])
        draw.text((left + 36, y), shortened(spec.name, 26), font=_font(21), fill=ink)
        draw.text((left + _LEGEND, y), str(counts[spec.id]), font=_font(21), fill=ink, anchor="ra")
        draw.text((left + 36, y + 30), _class_total(prediction, spec.id), font=_font(17), fill=_QUIET)
        y += 84


def _class_total(prediction: Prediction, class_id: str) -> str:
    lesions = [lesion for lesion in prediction.lesions if lesion.class_id == class_id]
    if not lesions:
        return "none found"
    if prediction.image.is_volume:
        volumes = [lesion.volume_ml for lesion in lesions if lesion.volume_ml is not None]
        if len(volumes) == len(lesions):
            return f"{sum(volumes):.3g} ml in all"
    else:
        areas = [lesion.area_mm2 for lesion in lesions if lesion.area_mm2 is not None]
        if len(areas) == len(lesions):
            return f"{sum(areas):.3g} mm2 in all"
    unit = "voxels" if prediction.image.is_volume else "pixels"
    return f"{sum(lesion.voxels for lesion in lesions)} {unit} in all"


def _crop_strip(
    sheet: Any, name: str, colour: Colour, crops: Sequence[tuple[NDArray[np.uint8], str]], x: int, y: int
) -> int:
    from PIL import Image as Picture
    from PIL import ImageDraw

    draw = ImageDraw.Draw(sheet)
    heading = shortened(f"{name}, the largest" if len(crops) > 1 else name, 26 * len(crops))
    draw.text((x, y), heading, font=_font(17), fill=colour)
    for crop, words in crops:
        sheet.paste(Picture.fromarray(crop), (x, y + 26))
        place = (x + 5, y + 26 + _CROP - 22)
        draw.text(place, words, font=_font(15), fill=_TEXT, stroke_width=2, stroke_fill=0)
        x += _CROP + _GAP
    return x


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
