"""How Hypothesis runs everywhere: the same examples each time, and no clock, which on a busy machine fails anything."""

from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")
