"""What a MONAI bundle does before and after its network, as the settings of ours.

Every transform is known or refused by name: one that is passed over would change a result without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from medpipe.errors import BundleError, ConfigError
from medpipe.imports.monai_config import Component, Config, plain_name

BEFORE = ("preprocessing", "pre_transforms")
AFTER = ("postprocessing", "post_transforms")
_NOTHING_BEFORE = frozenset(
    {
        "EnsureChannelFirst",
        "AddChannel",
        "EnsureType",
        "ToTensor",
        "CastToType",
        "SpatialPad",
        "DivisiblePad",
        "AsChannelFirst",
    }
)
"""Transforms that change no value where a window slides over one grey volume."""
_INTENSITY = frozenset(
    {"ScaleIntensity", "ScaleIntensityRange", "ScaleIntensityRangePercentiles", "NormalizeIntensity"}
)
_BEFORE = _NOTHING_BEFORE | _INTENSITY | {"LoadImage", "Orientation", "Spacing"}
_NOTHING_AFTER = frozenset(
    {"Invert", "SaveImage", "EnsureType", "ToTensor", "CastToType", "EnsureChannelFirst"}
)
CLEANING = frozenset({"KeepLargestConnectedComponent", "RemoveSmallObjects", "FillHoles"})
"""What tidies up a finished mask; medpipe has no counterpart, and the user may do without (`--without`)."""
_AFTER = _NOTHING_AFTER | CLEANING | {"Activations", "AsDiscrete"}


@dataclass(frozen=True)
class Preprocessing:
    """What the transforms before the network come to.

    `axcodes`: where MONAI's array axes (0, 1, 2) run to, None where no Orientationd says it. `pixdim`: mm along these
    axes, None where an axis is kept as it is; empty without Spacingd. `rows_first`: pictures come as (rows, columns).
    """

    axcodes: str | None
    pixdim: tuple[float | None, ...]
    normalise: Mapping[str, Any]
    rows_first: bool

    @staticmethod
    def of(config: Config) -> Preprocessing:
        """Raises BundleError for a transform, or a setting of one, that medpipe has no counterpart of."""
        axcodes: str | None = None
        pixdim: tuple[float | None, ...] = ()
        steps: list[_Step] = []
        rows_first = False
        for target, transform in config.transforms(*BEFORE):
            name = plain_name(target, _BEFORE)
            where = f"preprocessing {name}"
            if name == "LoadImage":
                rows_first = _rows_first(config, transform, where)
            elif name == "Orientation":
                if axcodes is not None:
                    raise BundleError(f"{config.path}: {where}: stands there twice")
                axcodes = _axcodes(config, transform, where)
                if len(set(pixdim)) > 1:
                    raise BundleError(
                        f"{config.path}: preprocessing: Spacing before Orientation belongs to the axes of each "
                        "file; unequal spacings are not supported"
                    )
            elif name == "Spacing":
                if pixdim:
                    raise BundleError(f"{config.path}: {where}: stands there twice")
                pixdim = _pixdim(config, transform, where)
            elif name in _INTENSITY:
                steps.append(_intensity(config, name, transform, where))
            elif name not in _NOTHING_BEFORE:
                raise BundleError(f"{config.path}: preprocessing: {name} is not supported")
        return Preprocessing(axcodes, pixdim, _normalise(steps, config), rows_first)


def _rows_first(config: Config, transform: Component, where: str) -> bool:
    """Whether LoadImage gives a picture's rows first; MONAI's readers give (x, y) unless told otherwise."""
    reader = config.argument(transform, "reader", where)
    if reader is not None and not (isinstance(reader, str) and "." not in reader.removeprefix("monai.data.")):
        raise BundleError(f"{config.path}: {where}: reader {str(reader)[:60]!r} is not supported")
    if config.argument(transform, "affine_lps_to_ras", where, True) is not True:
        raise BundleError(f"{config.path}: {where}: affine_lps_to_ras false is not supported")
    reversed_axes = config.argument(transform, "reverse_indexing", where)
    picture = str(reader).rsplit(".", 1)[-1].lower() == "pilreader"
    if reversed_axes is True and not picture:
        raise BundleError(
            f"{config.path}: {where}: reverse_indexing is not supported, as axes would be (z, y, x)"
        )
    return picture and reversed_axes is False


def _axcodes(config: Config, transform: Component, where: str) -> str:
    if config.argument(transform, "labels", where) not in (None, [["L", "R"], ["P", "A"], ["I", "S"]]):
        raise BundleError(f"{config.path}: {where}: labels of its own are not supported")
    if config.argument(transform, "as_closest_canonical", where, False) is True:
        return "RAS"
    given = config.argument(transform, "axcodes", where)
    return orientation(given, f"{config.path}: {where}: axcodes")


def orientation(given: Any, what: str) -> str:
    """Three letters of L, R, A, P, I, S, one for each axis of the body. Raises BundleError."""
    axes = {"L": 0, "R": 0, "A": 1, "P": 1, "I": 2, "S": 2}
    if not isinstance(given, str) or sorted(axes.get(letter, 9) for letter in given) != [0, 1, 2]:
        raise BundleError(f"{what}: {given!r} is not three letters such as RAS or LPS")
    return given


def _pixdim(config: Config, transform: Component, where: str) -> tuple[float | None, ...]:
    """mm along three axes; None where MONAI keeps the file's own (not positive, or null)."""
    if config.argument(transform, "diagonal", where, False) is not False:
        raise BundleError(f"{config.path}: {where}: diagonal is not supported")
    for key in ("min_pixdim", "max_pixdim"):
        if config.argument(transform, key, where) is not None:
            raise BundleError(f"{config.path}: {where}: {key} is not supported")
    given = config.argument(transform, "pixdim", where)
    sizes = given if isinstance(given, list) else [given]
    for size in sizes:
        if size is not None and (isinstance(size, bool) or not isinstance(size, int | float)):
            raise BundleError(f"{config.path}: {where}: pixdim {given!r} is not a list of sizes in mm")
    if not sizes:
        raise BundleError(f"{config.path}: {where}: pixdim is empty")
    padded = [*sizes, *[sizes[-1]] * 3][:3]  # as MONAI does: the last one goes on
    return tuple(float(size) if size is not None and size > 0 else None for size in padded)


@dataclass(frozen=True)
class _Step:
    """One normalisation: what it is in a bundle, None where it has no counterpart by itself.

    `affine`: value -> gain * value + offset over the whole image, gain > 0. `own`: it takes low and high, or mean and
    deviation, from the image itself, so that such a map before it makes no difference.
    """

    name: str
    normalise: Mapping[str, Any] | None
    affine: bool = False
    own: bool = False


def _normalise(steps: Sequence[_Step], config: Config) -> Mapping[str, Any]:
    if not steps:
        raise BundleError(f"{config.path}: preprocessing does not say how values are normalised")
    for before, after in pairwise(steps):
        if not (before.affine and after.own):
            raise BundleError(
                f"{config.path}: preprocessing: {after.name} after {before.name} is not supported: "
                "one normalisation is what medpipe does"
            )
    if steps[-1].normalise is None:
        raise BundleError(f"{config.path}: preprocessing: {steps[-1].name} (as set here) is not supported")
    return steps[-1].normalise


def _intensity(config: Config, name: str, transform: Component, where: str) -> _Step:
    def number(key: str, default: float | None = None) -> float:
        return config.number(transform, key, where, default)

    def given(key: str, default: Any = None) -> Any:
        return config.argument(transform, key, where, default)

    def refused(why: str) -> BundleError:
        return BundleError(f"{config.path}: {where}: {why}")

    if name == "NormalizeIntensity":
        if given("subtrahend") is not None or given("divisor") is not None:
            raise refused("subtrahend and divisor are not supported")
        if given("nonzero", False) is not False:
            raise refused("nonzero is not supported, only the whole image")
        return _Step(name, {"kind": "z-score"}, affine=True, own=True)
    if name == "ScaleIntensity":
        if given("minv", 0.0) is None or given("maxv", 1.0) is None:
            raise refused("factor is not supported, only minv and maxv")
        low, high = number("minv", 0.0), number("maxv", 1.0)
        if not low < high:
            raise refused("minv is not below maxv")
        whole = {"kind": "percentile", "low": 0.0, "high": 100.0} if (low, high) == (0, 1) else None
        return _Step(name, whole, affine=True, own=True)
    bottom_top = (given("b_min"), given("b_max"))
    clip = given("clip", False) is True
    if name == "ScaleIntensityRangePercentiles":
        lower, upper = number("lower"), number("upper")
        if not clip or given("relative", False) is not False or bottom_top not in ((0, 1),):
            raise refused("only with clip true, relative false, b_min 0 and b_max 1")
        if not 0 <= lower < upper <= 100:
            raise refused("lower and upper are not 0 <= lower < upper <= 100")
        return _Step(name, {"kind": "percentile", "low": lower, "high": upper}, own=True)
    low, high = number("a_min"), number("a_max")
    if not low < high:
        raise refused("a_min is not below a_max")
    if None in bottom_top:
        if clip:
            raise refused("clip needs b_min and b_max")
        return _Step(f"{name} without clip", None, affine=True)
    bottom, top = number("b_min"), number("b_max")
    if not bottom < top:
        raise refused("b_min is not below b_max")
    if not clip:
        return _Step(f"{name} without clip", None, affine=True)
    std = 1.0 / (top - bottom)
    # values are brought to 0..1 first, then (x - mean) / std: bottom..top
    window = {"kind": "window", "low": low, "high": high, "mean": -bottom * std + 0.0, "std": std}
    return _Step(name, window)


@dataclass(frozen=True)
class Postprocessing:
    """What the transforms after the network come to; `left_out`: the cleaning that the user does without.

    `threshold` is None where the most probable channel is marked (argmax, or nothing said after a softmax).
    """

    activation: str
    threshold: float | None
    left_out: tuple[str, ...]

    @staticmethod
    def of(config: Config, without: Sequence[str] = ()) -> Postprocessing:
        """Raises BundleError for what medpipe has no counterpart of, ConfigError where `without` names no cleaning."""
        wanted = {plain_name(name, CLEANING) for name in without}
        unknown = sorted(wanted - CLEANING)
        if unknown:
            raise ConfigError(f"--without {unknown[0]}: only {', '.join(sorted(CLEANING))} can be left out")
        activation, threshold = None, None
        left_out: list[str] = []
        for target, transform in config.transforms(*AFTER):
            name = plain_name(target, _AFTER)
            where = f"postprocessing {name}"
            if name == "Activations":
                if activation is not None or threshold is not None:
                    raise BundleError(f"{config.path}: {where}: has to come once, before AsDiscrete")
                activation = _activation(config, transform, where)
            elif name == "AsDiscrete":
                if config.argument(transform, "argmax", where, False) is True:
                    if activation == "sigmoid":
                        raise BundleError(f"{config.path}: {where}: argmax after sigmoid is not supported")
                    activation = "softmax"
                else:
                    threshold = _threshold(config, transform, where, threshold)
            elif name in CLEANING:
                if name not in wanted:
                    raise BundleError(
                        f"{config.path}: postprocessing: {target} cleans masks up, which medpipe does not do; "
                        f"`--without {target}` takes the network without it"
                    )
                left_out.append(name)
            elif name not in _NOTHING_AFTER:
                raise BundleError(f"{config.path}: postprocessing: {name} is not supported")
        if activation is None:
            raise BundleError(f"{config.path}: postprocessing has no Activationsd with sigmoid or softmax")
        if activation == "softmax" and threshold not in (None, 0.5):
            raise BundleError(
                f"{config.path}: postprocessing AsDiscrete threshold {threshold} after softmax is not supported"
            )
        missing = sorted(wanted - set(left_out))
        if missing:
            raise ConfigError(f"--without {missing[0]}: the bundle has none in its postprocessing")
        if activation == "sigmoid" and threshold is None:
            threshold = 0.5
        return Postprocessing(activation, threshold, tuple(dict.fromkeys(left_out)))


def _activation(config: Config, transform: Component, where: str) -> str | None:
    if transform.get("other") is not None:
        raise BundleError(f"{config.path}: {where}: other is not supported, only sigmoid and softmax")
    chosen = [
        kind for kind in ("softmax", "sigmoid") if config.argument(transform, kind, where, False) is True
    ]
    if len(chosen) > 1:
        raise BundleError(f"{config.path}: {where}: softmax and sigmoid at once are not supported")
    return chosen[0] if chosen else None


def _threshold(config: Config, transform: Component, where: str, before: float | None) -> float | None:
    if config.argument(transform, "threshold", where) is None:
        return before
    threshold = config.number(transform, "threshold", where)
    if not 0 < threshold < 1 or before is not None:
        raise BundleError(f"{config.path}: {where}: threshold {threshold:g}: one between 0 and 1 is needed")
    return threshold
