"""Fixtures and settings for the whole suite of tests."""

from hypothesis import settings

pytest_plugins = ["tests.e2e.fixtures", "tests.fixtures"]

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
