"""The work of one batch prediction, in three steps that may be done again at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelyard.data.v1 import data_pb2

from service_kit.errors import FailedPrecondition
from serving_svc.batch.results import Results
from serving_svc.batch.runner import RayShardRunner
from serving_svc.batch.scoring import ShardTask
from serving_svc.batch.shards import ShardFolder
from serving_svc.batch.sources import Sources
from serving_svc.domain import ModelVersion
from serving_svc.domain.batches import Batch, Features, Progress

Stopped = Callable[[], bool]


class BatchWork:
    """Reads, scores and stores.

    Args:
        folder: Holds a folder for every batch prediction under way.
        config: What a replica of a version is told, as plain values.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sources,
        runner: RayShardRunner,
        results: Results,
        config: Callable[[ModelVersion], dict[str, Any]],
        rows_a_shard: int,
    ) -> None:
        self._folder = folder
        self._sources = sources
        self._runner = runner
        self._results = results
        self._config = config
        self._rows_a_shard = rows_a_shard

    def prepare(self, batch: Batch, version: ModelVersion, stopped: Stopped) -> int | None:
        """Cut the input into shards; gives the number of rows, or nothing when asked to stop."""
        shards = self._shards(batch)
        filled = shards.filled()
        if filled is None:
            signature = data_pb2.Signature.FromString(version.signature)
            rows = self._sources.rows(
                batch, signature.feature_service, needed(batch, signature), shards.folder
            )
            filled = shards.fill(rows, self._rows_a_shard, stopped)
        return None if filled is None else filled[0]

    def score(
        self,
        batch: Batch,
        version: ModelVersion,
        progress: Callable[[Progress], None],
        stopped: Stopped,
    ) -> bool:
        """Score the shards that are not done; False when asked to stop meanwhile."""
        folder = self._shards(batch)
        shards = self._count(folder)
        done = folder.done(shards)
        now = [sum(rows for rows, _ in done.values()), sum(bad for _, bad in done.values())]
        progress(Progress(*now))

        def tell(rows: int, refused: int) -> None:
            now[0] += rows
            now[1] += refused
            progress(Progress(*now))

        left = [shard for shard in range(shards) if shard not in done]
        task = ShardTask(
            replica=self._config(version),
            signature=version.signature.hex(),
            folder=str(folder.folder),
            online=batch.features is Features.ONLINE,
            row_key=batch.row_key,
        )
        return not left or self._runner.score(task, left, tell, stopped)

    def store(self, batch: Batch) -> dict[str, Any]:
        """Store the output; gives its name, that of the errors, and the final counts.

        Raises FailedPrecondition (`ROWS_LOST`) should rows be missing.
        """
        folder = self._shards(batch)
        shards = self._count(folder)
        output, errors = folder.folder / "output.parquet", folder.folder / "errors.parquet"
        rows = folder.join(map(folder.output, range(shards)), output)
        filled = folder.filled()
        if filled is None or rows != filled[0]:
            raise FailedPrecondition("ROWS_LOST", "the output has not one row for each row")
        refused = folder.join(map(folder.errors, range(shards)), errors)
        return {
            "output": self._results.store(output) if shards else "",
            "errors": self._results.store(errors) if refused else "",
            **asdict(Progress(rows, refused)),
        }

    def discard(self, batch: Batch) -> None:
        """Remove what lies on disk."""
        self._shards(batch).remove()

    def _shards(self, batch: Batch) -> ShardFolder:
        return ShardFolder(self._folder / batch.batch_id)

    def _count(self, folder: ShardFolder) -> int:
        filled = folder.filled()
        if filled is None:
            raise FailedPrecondition("INPUT_GONE", "the prepared input is gone")
        return filled[1]


def needed(batch: Batch, signature: data_pb2.Signature) -> set[str]:
    """Columns that the input must have."""
    given = batch.features is not Features.ONLINE
    names = {
        field.name
        for field in signature.inputs
        if given or field.source != data_pb2.InputField.SOURCE_FEATURE
    }
    if not given:
        names |= set(signature.entity_keys)
    return names | ({batch.row_key} if batch.row_key else set())
