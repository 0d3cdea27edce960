"""The files of the prediction log: events in columns become Parquet, and Parquet rows again."""

from serving_svc.prediction_log.files import PredictionFiles
from serving_svc.prediction_log.pairs import PairReader
from serving_svc.prediction_log.recorder import PredictionRecorder

__all__ = ["PairReader", "PredictionFiles", "PredictionRecorder"]
