"""`BatchPredictionService`: scoring of large sets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.data.v1 import data_pb2
from modelyard.serving.v1 import batch_pb2, batch_pb2_grpc

from service_kit.context import current_caller, remaining
from service_kit.names import parse_name
from service_kit.paging import encode_token, page_params
from serving_svc.domain.batches import Batch, Features, Format
from serving_svc.service.batches import BatchService
from serving_svc.service.ports import RequestKey

_BATCH = "batchPredictions/{batch_prediction}"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DEFAULT_WAIT_S, _LONGEST_WAIT_S = 20.0, 60.0
#: Left of a caller's deadline for the answer.
_SPARE_S = 0.5


class BatchPredictionApi(batch_pb2_grpc.BatchPredictionServiceServicer):
    """Contract in, use case, contract out."""

    def __init__(self, batches: BatchService) -> None:
        self._batches = batches

    def CreateBatchPrediction(
        self, request: batch_pb2.CreateBatchPredictionRequest, _: Any
    ) -> batch_pb2.BatchPrediction:
        """Start one."""
        return self._batches.create(_asked(request.batch_prediction), _key("Create", request))

    def GetBatchPrediction(
        self, request: batch_pb2.GetBatchPredictionRequest, _: Any
    ) -> batch_pb2.BatchPrediction:
        """Get one."""
        return batch_to(self._batches.get(_batch_id(request.name)))

    def ListBatchPredictions(
        self, request: batch_pb2.ListBatchPredictionsRequest, _: Any
    ) -> batch_pb2.ListBatchPredictionsResponse:
        """List some."""
        found, token = self._batches.page(page_params(request.page_size, request.page_token))
        return batch_pb2.ListBatchPredictionsResponse(
            batch_predictions=map(batch_to, found), next_page_token=encode_token(token)
        )

    def WaitBatchPrediction(
        self, request: batch_pb2.WaitBatchPredictionRequest, _: Any
    ) -> batch_pb2.BatchPrediction:
        """Wait for one."""
        batch_id = _batch_id(request.name)
        asked = request.timeout.seconds + request.timeout.nanos / 1e9 or _DEFAULT_WAIT_S
        timeout = max(0.0, min(asked, _LONGEST_WAIT_S, remaining() - _SPARE_S))
        return batch_to(self._batches.wait(batch_id, timeout))

    def CancelBatchPrediction(
        self, request: batch_pb2.CancelBatchPredictionRequest, _: Any
    ) -> batch_pb2.BatchPrediction:
        """Stop one."""
        return self._batches.cancel(_batch_id(request.name), _key("Cancel", request))


def lookups_of(signature: bytes) -> tuple[str, tuple[str, ...]]:
    """Name of the feature service, or empty, and names of the outputs of a signature."""
    message = data_pb2.Signature.FromString(signature)
    return message.feature_service, tuple(message.outputs)


def batch_to(batch: Batch) -> batch_pb2.BatchPrediction:
    """A batch prediction as callers see it."""
    message = batch_pb2.BatchPrediction(
        name=batch.name,
        endpoint=f"endpoints/{batch.endpoint_id}",
        model_version=batch.model_version,
        format=f"FORMAT_{batch.format}",
        features=f"FEATURES_{batch.features}",
        row_key=batch.row_key,
        state=f"STATE_{batch.state}",
        row_count=batch.rows,
        done_count=batch.done,
        refused_count=batch.refused,
        output=batch.output,
        errors=batch.errors,
        reason=batch.reason,
        create_time=_moment(batch.created),
        end_time=_moment(batch.ended) if batch.ended else None,
        creator=batch.creator,
    )
    setattr(message, "snapshot" if batch.of_snapshot else "artifact", batch.source)
    return message


def _asked(message: batch_pb2.BatchPrediction) -> Batch:
    ids = parse_name("endpoints/{endpoint}", message.endpoint, field="batch_prediction.endpoint")
    known = batch_pb2.BatchPrediction
    return Batch(
        batch_id="",
        endpoint_id=ids["endpoint"],
        model_version=message.model_version,
        source=message.snapshot or message.artifact,
        created=_EPOCH,
        format=Format(_word(known.Format, message.format, "FORMAT_")),
        features=Features(_word(known.Features, message.features, "FEATURES_")),
        row_key=message.row_key,
        creator=current_caller().principal,
    )


def _word(enum: Any, value: int, prefix: str) -> str:
    # A number that this version does not know stands for nothing said.
    name = enum.Name(value) if value in enum.values() else f"{prefix}UNSPECIFIED"
    return str(name).removeprefix(prefix)


def _batch_id(name: str) -> str:
    return parse_name(_BATCH, name)["batch_prediction"]


def _key(method: str, request: Any) -> RequestKey[Batch, batch_pb2.BatchPrediction]:
    return RequestKey(
        f"BatchPredictionService.{method}BatchPrediction",
        request.request_id,
        request.SerializeToString(deterministic=True),
        batch_to,
        batch_pb2.BatchPrediction.FromString,
    )


def _moment(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message
