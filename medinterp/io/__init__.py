"""Reading and writing scans: one file per format, read beside write."""
