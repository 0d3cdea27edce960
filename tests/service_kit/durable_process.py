"""A process with workflows, to be killed: ``python -m … URL APP_NAME JOURNAL WORKFLOW_ID``.

Every run of a step writes a line to the journal; the step ``stall`` waits while the file
``JOURNAL.stall`` exists.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from service_kit.durable import DurableEngine, WorkflowContext
from service_kit.durable.outcomes import Json


def build(url: str, app_name: str, journal: Path) -> DurableEngine:
    engine = DurableEngine(url, app_name, "1")

    def act(line: str) -> str:
        with journal.open("a") as file:
            file.write(line + "\n")
        return line

    def stall(key: str) -> str:
        act(f"stall {key}")
        while Path(f"{journal}.stall").exists():
            time.sleep(0.01)
        return "stalled"

    @engine.workflow("pipeline")
    def pipeline(context: WorkflowContext, values: Json) -> Json:
        first = context.step("first", act, "first")
        middle = context.step("stall", stall, context.idempotency_key("stall"))
        last = context.step("last", act, "last")
        return {"steps": [first, middle, last], "input": values}

    return engine


def main(url: str, app_name: str, journal: str, workflow_id: str) -> None:
    engine = build(url, app_name, Path(journal))
    engine.launch()
    engine.start("pipeline", workflow_id, {"model": "delay"})
    time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
