"""What holds for every test: Hypothesis sets no deadline, since a loaded machine is not a bug."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
