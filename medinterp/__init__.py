"""Diffusion denoising of medical volumes, explained. For research, not diagnosis."""
