"""Pipelines: from validated data to a gated, registered and rolled-out model version."""
