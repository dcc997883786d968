"""Image archives (PACS): sending finished study folders and fetching series, by DICOMweb or DIMSE."""
