"""The gRPC face of serving."""

from serving_svc.api.batches_api import BatchPredictionApi
from serving_svc.api.dataplane_api import DataPlaneApi
from serving_svc.api.predictions_api import PredictionLogApi
from serving_svc.api.scorers_api import StreamScorerApi
from serving_svc.api.serving_api import ServingApi

__all__ = [
    "BatchPredictionApi",
    "DataPlaneApi",
    "PredictionLogApi",
    "ServingApi",
    "StreamScorerApi",
]
