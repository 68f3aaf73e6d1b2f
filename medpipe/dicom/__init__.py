"""Instance files -> images with their grid in patient space, or a reason why not. Foreign bytes stay in a child."""

from medpipe.dicom.classes import is_own_output
from medpipe.dicom.guarded import Assembly, GuardedReader, Scan, read_headers
from medpipe.dicom.headers import InstanceHeader

__all__ = ["Assembly", "GuardedReader", "InstanceHeader", "Scan", "is_own_output", "read_headers"]
