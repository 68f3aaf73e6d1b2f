"""The window that a MONAI bundle's inferer slides, and the axes along which the network sees a volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medpipe.errors import BundleError, ConfigError
from medpipe.imports.monai_config import Component, Config, target_of
from medpipe.imports.monai_transforms import Preprocessing, orientation
from medpipe.imports.source import needed

_SLIDING = ("SlidingWindowInferer", "SlidingWindowInfererAdapt", "SliceInferer")
_MOST_OVERLAP = 0.9


@dataclass(frozen=True)
class Window:
    """`patch` along the network's axes; `sliced`: the axis (0, 1, 2) across which a 2-D network sees a volume."""

    patch: list[int]
    overlap: float
    padding: str
    sliced: int | None

    @staticmethod
    def of(config: Config, shape: Any) -> Window:
        """`shape`: spatial_shape of metadata.json, the window where no inferer says one. Raises BundleError."""
        inferer: Component = config.component("inferer") or {"_target_": "SimpleInferer"}
        name = target_of(inferer, f"{config.path}: inferer")
        if name == "SimpleInferer":
            return Window(_sizes(config, shape, shape), 0.25, "zero", None)
        if name not in _SLIDING:
            raise BundleError(f"{config.path}: inferer: {name} is not supported, only {', '.join(_SLIDING)}")
        sliced = None
        if name == "SliceInferer":
            sliced = config.argument(inferer, "spatial_dim", "inferer", 0)
            if sliced not in (0, 1, 2) or isinstance(sliced, bool):
                raise BundleError(f"{config.path}: inferer: spatial_dim {sliced!r} is not 0, 1 or 2")
        given = config.value(inferer.get("roi_size", shape), "inferer roi_size")
        patch = _sizes(config, given, [1, 1] if sliced is not None else shape)
        if sliced is not None and len(patch) != 2:
            raise BundleError(f"{config.path}: inferer: roi_size of a SliceInferer has two sizes")
        return Window(patch, _overlap(config, inferer), _padding(config, inferer), sliced)

    def input_axes(self, before: Preprocessing, said: str | None, config: Config) -> dict[str, Any]:
        """`orientation`, `scale` and `spacing` of a bundle's [input]; `said` is the user's --orientation.

        MONAI's arrays are (x, y, z), and `axcodes` (or `said`, of their files' axes) say where these run to. Ours are
        (K, J, I), and `orientation` says where (i, j, k) run to. A 3-D network sees their axes as ours: axis 0 is k. A
        2-D network that is slid across axis d sees the other two, a and b, in their order: j is a, i is b, k is d.
        """
        if len(self.patch) == 2 and self.sliced is None:
            return _of_pictures(before, said, config)
        along = _along(before, said, config)
        order = (0, 1, 2)
        if self.sliced is not None:
            a, b = (axis for axis in range(3) if axis != self.sliced)
            order = (self.sliced, a, b)
        axes = {"orientation": "".join(along[axis] for axis in reversed(order))}
        if not before.pixdim:
            return {**axes, "scale": "none"}
        spacing = [before.pixdim[axis] for axis in order]
        if self.sliced is not None:
            if spacing[0] is not None:
                raise BundleError(
                    f"{config.path}: preprocessing Spacing: makes new slices for a 2-D network, which is not "
                    f"supported (pixdim {spacing[0]:g} along axis {self.sliced})"
                )
            spacing = spacing[1:]
        if None in spacing:
            if set(spacing) == {None}:
                return {**axes, "scale": "none"}
            raise BundleError(
                f"{config.path}: preprocessing Spacing: one axis kept as it is (pixdim -1 or null) beside one that "
                "is not: medpipe needs a spacing for each"
            )
        return {**axes, "scale": "spacing", "spacing": spacing}


def _along(before: Preprocessing, said: str | None, config: Config) -> str:
    """Where the axes (0, 1, 2) of the arrays that the network learned from ran to."""
    if said == "source":
        raise ConfigError(
            "--orientation source: MONAI's arrays are (x, y, z), ours slices first; say where the files' axes "
            "(i, j, k) ran to (RAS, LPS)"
        )
    if said is not None:
        try:
            orientation(said, "--orientation")
        except BundleError as error:
            raise ConfigError(str(error)) from error
        if before.axcodes is not None and said != before.axcodes:
            raise ConfigError(f"--orientation {said}: {config.path} says {before.axcodes} (Orientationd)")
    along: str = needed(before.axcodes or said, "--orientation", "the preprocessing has no Orientationd")
    return along


def _of_pictures(before: Preprocessing, said: str | None, config: Config) -> dict[str, Any]:
    if not before.rows_first:
        raise BundleError(
            f"{config.path}: a 2-D network without SliceInferer sees pictures as (x, y), mirrored along the diagonal; "
            'only with LoadImaged of reader PILReader and "reverse_indexing": false is it supported'
        )
    if before.axcodes or before.pixdim:
        raise BundleError(
            f"{config.path}: preprocessing: Orientation and Spacing of pictures are not supported"
        )
    if said not in (None, "source"):
        raise ConfigError(f"--orientation {said}: pictures come as they are (source)")
    return {"orientation": "source", "scale": "none"}


def _sizes(config: Config, given: Any, like: Any) -> list[int]:
    if isinstance(given, int) and not isinstance(given, bool) and isinstance(like, list):
        given = [given] * len(like)
    fine = isinstance(given, list) and len(given) in (2, 3)
    if not fine or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in given):
        raise BundleError(
            f"{config.path}: inferer: roi_size (else metadata's spatial_shape) is not a list of sizes"
        )
    return [int(n) for n in given]


def _overlap(config: Config, inferer: Component) -> float:
    given = config.value(inferer.get("overlap", 0.25), "inferer overlap")
    parts = given if isinstance(given, list) and given else [given]
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, int | float) or not 0 <= part < 1:
            raise BundleError(f"{config.path}: inferer: overlap {given!r} is not a part, 0 to 1")
    return min(float(max(parts)), _MOST_OVERLAP)


def _padding(config: Config, inferer: Component) -> str:
    """What stands around a volume smaller than the window; MONAI's own choice is 0."""
    mode = config.argument(inferer, "padding_mode", "inferer", "constant")
    if mode == "replicate":
        return "edge"
    if mode != "constant" or config.argument(inferer, "cval", "inferer", 0) != 0:
        raise BundleError(
            f"{config.path}: inferer: padding_mode {mode!r}, only replicate, and constant with cval 0"
        )
    return "zero"
