"""A process that carries out a run, to be killed: `python -m … URL APP_NAME FOLDER RUN_ID`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from service_kit.clock import SystemClock
from service_kit.database import make_engine
from service_kit.durable import DurableEngine
from tests.training_svc.world import World
from training_svc import service
from training_svc.plugins import check_plugins
from training_svc.schedules import check_schedule
from training_svc.service import Training
from training_svc.storage import SqlStore
from training_svc.workflow import RunWorkflow


def build(url: str, app_name: str, world: World) -> tuple[DurableEngine, Training, SqlStore]:
    """The use cases over a real engine and a real database, with a world of fakes."""
    engine = make_engine(url)
    clock, store = SystemClock(), SqlStore(engine)
    durable_url = url.replace(".db", "_durable.db") if url.startswith("sqlite") else url
    durable = DurableEngine(durable_url, app_name, "1")
    durable.queue(service.QUEUE, 4)
    durable.workflow(service.WORKFLOW)(RunWorkflow(store, world.steps, clock))
    return durable, Training(clock, store, durable, check_plugins, check_schedule), store


def main(url: str, app_name: str, folder: str, run_id: str) -> None:
    durable, training, store = build(url, app_name, World(Path(folder)))
    durable.launch()
    with store.reading() as records:
        run = records.run(run_id)
    assert run is not None
    training.start(run)
    time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
