"""`StreamScorerService`: scoring of events as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import empty_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.serving.v1 import stream_pb2, stream_pb2_grpc

from service_kit.context import current_caller
from service_kit.errors import InvalidArgument
from service_kit.names import parse_name
from service_kit.paging import encode_token, page_params
from serving_svc.domain.scorers import Progress, ScorerState, Start, StreamScorer
from serving_svc.service.ports import RequestKey
from serving_svc.service.scorers import ScorerService

_SCORER = "endpoints/{endpoint}/streamScorers/{stream_scorer}"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STARTS = {stream_pb2.StreamScorer.START_LATEST: Start.LATEST}

Keys = Callable[[StreamScorer], tuple[str, str, str]]
"""Redis keys of a scorer's source, results and dead letters."""


class StreamScorerApi(stream_pb2_grpc.StreamScorerServiceServicer):
    """Contract in, use case, contract out."""

    def __init__(self, scorers: ScorerService, keys: Keys) -> None:
        self._scorers = scorers
        self._keys = keys

    def CreateStreamScorer(
        self, request: stream_pb2.CreateStreamScorerRequest, _: Any
    ) -> stream_pb2.StreamScorer:
        """Create one."""
        return self._scorers.create(_asked(request), self._key("Create", request))

    def GetStreamScorer(
        self, request: stream_pb2.GetStreamScorerRequest, _: Any
    ) -> stream_pb2.StreamScorer:
        """Get one."""
        return self._shown([self._scorers.get(_place(request.name))])[0]

    def ListStreamScorers(
        self, request: stream_pb2.ListStreamScorersRequest, _: Any
    ) -> stream_pb2.ListStreamScorersResponse:
        """List some."""
        page = page_params(request.page_size, request.page_token)
        found, token = self._scorers.page(_endpoint(request.parent), page)
        return stream_pb2.ListStreamScorersResponse(
            stream_scorers=self._shown(found), next_page_token=encode_token(token)
        )

    def PauseStreamScorer(
        self, request: stream_pb2.PauseStreamScorerRequest, _: Any
    ) -> stream_pb2.StreamScorer:
        """Hold one."""
        actor, key = current_caller().principal, self._key("Pause", request)
        return self._scorers.pause(_place(request.name), actor, key)

    def ResumeStreamScorer(
        self, request: stream_pb2.ResumeStreamScorerRequest, _: Any
    ) -> stream_pb2.StreamScorer:
        """Let one go on."""
        actor, key = current_caller().principal, self._key("Resume", request)
        return self._scorers.resume(_place(request.name), actor, key)

    def DeleteStreamScorer(
        self, request: stream_pb2.DeleteStreamScorerRequest, _: Any
    ) -> empty_pb2.Empty:
        """Delete one."""
        key: RequestKey[None, empty_pb2.Empty] = RequestKey(
            "StreamScorerService.DeleteStreamScorer",
            request.request_id,
            request.SerializeToString(deterministic=True),
            lambda _: empty_pb2.Empty(),
            empty_pb2.Empty.FromString,
        )
        return self._scorers.delete(_place(request.name), current_caller().principal, key)

    def _shown(self, scorers: Sequence[StreamScorer]) -> list[stream_pb2.StreamScorer]:
        messages = [self._message(scorer) for scorer in scorers]
        for message, progress in zip(messages, self._scorers.progress(scorers), strict=True):
            if progress is not None:
                message.progress.CopyFrom(_progress(progress))
        return messages

    def _message(self, scorer: StreamScorer) -> stream_pb2.StreamScorer:
        source, results, dead_letters = self._keys(scorer)
        message = stream_pb2.StreamScorer(
            name=scorer.name,
            source_stream=scorer.source,
            result_stream=scorer.results,
            dead_letter_stream=scorer.dead_letters,
            input_fields=dict(scorer.input_fields),
            max_batch_rows=scorer.max_rows,
            start=f"START_{scorer.start}",
            dedupe_limit=scorer.dedupe_limit,
            result_limit=scorer.result_limit,
            state=f"STATE_{scorer.state}",
            source_key=source,
            result_key=results,
            dead_letter_key=dead_letters,
            consumer_group=scorer.group,
            create_time=_moment(scorer.created),
            creator=scorer.creator,
        )
        message.dedupe_window.FromTimedelta(scorer.dedupe_window)
        return message

    def _key(self, method: str, request: Any) -> RequestKey[StreamScorer, stream_pb2.StreamScorer]:
        return RequestKey(
            f"StreamScorerService.{method}StreamScorer",
            request.request_id,
            request.SerializeToString(deterministic=True),
            self._message,
            stream_pb2.StreamScorer.FromString,
        )


def _asked(request: stream_pb2.CreateStreamScorerRequest) -> StreamScorer:
    message = request.stream_scorer
    return StreamScorer(
        uid="",
        endpoint_id=_endpoint(request.parent),
        scorer_id=request.stream_scorer_id,
        source=message.source_stream,
        created=_EPOCH,
        results=message.result_stream,
        dead_letters=message.dead_letter_stream,
        input_fields=dict(message.input_fields),
        max_rows=message.max_batch_rows,
        start=_STARTS.get(message.start, Start.UNSPECIFIED),
        dedupe_window=_window(message),
        dedupe_limit=message.dedupe_limit,
        result_limit=message.result_limit,
        state=ScorerState.RUNNING,
        creator=current_caller().principal,
    )


def _window(message: stream_pb2.StreamScorer) -> timedelta:
    try:
        return message.dedupe_window.ToTimedelta()
    except (ValueError, OverflowError):
        raise InvalidArgument(
            "INVALID_FORMAT", "must be a duration", field="stream_scorer.dedupe_window"
        ) from None


def _progress(progress: Progress) -> stream_pb2.StreamProgress:
    at = progress.last_error_time
    return stream_pb2.StreamProgress(
        read_count=progress.read,
        scored_count=progress.scored,
        refused_count=progress.refused,
        repeated_count=progress.repeated,
        pending_count=progress.pending,
        lag=progress.lag,
        last_error=progress.last_error,
        last_error_time=_moment(at) if at else None,
    )


def _endpoint(name: str) -> str:
    return parse_name("endpoints/{endpoint}", name, field="parent")["endpoint"]


def _place(name: str) -> tuple[str, str]:
    ids = parse_name(_SCORER, name)
    return ids["endpoint"], ids["stream_scorer"]


def _moment(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message
