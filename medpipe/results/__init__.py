"""Prediction -> what leaves: DICOM SEG and SR with provenance, masks as files, a preview picture."""

from medpipe.results.options import ResultOptions

__all__ = ["ResultOptions"]
