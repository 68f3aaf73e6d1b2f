"""A trained model as a folder: bundle.toml (what it is for, how it is fed) and model.safetensors (its weights).

Everything is checked when it is loaded, so a Bundle that exists is sound. Nothing in the folder is executed: the
network is a name of nets.registry with plain numbers, the weights are safetensors (no pickle), and no path leaves
the folder. Each fault is one line that names the key, the value and what is allowed.
"""

from medpipe.bundle.description import (
    Axis,
    Bounds,
    ClassSpec,
    Code,
    CrfSpec,
    Network,
    PrecisionSpec,
    ProvenanceSpec,
    SummaryRule,
    WindowSpec,
)
from medpipe.bundle.folder import (
    DESCRIPTION,
    GOLDEN,
    SHIPPED,
    WEIGHTS,
    Bundle,
    available_bundles,
    find_bundle,
    load_bundle,
    parse_description,
    weight_names,
)
from medpipe.bundle.input_spec import Extent, InputSpec, MeanStd, Percentile, Window, ZScore
from medpipe.bundle.nouns import noun_of

__all__ = [
    "DESCRIPTION",
    "GOLDEN",
    "SHIPPED",
    "WEIGHTS",
    "Axis",
    "Bounds",
    "Bundle",
    "ClassSpec",
    "Code",
    "CrfSpec",
    "Extent",
    "InputSpec",
    "MeanStd",
    "Network",
    "Percentile",
    "PrecisionSpec",
    "ProvenanceSpec",
    "SummaryRule",
    "Window",
    "WindowSpec",
    "ZScore",
    "available_bundles",
    "find_bundle",
    "load_bundle",
    "noun_of",
    "parse_description",
    "weight_names",
]
