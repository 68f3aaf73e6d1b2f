"""Prediction -> what leaves: DICOM SEG and SR with provenance, masks as files, a preview picture."""

from medpipe.results.mask_files import write_mask_png, write_nifti, write_probabilities
from medpipe.results.options import ResultOptions
from medpipe.results.preview import write_preview
from medpipe.results.read_seg import read_seg
from medpipe.results.study_summary import study_summary
from medpipe.results.write import write_results

__all__ = [
    "ResultOptions",
    "read_seg",
    "study_summary",
    "write_mask_png",
    "write_nifti",
    "write_preview",
    "write_probabilities",
    "write_results",
]
