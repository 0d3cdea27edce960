"""The gRPC face of experiments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import grpc
from modelyard.experiments.v1 import experiments_pb2 as pb
from modelyard.experiments.v1 import experiments_pb2_grpc

from experiment_svc import messages as to
from experiment_svc.service import Experiments, Records
from service_kit.errors import InvalidArgument
from service_kit.ledger import Ledger, Mutation
from service_kit.names import parse_name
from service_kit.paging import Page, encode_token, page_params

T = TypeVar("T")
Context: TypeAlias = grpc.ServicerContext
EXPERIMENT = "experiments/{experiment}"


class ExperimentApi(experiments_pb2_grpc.ExperimentServiceServicer):
    """Serves `modelyard.experiments.v1.ExperimentService`."""

    def __init__(self, ledger: Ledger[Records], experiments: Experiments) -> None:
        self._ledger = ledger
        self._experiments = experiments

    def CreateExperiment(
        self, request: pb.CreateExperimentRequest, context: Context
    ) -> pb.Experiment:
        wanted = to.experiment_from_message(request.experiment_id, request.experiment)
        return self._once(
            request,
            lambda records: to.experiment_to_message(self._experiments.create(records, wanted)),
        )

    def GetExperiment(self, request: pb.GetExperimentRequest, context: Context) -> pb.Experiment:
        experiment_id = experiment_of(request.name)
        with self._ledger.reading() as records:
            return to.experiment_to_message(self._experiments.get(records, experiment_id))

    def ListExperiments(
        self, request: pb.ListExperimentsRequest, context: Context
    ) -> pb.ListExperimentsResponse:
        page = page_params(request.page_size, request.page_token)
        with self._ledger.reading() as records:
            found = records.experiments(below(page), page.size + 1)
        shown, more = cut(found, page)
        return pb.ListExperimentsResponse(
            experiments=[to.experiment_to_message(one) for one in shown], next_page_token=more
        )

    def AnalyzeExperiment(
        self, request: pb.AnalyzeExperimentRequest, context: Context
    ) -> pb.Analysis:
        experiment_id = experiment_of(request.name)
        with self._ledger.writing() as records:
            analysis = self._experiments.analyze(records, experiment_id)
        return to.analysis_to_message(experiment_id, analysis)

    def ListAnalyses(
        self, request: pb.ListAnalysesRequest, context: Context
    ) -> pb.ListAnalysesResponse:
        page = page_params(request.page_size, request.page_token)
        experiment_id = experiment_of(request.parent, "parent")
        with self._ledger.reading() as records:
            self._experiments.get(records, experiment_id, "parent")
            found = records.analyses(experiment_id, below(page), page.size + 1)
        shown, more = cut(found, page)
        return pb.ListAnalysesResponse(
            analyses=[to.analysis_to_message(experiment_id, one) for one in shown],
            next_page_token=more,
        )

    def ConcludeExperiment(
        self, request: pb.ConcludeExperimentRequest, context: Context
    ) -> pb.Experiment:
        experiment_id = experiment_of(request.name)
        return self._once(
            request,
            lambda records: to.experiment_to_message(
                self._experiments.conclude(records, experiment_id, request.conclusion)
            ),
        )

    def _once(self, request: Mutation, build: Callable[[Records], pb.Experiment]) -> pb.Experiment:
        return self._ledger.once(request, pb.Experiment, build)


def experiment_of(name: str, field: str = "name") -> str:
    """Take the id out of an experiment's name."""
    return parse_name(EXPERIMENT, name, field=field)["experiment"]


def below(page: Page) -> int | None:
    """Read where the last page ended."""
    token = page.offset_token
    if token and not (token.isdecimal() and len(token) < 19):
        raise InvalidArgument(
            "INVALID_PAGE_TOKEN", "must be the next_page_token of an answer", field="page_token"
        )
    return int(token) if token else None


def cut(found: list[tuple[int, T]], page: Page) -> tuple[list[T], str]:
    """Divide what was found into the page and the token of the next one."""
    shown = found[: page.size]
    more = encode_token(str(shown[-1][0])) if len(found) > page.size else ""
    return [one for _, one in shown], more
