"""Networks and losses in PyTorch. This room knows no DICOM, no files and no queue."""
