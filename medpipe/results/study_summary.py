"""One sentence on a study, by a rule that its bundle states over what was marked.

The rules are data ([[summary]] in bundle.toml): bounds on a class's lesions, their size, area or volume, summed over
all images of the study. The first whose conditions all hold is said, with the remark that it is a rule and nothing
more: it is not calibrated, and no accuracy is claimed for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from medpipe.bundle import Bundle
from medpipe.types import Lesion, Prediction

REMARK = "a rule of the bundle on what was marked in {images}, not calibrated, no accuracy claimed"


def study_summary(bundle: Bundle, predictions: Sequence[Prediction]) -> str | None:
    """What the bundle's first fitting rule says of a study's images; None without images, rules or a fitting one."""
    if not predictions:
        return None
    lesions = [lesion for prediction in predictions for lesion in prediction.lesions]
    for rule in bundle.summary:
        loads = {key: _load(lesions, *key.rsplit("_", 1)) for key in rule.when}
        if all(load is not None and rule.when[key].hold(load) for key, load in loads.items()):
            images = f"{len(predictions)} image{'s' if len(predictions) > 1 else ''}"
            return f"{rule.says.rstrip('.')} ({REMARK.format(images=images)})."
    return None


def _load(lesions: Sequence[Lesion], class_id: str, measure: str) -> float | None:
    """One measure of a class, summed; None where a lesion's area or volume is not known, so that no bound holds."""
    own = [lesion for lesion in lesions if lesion.class_id == class_id]
    if measure == "count":
        return len(own)
    if measure == "size":
        return sum(lesion.voxels for lesion in own)
    sizes = [lesion.area_mm2 if measure == "mm2" else lesion.volume_ml for lesion in own]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
