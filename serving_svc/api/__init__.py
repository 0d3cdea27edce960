"""The gRPC face of serving."""

from serving_svc.api.dataplane_api import DataPlaneApi
from serving_svc.api.serving_api import ServingApi

__all__ = ["DataPlaneApi", "ServingApi"]
