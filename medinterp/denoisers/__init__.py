"""Denoisers: (x, sigma) to the expected clean image."""
