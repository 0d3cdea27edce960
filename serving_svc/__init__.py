"""Endpoints, their replicas on Ray Serve, traffic tables and rollouts."""
