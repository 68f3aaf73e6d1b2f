"""Which JPEG streams are kept: only what a reader of baseline JPEG and of the ophthalmic IOD understands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from medpipe.samples import wrap_photo
from medpipe.samples.fundus import draw_fundus

NOT_KEPT: dict[str, tuple[str, dict[str, Any]]] = {
    "progressive": ("RGB", {"progressive": True}),
    "coded as RGB": ("RGB", {"keep_rgb": True}),
    "CMYK": ("CMYK", {}),
}


@pytest.mark.parametrize("case", NOT_KEPT)
def test_other_jpegs_become_native_pixels_that_the_standard_allows(case: str, tmp_path: Path) -> None:
    mode, options = NOT_KEPT[case]
    source = tmp_path / "eye.jpg"
    PillowImage.fromarray(draw_fundus(1, 480, 321).picture).convert(mode).save(source, **options)
    wrapped = wrap_photo(source, tmp_path / "eye.dcm", laterality="R")
    dataset = dcmread(wrapped)
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian, "not labelled as baseline"
    assert dataset.PhotometricInterpretation == "RGB"
    assert dataset.LossyImageCompression == "01", "what was lossy stays lossy"
    with PillowImage.open(source) as opened:
        assert np.array_equal(dataset.pixel_array, np.asarray(opened.convert("RGB")))
    if shutil.which("dciodvfy") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("dciodvfy is not installed")
        pytest.skip("dciodvfy is not installed")
    said = subprocess.run(["dciodvfy", "-new", str(wrapped)], capture_output=True, text=True, timeout=60)
    assert "Error" not in said.stderr + said.stdout, said.stderr


def test_a_baseline_jpeg_is_kept(tmp_path: Path) -> None:
    """The counterpart: without it, a wrapper that keeps nothing would pass the test above."""
    source = tmp_path / "eye.jpg"
    PillowImage.fromarray(draw_fundus(1, 480, 321).picture).save(source)
    assert dcmread(wrap_photo(source, tmp_path / "eye.dcm")).file_meta.TransferSyntaxUID == JPEGBaseline8Bit
