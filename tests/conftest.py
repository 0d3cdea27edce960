"""Fixtures for the whole suite of tests."""

pytest_plugins = ["tests.fixtures"]
