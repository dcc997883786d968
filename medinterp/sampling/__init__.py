"""Schedules and samplers of the reverse diffusion."""
