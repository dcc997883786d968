"""Noise models and noise estimation."""
