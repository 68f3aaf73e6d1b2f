"""Other people's models as bundles: a MONAI bundle, an nnU-Net v2 result folder, a TorchScript or ONNX file.

Metadata are read as data. No expression is evaluated and no pickled code is run; what needs either is refused, with the
key that asked for it.
"""

from medpipe.imports.source import Choices, import_bundle

__all__ = ["Choices", "import_bundle"]
