"""Use cases of conversions."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace

from service_kit.clock import Clock
from service_kit.errors import NotFound
from service_kit.ids import uuid7_str
from training_svc.domain.conversions import Conversion, ConversionState, check_wanted, ended
from training_svc.ports import Engine, Records, Store
from training_svc.service.recovery import WORKFLOW_LOST, recover

WORKFLOW = "conversion"
QUEUE = "conversions"
POLL = 0.2


@dataclass(frozen=True, slots=True)
class Conversions:
    """Use cases. The caller opens the transaction; a conversion is started after its commit."""

    clock: Clock
    store: Store
    engine: Engine

    def create(self, records: Records, wanted: Conversion) -> Conversion:
        """Records a conversion; `start` sets it going.

        Raises:
            InvalidArgument: Names the field at fault.
        """
        check_wanted(wanted)
        conversion = replace(wanted, id=uuid7_str(), create_time=self.clock.now())
        records.save_conversion(conversion)
        return conversion

    def get(self, records: Records, conversion_id: str) -> Conversion:
        """Gets a conversion; raises NotFound."""
        return _found(records.conversion(conversion_id))

    def start(self, conversion: Conversion) -> None:
        """Sets a recorded conversion going; doing it again changes nothing."""
        if not conversion.state.ended:
            given = {"conversion": conversion.id}
            self.engine.start(WORKFLOW, conversion.id, given, queue=QUEUE)

    def wait(self, conversion_id: str, timeout: float) -> Conversion:
        """Waits until a conversion has ended or the time (seconds) is up."""
        deadline = time.monotonic() + timeout
        while True:
            with self.store.reading() as records:
                conversion = self.get(records, conversion_id)
            if conversion.state.ended or time.monotonic() > deadline:
                return conversion
            time.sleep(POLL)

    def cancel(self, records: Records, conversion_id: str) -> Conversion:
        """Stops a conversion (`stop` ends its workflow); nothing happens to one that has ended."""
        conversion = _found(records.conversion(conversion_id, to_change=True))
        if conversion.state.ended:
            return conversion
        stopped = ended(
            conversion, ConversionState.CANCELLED, "stopped by a person", self.clock.now()
        )
        records.save_conversion(stopped)
        return stopped

    def stop(self, conversion: Conversion) -> None:
        """Ends the workflow of a cancelled conversion; doing it again changes nothing."""
        if conversion.state is ConversionState.CANCELLED:
            with suppress(NotFound):  # it was never started, and a start would end at once
                self.engine.cancel(conversion.id)

    def recover(self) -> None:
        """Brings records and workflows together again that a crash has parted."""
        with self.store.reading() as records:
            unfinished = records.unfinished_conversions()
        recover(self.engine, unfinished, self.start, self._give_up)

    def _give_up(self, lost: Conversion) -> None:
        with self.store.transaction() as records:
            conversion = records.conversion(lost.id, to_change=True)
            if conversion is not None and not conversion.state.ended:
                records.save_conversion(
                    ended(conversion, ConversionState.FAILED, WORKFLOW_LOST, self.clock.now())
                )


def _found(conversion: Conversion | None) -> Conversion:
    if conversion is None:
        raise NotFound("CONVERSION_NOT_FOUND", "no such conversion", field="name")
    return conversion
