"""Worked examples of the suite on real data."""
