"""The rules of training: pipelines, checks, metrics, encoding and the gate."""
