"""Other people's networks on volumes that they have not seen: by their own code, and imported, through our pipeline.

    python bench/imported.py [monai] [--data HIPPOCAMPUS] [--minutes 3]
    python bench/imported.py nnunet RESULT PREDICTIONS [--data HIPPOCAMPUS]

`monai` trains a small U-Net of MONAI's on folds 1 to 4, with its own transforms on a grid that is no volume's own,
writes a MONAI bundle, and predicts fold 0 with MONAI as the bundle's inference.json says. `nnunet` takes a result
folder that nnU-Net has trained on those folds (nnUNetv2_train 4 3d_fullres all) and the folder of its own predictions
of fold 0 (nnUNetv2_predict -f all --disable_tta). Either is then imported, and the two masks of each volume compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from held_out import DATA, ROOT
from monai.bundle.config_parser import ConfigParser
from monai.data.meta_tensor import MetaTensor
from monai.losses.dice import DiceCELoss
from monai.networks.nets.unet import UNet
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import ResizeWithPadOrCropd
from monai.transforms.intensity.dictionary import NormalizeIntensityd
from monai.transforms.spatial.dictionary import Orientationd, RandAffined, Spacingd
from numpy.typing import NDArray

from medpipe.bundle import Bundle
from medpipe.imports import Choices, import_bundle
from medpipe.inference import load_backend
from medpipe.training.evaluation import predictions
from medpipe.training.experiment import read_folds

CLASSES = ("anterior", "posterior")
GRID = [1.0, 1.2, 0.9]
WINDOW = [48, 56, 48]
NETWORK = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [16, 32, 64],
    "strides": [2, 2],
    "num_res_units": 1,
}
Masks = NDArray[np.bool_]
"""Bool (classes, K, J, I) on the volume's own grid."""


def main() -> None:
    """Prints one Markdown table: mean Dice of either way, and how far they agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["monai", "nnunet"], nargs="?", default="monai")
    parser.add_argument("folders", type=Path, nargs="*", help="of nnU-Net: its result, and its predictions")
    parser.add_argument("--data", type=Path, default=DATA / "hippocampus")
    parser.add_argument("--minutes", type=float, default=3, help="of training (monai)")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"skipped, no data ({options.data.name})")
        return
    folds = read_folds(ROOT / "experiments" / "folds" / "hippocampus.toml")
    unseen, seen = folds[0], [name for fold in folds[1:] for name in fold]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "imported"
        if options.kind == "monai":
            folder = Path(scratch) / "monai"
            steps = train_monai(options.data, seen, folder, options.minutes)
            title = f"MONAI U-Net, {steps} steps of 4 volumes"
            theirs = by_monai(options.data, folder)
            bundle = import_bundle(folder, out)
        else:
            result, predicted = options.folders
            title = f"nnU-Net {result.name}"
            theirs = by_nnunet(predicted)
            lie = Choices(orientation=orientation(options.data, unseen[0]), fold="all")
            bundle = import_bundle(result, out, lie)
        compare(title, bundle, options.data, unseen, theirs)


def compare(
    title: str, bundle: Bundle, data: Path, names: Sequence[str], theirs: Callable[[str], Masks]
) -> None:
    """Prints mean Dice per class against the truth, theirs and ours, and between theirs and ours."""
    rows: list[list[list[float]]] = [[[] for _ in CLASSES] for _ in range(3)]
    given = predictions(bundle, load_backend(bundle, device="cpu"), data, names)
    for name, (prediction, truth) in zip(names, given, strict=True):
        their, our = theirs(name), np.array(prediction.mask)
        for row, (one, two) in zip(rows, ((their, truth), (our, truth), (our, their)), strict=True):
            for c in range(len(CLASSES)):
                row[c].append(2 * (one[c] & two[c]).sum() / max(1, one[c].sum() + two[c].sum()))
    print(f"{title}; {len(names)} volumes, mean Dice\n\n| |", " | ".join(CLASSES), "|\n| --- | --- | --- |")
    for said, row in zip(("by its own code", "imported", "imported against its own"), rows, strict=True):
        print(f"| {said} |", " | ".join(f"{np.mean(values):.3f}" for values in row), "|")


def volume(data: Path, part: str, name: str) -> MetaTensor:
    """(1, x, y, z) float32 with its affine in RAS millimetres, as MONAI's NibabelReader gives it."""
    read = SimpleITK.ReadImage(str(next((data / part).glob(f"{name}.nii*"))))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(read.GetDirection(), (3, 3)) @ np.diag(read.GetSpacing())
    affine[:3, 3] = read.GetOrigin()
    array = SimpleITK.GetArrayFromImage(read).astype(np.float32).transpose(2, 1, 0)
    ras = torch.from_numpy(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    return MetaTensor(torch.from_numpy(array.copy())[None], affine=ras)


def train_monai(data: Path, names: Sequence[str], folder: Path, minutes: float) -> int:
    """Trains in MONAI's own terms and writes a bundle folder; gives the number of steps."""
    torch.manual_seed(0)
    both = ["image", "label"]
    before = Compose(
        [
            Orientationd(both, axcodes="RAS"),
            Spacingd(both, pixdim=GRID, mode=("bilinear", "nearest")),
            NormalizeIntensityd("image"),
            ResizeWithPadOrCropd(both, spatial_size=WINDOW),
        ]
    )
    vary = RandAffined(
        both,
        prob=1.0,
        rotate_range=[0.2] * 3,
        scale_range=[0.1] * 3,
        mode=("bilinear", "nearest"),
        padding_mode="zeros",
    )
    vary.set_random_state(0)
    cases: list[Any] = [
        before({"image": volume(data, "imagesTr", n), "label": volume(data, "labelsTr", n)}) for n in names
    ]
    network, loss = UNet(**NETWORK), DiceCELoss(softmax=True, to_onehot_y=True)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    rng, end, steps = np.random.default_rng(0), time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        batch = [vary(cases[n]) for n in rng.choice(len(cases), 4, replace=False)]
        image, label = (torch.stack([case[key].as_tensor() for case in batch]) for key in both)
        optimiser.zero_grad()
        loss(network(image), label).backward()
        optimiser.step()
        steps += 1
    for part, name, content in (("configs", "metadata", metadata()), ("configs", "inference", inference())):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / f"{name}.json").write_text(json.dumps(content, indent=1))
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return steps


def metadata() -> dict[str, Any]:
    """configs/metadata.json"""
    channels = {"0": "background", **{str(n): name for n, name in enumerate(CLASSES, 1)}}
    image = {"modality": "MR", "num_channels": 1, "spatial_shape": WINDOW}
    pred = {"num_channels": 3, "channel_def": channels}
    data_format = {"inputs": {"image": image}, "outputs": {"pred": pred}}
    return {"name": "Hippocampus", "version": "0.1.0", "network_data_format": data_format}


def inference() -> dict[str, Any]:
    """configs/inference.json"""
    before = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": GRID, "mode": "bilinear"},
        {"_target_": "NormalizeIntensityd", "keys": "image"},
    ]
    after = [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    ]
    return {
        "network_def": {"_target_": "UNet", **NETWORK},
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": WINDOW,
            "overlap": 0.5,
            "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": after},
    }


def by_monai(data: Path, folder: Path) -> Callable[[str], Masks]:
    """Masks of a volume as MONAI makes them of the bundle's own configuration (it reads files by other libraries)."""
    config = ConfigParser()
    config.read_config(str(folder / "configs" / "inference.json"))
    del config["preprocessing"]["transforms"][:2]
    network = config.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    before, inferer, after = (
        config.get_parsed_content(k) for k in ("preprocessing", "inferer", "postprocessing")
    )

    def masks(name: str) -> Masks:
        case = before({"image": volume(data, "imagesTr", name)})
        with torch.inference_mode():
            case["pred"] = inferer(case["image"][None], network)[0]
        return of_labels(np.asarray(after(case)["pred"])[0].transpose(2, 1, 0))

    return masks


def by_nnunet(folder: Path) -> Callable[[str], Masks]:
    """Masks of a volume as nnUNetv2_predict left them."""
    return lambda name: of_labels(
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / f"{name}.nii.gz")))
    )


def of_labels(labels: NDArray[Any]) -> Masks:
    """A mask per class of a picture of labels (K, J, I)."""
    return np.stack([labels == number for number in range(1, len(CLASSES) + 1)])


def orientation(data: Path, name: str) -> str:
    """Where the axes of a volume's file run to."""
    read = SimpleITK.ReadImage(str(next((data / "imagesTr").glob(f"{name}.nii*"))))
    return str(SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(read.GetDirection()))


if __name__ == "__main__":
    main()
