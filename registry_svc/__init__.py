"""The record of models, versions, stages, aliases, artifacts, lineage and audit."""
