"""Which voxels of which input made a measurement what it is."""
