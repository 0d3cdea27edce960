"""Experiments: what is compared, by which rules, and what came out."""
