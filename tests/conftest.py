"""Fixtures for the whole suite of tests."""

pytest_plugins = ["tests.e2e.fixtures", "tests.fixtures"]
