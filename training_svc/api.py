"""The gRPC faces of training."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import grpc
from google.protobuf import empty_pb2
from modelyard.training.v1 import conversion_pb2, conversion_pb2_grpc, training_pb2_grpc
from modelyard.training.v1 import training_pb2 as pb

from service_kit.context import remaining
from service_kit.ledger import Ledger
from service_kit.names import parse_name
from service_kit.paging import encode_token, page_params
from training_svc import messages as to
from training_svc.domain.conversions import Conversion
from training_svc.domain.pipelines import Pipeline, PipelineRun, Trigger, TriggerKind
from training_svc.ports import Records
from training_svc.service import Conversions, RunRequest, Training

Context: TypeAlias = grpc.ServicerContext
PIPELINE = "pipelines/{pipeline}"
RUN = "pipelines/{pipeline}/runs/{run}"
CONVERSION = "conversions/{conversion}"
DEFAULT_WAIT, LONGEST_WAIT, SPARE = 20.0, 60.0, 0.5


class TrainingApi(training_pb2_grpc.TrainingServiceServicer):
    """Serves `modelyard.training.v1.TrainingService`."""

    def __init__(self, ledger: Ledger[Records], training: Training) -> None:
        self._ledger = ledger
        self._training = training

    def CreatePipeline(self, request: pb.CreatePipelineRequest, context: Context) -> pb.Pipeline:
        wanted = to.pipeline_from_message(request.pipeline_id, request.pipeline)
        return self._ledger.once(
            request,
            pb.Pipeline,
            lambda records: to.pipeline_to_message(self._training.create_pipeline(records, wanted)),
        )

    def GetPipeline(self, request: pb.GetPipelineRequest, context: Context) -> pb.Pipeline:
        pipeline_id = parse_name(PIPELINE, request.name)["pipeline"]
        with self._ledger.reading() as records:
            found = self._training.get_pipeline(records, pipeline_id)
        return to.pipeline_to_message(found)

    def ListPipelines(
        self, request: pb.ListPipelinesRequest, context: Context
    ) -> pb.ListPipelinesResponse:
        page = page_params(request.page_size, request.page_token)
        with self._ledger.reading() as records:
            found = records.pipelines(page.offset_token, page.size + 1)
        shown = found[: page.size]
        more = encode_token(shown[-1].id) if len(found) > page.size else ""
        return pb.ListPipelinesResponse(
            pipelines=[to.pipeline_to_message(each) for each in shown], next_page_token=more
        )

    def UpdatePipeline(self, request: pb.UpdatePipelineRequest, context: Context) -> pb.Pipeline:
        pipeline_id = parse_name(PIPELINE, request.pipeline.name, field="pipeline.name")["pipeline"]
        wanted = to.pipeline_from_message(pipeline_id, request.pipeline)
        paths = list(request.update_mask.paths)
        return self._ledger.once(
            request,
            pb.Pipeline,
            lambda records: to.pipeline_to_message(
                self._training.update_pipeline(records, wanted, paths)
            ),
        )

    def DeletePipeline(
        self, request: pb.DeletePipelineRequest, context: Context
    ) -> empty_pb2.Empty:
        pipeline_id = parse_name(PIPELINE, request.name)["pipeline"]

        def delete(records: Records) -> empty_pb2.Empty:
            self._training.delete_pipeline(records, pipeline_id)
            return empty_pb2.Empty()

        return self._ledger.once(request, empty_pb2.Empty, delete)

    def RunPipeline(self, request: pb.RunPipelineRequest, context: Context) -> pb.PipelineRun:
        pipeline_id = parse_name(PIPELINE, request.pipeline, field="pipeline")["pipeline"]
        wanted = RunRequest(
            window_end=to.moment(request, "window_end"),
            window_start=to.moment(request, "window_start"),
            trigger=to.trigger_from_message(request.trigger),
            trainer_config=to.struct(request.trainer_config, "trainer_config"),
        )
        return self._start(request, pipeline_id, wanted)

    def run_scheduled(self, pipeline: Pipeline, moment: datetime) -> None:
        """Starts the run of a schedule's moment, unless it was started before."""
        trigger = Trigger(TriggerKind.SCHEDULE, f"schedule {pipeline.schedule}")
        request = pb.RunPipelineRequest(
            pipeline=pipeline.name, request_id=f"schedule:{pipeline.id}:{moment.isoformat()}"
        )
        request.window_end.FromDatetime(moment)
        self._start(request, pipeline.id, RunRequest(moment, None, trigger, {}))

    def _start(
        self, request: pb.RunPipelineRequest, pipeline_id: str, wanted: RunRequest
    ) -> pb.PipelineRun:
        answer = self._ledger.once(
            request,
            pb.PipelineRun,
            lambda records: to.run_to_message(
                self._training.create_run(records, pipeline_id, wanted)
            ),
        )
        # After the commit, and again when the request is repeated: a start is idempotent.
        self._training.start(self._run(answer.name))
        return answer

    def GetPipelineRun(self, request: pb.GetPipelineRunRequest, context: Context) -> pb.PipelineRun:
        return to.run_to_message(self._run(request.name))

    def ListPipelineRuns(
        self, request: pb.ListPipelineRunsRequest, context: Context
    ) -> pb.ListPipelineRunsResponse:
        pipeline_id = request.parent.removeprefix("pipelines/")
        if pipeline_id != "-":
            parse_name(PIPELINE, request.parent, field="parent")
        page = page_params(request.page_size, request.page_token)
        with self._ledger.reading() as records:
            found = records.runs(pipeline_id, page.offset_token, page.size + 1)
        shown = found[: page.size]
        more = encode_token(shown[-1].id) if len(found) > page.size else ""
        return pb.ListPipelineRunsResponse(
            runs=[to.run_to_message(each) for each in shown], next_page_token=more
        )

    def WaitPipelineRun(
        self, request: pb.WaitPipelineRunRequest, context: Context
    ) -> pb.PipelineRun:
        ids = parse_name(RUN, request.name)
        seconds = _seconds(request)
        return to.run_to_message(self._training.wait(ids["pipeline"], ids["run"], seconds))

    def CancelPipelineRun(
        self, request: pb.CancelPipelineRunRequest, context: Context
    ) -> pb.PipelineRun:
        ids = parse_name(RUN, request.name)
        answer = self._ledger.once(
            request,
            pb.PipelineRun,
            lambda records: to.run_to_message(
                self._training.cancel(records, ids["pipeline"], ids["run"])
            ),
        )
        # After the commit, so that no step begins after the workflow was told to end.
        self._training.stop(self._run(answer.name))
        return answer

    def ApprovePipelineRun(
        self, request: pb.ApprovePipelineRunRequest, context: Context
    ) -> pb.PipelineRun:
        ids = parse_name(RUN, request.name)
        return self._ledger.once(
            request,
            pb.PipelineRun,
            lambda records: to.run_to_message(
                self._training.approve(
                    records, ids["pipeline"], ids["run"], request.approved, request.comment
                )
            ),
        )

    def _run(self, name: str) -> PipelineRun:
        ids = parse_name(RUN, name)
        with self._ledger.reading() as records:
            return self._training.get_run(records, ids["pipeline"], ids["run"])


class ConversionApi(conversion_pb2_grpc.ConversionServiceServicer):
    """Serves `modelyard.training.v1.ConversionService`."""

    def __init__(self, ledger: Ledger[Records], conversions: Conversions) -> None:
        self._ledger = ledger
        self._conversions = conversions

    def CreateConversion(
        self, request: conversion_pb2.CreateConversionRequest, context: Context
    ) -> conversion_pb2.Conversion:
        wanted = to.conversion_wanted(request.conversion)
        answer = self._ledger.once(
            request,
            conversion_pb2.Conversion,
            lambda records: to.conversion_to_message(self._conversions.create(records, wanted)),
        )
        # After the commit, and again when the request is repeated: a start is idempotent.
        self._conversions.start(self._found(answer.name))
        return answer

    def GetConversion(
        self, request: conversion_pb2.GetConversionRequest, context: Context
    ) -> conversion_pb2.Conversion:
        return to.conversion_to_message(self._found(request.name))

    def ListConversions(
        self, request: conversion_pb2.ListConversionsRequest, context: Context
    ) -> conversion_pb2.ListConversionsResponse:
        page = page_params(request.page_size, request.page_token)
        with self._ledger.reading() as records:
            found = records.conversions(page.offset_token, page.size + 1)
        shown = found[: page.size]
        more = encode_token(shown[-1].id) if len(found) > page.size else ""
        return conversion_pb2.ListConversionsResponse(
            conversions=[to.conversion_to_message(each) for each in shown], next_page_token=more
        )

    def WaitConversion(
        self, request: conversion_pb2.WaitConversionRequest, context: Context
    ) -> conversion_pb2.Conversion:
        conversion_id = parse_name(CONVERSION, request.name)["conversion"]
        found = self._conversions.wait(conversion_id, _seconds(request))
        return to.conversion_to_message(found)

    def CancelConversion(
        self, request: conversion_pb2.CancelConversionRequest, context: Context
    ) -> conversion_pb2.Conversion:
        conversion_id = parse_name(CONVERSION, request.name)["conversion"]
        answer = self._ledger.once(
            request,
            conversion_pb2.Conversion,
            lambda records: to.conversion_to_message(
                self._conversions.cancel(records, conversion_id)
            ),
        )
        self._conversions.stop(self._found(answer.name))
        return answer

    def _found(self, name: str) -> Conversion:
        conversion_id = parse_name(CONVERSION, name)["conversion"]
        with self._ledger.reading() as records:
            return self._conversions.get(records, conversion_id)


def _seconds(request: pb.WaitPipelineRunRequest | conversion_pb2.WaitConversionRequest) -> float:
    """How long to wait, within the caller's deadline."""
    asked = request.timeout.ToTimedelta().total_seconds() or DEFAULT_WAIT
    return min(asked, LONGEST_WAIT, max(remaining() - SPARE, 0.0))
