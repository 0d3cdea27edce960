"""A prediction log in a process of its own, to be killed: its arguments are those of `intake`."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine

from service_kit.clock import SystemClock
from service_kit.database import make_engine
from service_kit.streams import EventStreams, StreamConsumer
from serving_svc.prediction_log import PredictionFiles, PredictionRecorder
from serving_svc.service import prediction_intake
from serving_svc.service.predictions import LogCare
from serving_svc.storage.prediction_files import SqlPredictionCatalogue
from serving_svc.storage.tables import CONSUMED

STREAM, GROUP, BATCH = "predictions", "log", 4
KEEP = timedelta(days=30)


def intake(
    engine: Engine, redis_url: str, prefix: str, folder: Path
) -> prediction_intake.PredictionIntake:
    """A log that takes few events at a time and looks after its files all the while."""
    files, catalogue = PredictionFiles(folder), SqlPredictionCatalogue(engine)
    consumer = StreamConsumer(
        engine,
        CONSUMED,
        EventStreams(redis_url, prefix),
        GROUP,
        STREAM,
        PredictionRecorder(files, catalogue).handle,
        batch=BATCH,
        claim_after=timedelta(milliseconds=100),
    )
    care = LogCare(catalogue, files, SystemClock(), KEEP)
    return prediction_intake.PredictionIntake(consumer, care, 0.02, BATCH)


if __name__ == "__main__":
    prediction_intake.CARE_EVERY_S = 0.05
    sql_url, redis_url, prefix, folder = sys.argv[1:]
    intake(make_engine(sql_url), redis_url, prefix, Path(folder)).start()
    print("ready", flush=True)
    time.sleep(600)
