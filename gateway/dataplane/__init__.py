"""The way of a prediction: assignment, features, replicas, fallbacks, log."""
