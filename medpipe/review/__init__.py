"""The doctor's pages: a worklist, and OHIF over the PACS's own DICOMweb, read only, from one origin."""
