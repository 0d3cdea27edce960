"""A process that carries out a conversion, to be killed: `python -m … URL APP_NAME FOLDER ID`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from service_kit.clock import SystemClock
from service_kit.database import make_engine
from service_kit.durable import DurableEngine
from tests.training_svc.world import World
from training_svc.conversion_workflow import ConversionWorkflow
from training_svc.domain.conversions import Conversion
from training_svc.ports import Check, Document
from training_svc.service import Conversions, conversions
from training_svc.storage import SqlStore


def build(url: str, app_name: str, world: World) -> tuple[DurableEngine, Conversions, SqlStore]:
    """The use cases over a real engine and a real database, with a world of fakes."""

    def convert(conversion: Conversion, check: Check) -> Document:
        world.note("convert")
        while world.stall.exists():
            check()
            time.sleep(0.01)
        return world.converter(conversion, check)

    clock, store = SystemClock(), SqlStore(make_engine(url))
    durable_url = url.replace(".db", "_durable.db") if url.startswith("sqlite") else url
    durable = DurableEngine(durable_url, app_name, "1")
    durable.queue(conversions.QUEUE, 1)
    durable.workflow(conversions.WORKFLOW)(ConversionWorkflow(store, convert, clock))
    return durable, Conversions(clock, store, durable), store


def main(url: str, app_name: str, folder: str, conversion_id: str) -> None:
    durable, cases, store = build(url, app_name, World(Path(folder)))
    durable.launch()
    with store.reading() as records:
        conversion = cases.get(records, conversion_id)
    cases.start(conversion)
    time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
