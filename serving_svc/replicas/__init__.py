"""Replicas on Ray Serve, looked after by a child process of this service.

Ray ends a process that has lost its cluster. So a child speaks with Ray: it may end and come
again while the service goes on pushing tables, and the service starts without waiting for Ray.
"""

from serving_svc.replicas.control import RayReplicas, ReplicaSettings

__all__ = ["RayReplicas", "ReplicaSettings"]
