"""Ours beside every baseline, on the same input, in the same run: ``python -m benchmarks`` (``make bench``)."""
