"""One TOML file -> the whole, checked description of a training run."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from medpipe.bundle.description import HyperValue
from medpipe.bundle.input_spec import InputSpec, Section
from medpipe.errors import ConfigError
from medpipe.training.dicom_pairs import Label
from medpipe.training.ways import Restore, Unlabelled

EXPERIMENT = "experiment.toml"
FOLDS = "folds.toml"

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=1)]
DrawnSeed = Annotated[int, Field(ge=1000)]


class Network(Section):
    """A network of nets.registry; `in_channels` and `classes` come from input and data.

    `weights` is a run's checkpoint or a bundle's model.safetensors to begin with, beside the experiment. `take` names
    the parts of the network that are taken from it ("encoder"); none named: all, and nothing may be missing or left.
    `encoder_weights`, in its place, is a MobileNetV3 of torchvision or timm (.pth or .safetensors) for the encoder.
    """

    name: str
    weights: Path | None = None
    encoder_weights: Path | None = None
    take: tuple[str, ...] = ()
    hyper: dict[str, HyperValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _begins_once(self) -> Network:
        if self.weights is not None and self.encoder_weights is not None:
            raise ValueError("weights hold an encoder already; leave out encoder_weights, or weights")
        return self


class Data(Section):
    """A folder that medpipe.training.sources reads, and how its images are parted.

    `folds` is a TOML file beside the experiment; the images of fold `held_out` are in no training step, and with "none"
    every fold trains: for the network that ships, after others were measured on each fold. The images of `thresholds`
    are in no training step either: thresholds are chosen on them, so that fold `held_out` stays unseen. Instead of a
    list, `thresholds_share` takes every n-th of the other folds' sorted names, n the nearest to 1 / share. With
    `thresholds_always` the list is kept out of every fold's run, so that networks of several can make one bundle.
    `weights` says of hard images how much more often than others patches are cut from them (1: as often).
    """

    classes: tuple[str, ...] = Field(min_length=1, max_length=8)
    folds: Path
    held_out: Annotated[int, Field(ge=0)] | Literal["none"] = 0
    thresholds: tuple[str, ...] = ()
    thresholds_share: Annotated[float, Field(gt=0, le=0.5)] | None = None
    thresholds_always: bool = False
    weights: dict[str, Positive] = Field(default_factory=dict)

    @property
    def fold(self) -> int | None:
        """The fold held out; None where every fold trains."""
        return None if self.held_out == "none" else self.held_out


class Drawn(Section):
    """Drawn pictures (medpipe.samples) mixed in: which seeds, and the share of patches cut from them.

    Seeds below 1000 belong to the demo, the golden cases and the tests.
    """

    seeds: tuple[DrawnSeed, ...] = Field(min_length=1)
    share: Share = 0.1
    rows: int = Field(default=2848, ge=256)
    columns: int = Field(default=4288, ge=256)


class Stage(Section):
    """Patches of another size up to a part of the budget: small ones first are seen more often (progressive sizes)."""

    until: Share
    size: Annotated[int, Field(ge=32)] | tuple[Side, Side, Side]
    batch: int = Field(ge=1)


class Paste(Section):
    """Lesions of other training pictures pasted into patches (medpipe.training.pasting).

    `share` of the patches get 1 to `most`, each of a random one of `classes` (none named: of every class).
    """

    share: Share = 0.3
    classes: tuple[str, ...] = ()
    most: int = Field(default=3, ge=1, le=32)


class Patches(Section):
    """Patches: mostly around a lesion of a random class, at a random place in the patch; some background.

    `pictures` weighs the pictures that have the class: all alike ("equal"), or by the square root of its area in them
    ("lesions": a picture full of lesions is seen more often, but not as much more as it has more).
    `size` is one side of a square picture, or (k, j, i) of a volume. `rotation` in degrees and `elastic` in working
    pixels are the largest angle and the standard deviation of the displacement; `flips` are axes of (k, j, i).
    """

    size: Annotated[int, Field(ge=32)] | tuple[Side, Side, Side] = 384
    batch: int = Field(default=4, ge=1)
    stages: tuple[Stage, ...] = ()
    background: Share = 1 / 6
    pictures: Literal["equal", "lesions"] = "equal"
    paste: Paste | None = None
    zoom: tuple[Positive, Positive] = (0.75, 1.3)
    flips: tuple[Literal[0, 1, 2], ...] = (2,)
    quarter_turns: bool = True
    rotation: float = Field(default=0.0, ge=0, le=180)
    elastic: float = Field(default=0.0, ge=0)
    gain: tuple[Positive, Positive] = (0.75, 1.3)
    channel_gain: tuple[Positive, Positive] = (0.85, 1.18)
    gamma: tuple[Positive, Positive] = (0.8, 1.25)
    shift: float = Field(default=0.1, ge=0)
    blur: Share = 0.2
    noise: Share = 0.0
    jpeg: Share = 0.0

    def at(self, done: float) -> Patches:
        """As they are at a part `done` (0..1) of the budget: the first stage that lasts longer, else themselves."""
        for stage in self.stages:
            if done < stage.until:
                return self.model_copy(update={"size": stage.size, "batch": stage.batch})
        return self

    def shape(self, *, flat: bool) -> tuple[int, int, int]:
        """Sizes along (k, j, i); one number is the side of a square, or of a cube."""
        if isinstance(self.size, int):
            return (1 if flat else self.size, self.size, self.size)
        return self.size


class Loss(Section):
    """Weights of the terms of nets.losses.WeightedLoss (0: left out) and their settings.

    `hardest` is the share of pixels that the focal term counts (OHEM; 1: all).
    """

    focal: float = Field(default=10.0, ge=0)
    dice: float = Field(default=1.0, ge=0)
    tversky: float = Field(default=0.0, ge=0)
    blob: float = Field(default=0.0, ge=0)
    gamma: float = Field(default=2.0, ge=0)
    alpha: Share = 0.75
    hardest: Share = 1.0
    missed: Share = 0.7
    exponent: Positive = 1.0


class Distil(Section):
    """A teacher that the network also follows: a bundle's folder beside the experiment, of the same input."""

    teacher: Path
    weight: Positive = 1.0
    temperature: Positive = 2.0


class Optimiser(Section):
    """AdamW with linear warm-up and a cosine down to `floor` of the rate at the end of the budget."""

    rate: Positive = 2e-3
    weight_decay: float = Field(default=1e-2, ge=0)
    warm_up_steps: int = Field(default=200, ge=0)
    floor: Share = 0.01
    clip: Positive = 1.0
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients make one step: a larger batch in the memory of a small one."""
    amp: bool = True
    """Half precision where the device has it and gains by it; off: float32, to compare."""
    ema: Share = 0.998


class Budget(Section):
    """When the run ends: after `minutes` of training, counted over resumes, or after `steps`, whichever is first.

    With `steps` alone a run is the same on every resume, step by step; with `minutes` the rate follows the clock.
    """

    minutes: Positive | None = None
    steps: int | None = Field(default=None, ge=1)
    save_minutes: Positive = 2.0
    patience: int | None = Field(default=None, ge=1)
    """Ends after so many measurements without a better one on the threshold images; the best weights are exported."""
    validate_minutes: Positive = 12.0

    @model_validator(mode="after")
    def _ends(self) -> Budget:
        if self.minutes is None and self.steps is None:
            raise ValueError("needs minutes or steps, else the run never ends")
        return self


class Decision(Section):
    """What thresholds and smallest sizes are chosen for, on the threshold images.

    `lesions`: pooled Dice, then lesion-wise F1; for many small findings. `images`: the mean over images of each one's
    Dice (1 where nothing is there and nothing is marked), for one finding in an image or none. `crf = "measure"`: a
    class uses the CRF where the threshold images show that it gains; a class that states `crf` itself keeps that.
    """

    measure: Literal["lesions", "images"] = "lesions"
    crf: Literal["off", "measure"] = "off"


class Experiment(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    seed: int = Field(default=0, ge=0)
    task: Literal["segment", "restore"] = "segment"
    """`restore`: the network learns to undo damage to patches, without any truth; a beginning for others."""
    network: Network
    data: Data
    input: InputSpec
    drawn: Drawn | None = None
    patches: Patches = Patches()
    loss: Loss = Loss()
    distil: Distil | None = None
    unlabelled: Unlabelled | None = None
    restore: Restore = Restore()
    optimiser: Optimiser = Optimiser()
    decision: Decision = Decision()
    budget: Budget
    bundle: dict[str, Any] = Field(default_factory=dict)
    """What bundle.toml says besides network, input, thresholds, sizes; checked when it is written."""

    @model_validator(mode="after")
    def _can_paste(self) -> Experiment:
        paste = self.patches.paste
        if paste is None:
            return self
        if self.input.spatial_dims != 2 or self.input.normalise.kind == "z-score":
            raise ValueError("patches.paste is for 2-D pictures that are not z-scored")
        if self.task == "restore":
            raise ValueError('patches.paste: task = "restore" looks at no lesions')
        strange = sorted(set(paste.classes) - set(self.data.classes))
        if strange:
            raise ValueError(f"patches.paste.classes: {', '.join(strange)}: not among data.classes")
        return self

    @model_validator(mode="after")
    def _ways_agree(self) -> Experiment:
        if self.task == "restore" and self.distil is not None:
            raise ValueError('distil: task = "restore" has no classes to be taught')
        if self.task == "restore" and self.drawn is not None:
            raise ValueError('drawn: task = "restore" learns from real pictures alone')
        if self.network.take and self.network.weights is None:
            raise ValueError("network.take: there are no network.weights to take from")
        strange = sorted(set(self.unlabelled.classes if self.unlabelled else ()) - set(self.data.classes))
        if strange:
            raise ValueError(f"unlabelled.classes: {', '.join(strange)}: not among data.classes")
        return self

    @model_validator(mode="after")
    def _bundle_has_its_tables(self) -> Experiment:
        rows = self.bundle.get("classes", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
            raise ValueError("bundle.classes: tables [[bundle.classes]], each with the id of a class")
        if not all(isinstance(row.get("type", []), list) for row in rows):
            raise ValueError("bundle.classes: type is a code: [value, scheme, meaning]")
        texts = self.bundle.get("card", {})
        if isinstance(texts, dict) and not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("bundle.card: its values are texts")
        for table in ("card", "window", "provenance"):
            if not isinstance(self.bundle.get(table, {}), dict):
                raise ValueError(f"bundle.{table}: a table [bundle.{table}]")
        return self

    @property
    def outputs(self) -> int:
        """Channels that the network gives: a logit per class, or the restored channels of the image."""
        return len(self.data.classes) if self.task == "segment" else self.input.channels

    @property
    def labels(self) -> tuple[Label, ...]:
        """The classes as a SEG may know them."""
        rows = {row.get("id"): row for row in self.bundle.get("classes", ())}
        return tuple(
            Label(c, rows[c].get("name", ""), *rows[c].get("type", ("",))[:2]) if c in rows else Label(c)
            for c in self.data.classes
        )


class Split(Section):
    """Names of the pictures that train, that choose thresholds, and that measure."""

    training: tuple[str, ...]
    thresholds: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def unseen(self) -> tuple[str, ...]:
        """What figures come from: the fold held out, else the pictures for thresholds, which no step saw either."""
        return self.held_out or self.thresholds


def load_experiment(path: Path) -> Experiment:
    """Reads an experiment; its paths are taken from where the file lies. Raises ConfigError that names the key."""
    try:
        experiment = Experiment.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{path}: {key}: {first['msg'].removeprefix('Value error, ')}") from error
    return _anchored(experiment, path.parent)


def _anchored(experiment: Experiment, folder: Path) -> Experiment:
    """Its relative paths as seen from `folder`."""
    places = {
        "data": ("folds",),
        "network": ("weights", "encoder_weights"),
        "distil": ("teacher",),
        "unlabelled": ("folder",),
    }
    sections = {}
    for name, keys in places.items():
        section = getattr(experiment, name)
        files = {key: getattr(section, key, None) for key in keys}
        beside = {key: folder / file for key, file in files.items() if file is not None}
        if beside:
            sections[name] = section.model_copy(update=beside)
    return experiment.model_copy(update=sections)


def load_run(run: Path) -> Experiment:
    """The experiment as it was copied into a run's folder."""
    experiment = load_experiment(run / EXPERIMENT)
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={"folds": run / FOLDS})})


def read_folds(path: Path) -> tuple[tuple[str, ...], ...]:
    """Picture names per fold. Raises ConfigError where a picture is in two folds or the file has another form."""
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))["fold"]
        folds = tuple(tuple(str(name) for name in row["pictures"]) for row in rows)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a list of folds ([[fold]] with pictures = [...]): {error}") from error
    names = [name for fold in folds for name in fold]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{path}: in two folds: {', '.join(twice)}")
    return folds


def split(data: Data) -> Split:
    """Parts the folds as `data` says. Raises ConfigError for an unknown name, or a held-out threshold picture."""
    folds = read_folds(data.folds)
    if data.fold is not None and data.fold >= len(folds):
        raise ConfigError(f"{data.folds}: there is no fold {data.fold}, only 0 to {len(folds) - 1}")
    others = [name for k, fold in enumerate(folds) if k != data.fold for name in fold]
    stray = sorted(set(data.thresholds) - set(others))
    if stray:
        raise ConfigError(
            f"data.thresholds: {', '.join(stray)}: not a picture of {data.folds} outside the fold held out"
        )
    strange = sorted(set(data.weights) - {name for fold in folds for name in fold})
    if strange:
        raise ConfigError(f"data.weights: {', '.join(strange)}: in no fold of {data.folds}")
    thresholds = data.thresholds or every_nth(others, data.thresholds_share)
    training = tuple(sorted(set(others) - set(thresholds)))
    held_out = () if data.fold is None else folds[data.fold]
    return Split(training=training, thresholds=thresholds, held_out=held_out)


def every_nth(names: Sequence[str], share: float | None) -> tuple[str, ...]:
    """About a share of the names: in sorted order every n-th, n = 1 / share, from the middle of the first n on."""
    if share is None:
        return ()
    n = round(1 / share)
    return tuple(sorted(names)[n // 2 :: n])
