"""A MONAI bundle of random weights, written as MONAI's own are."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets.unet import UNet

NETWORK = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8, 16],
    "strides": [2, 2],
    "num_res_units": 1,
}
METADATA = {
    "name": "Spleen and liver",
    "version": "0.5.3",
    "network_data_format": {
        "inputs": {"image": {"modality": "CT", "num_channels": 1, "spatial_shape": [32, 32, 32]}},
        "outputs": {
            "pred": {"num_channels": 3, "channel_def": {"0": "background", "1": "spleen", "2": "liver lobe"}}
        },
    },
}
INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    "spacing": [2.0, 1.5, 1.0],
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "network_def": {"_target_": "UNet", **NETWORK},
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": "@spacing", "mode": "bilinear"},
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "image",
                "a_min": -57,
                "a_max": 164,
                "b_min": -1.0,
                "b_max": 1.0,
                "clip": True,
            },
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 48, 32], "overlap": 0.5},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "transform": "$@preprocessing"},
        ],
    },
}


def write(
    folder: Path,
    *,
    script: bool = False,
    metadata: Any = METADATA,
    made: torch.nn.Module | None = None,
    **changes: Any,
) -> tuple[Path, torch.nn.Module]:
    """A bundle folder of random weights; `changes` replace keys of inference.json."""
    torch.manual_seed(0)
    network = made or UNet(**NETWORK).eval()  # type: ignore[arg-type]
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / "inference.json").write_text(json.dumps({**INFERENCE, **changes}))
    if script:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of the sizes it fixes: they are the window's
            traced = torch.jit.trace(network, torch.zeros(1, 1, 32, 48, 32))  # type: ignore[no-untyped-call]
            traced.save(folder / "models" / "model.ts")
    else:
        torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder, network
