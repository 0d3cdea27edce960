"""`ServingService`: endpoints, traffic and rollouts."""

from __future__ import annotations

from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from modelyard.serving.v1 import serving_pb2, serving_pb2_grpc

from service_kit.context import current_caller
from service_kit.errors import InvalidArgument
from service_kit.names import parse_name
from service_kit.paging import encode_token, page_params
from serving_svc.api import convert
from serving_svc.domain import Rollout
from serving_svc.service import EndpointView, RequestKey, RolloutService, ServingService

_ENDPOINT = "endpoints/{endpoint}"
_ROLLOUT = "endpoints/{endpoint}/rollouts/{rollout}"
_MOST_REASON = 2_000


class ServingApi(serving_pb2_grpc.ServingServiceServicer):
    """Contract in, use case, contract out."""

    def __init__(self, endpoints: ServingService, rollouts: RolloutService) -> None:
        self._endpoints = endpoints
        self._rollouts = rollouts

    def CreateEndpoint(
        self, request: serving_pb2.CreateEndpointRequest, _: Any
    ) -> serving_pb2.Endpoint:
        """Create an endpoint."""
        wanted = convert.endpoint_from(request.endpoint, request.endpoint_id)
        return self._endpoints.create_endpoint(wanted, _actor(), _endpoint_key("Create", request))

    def GetEndpoint(self, request: serving_pb2.GetEndpointRequest, _: Any) -> serving_pb2.Endpoint:
        """Get an endpoint."""
        return convert.endpoint_to(self._endpoints.get_endpoint(_endpoint_id(request.name)))

    def ListEndpoints(
        self, request: serving_pb2.ListEndpointsRequest, _: Any
    ) -> serving_pb2.ListEndpointsResponse:
        """List endpoints."""
        page = page_params(request.page_size, request.page_token)
        views, token = self._endpoints.list_endpoints(page)
        return serving_pb2.ListEndpointsResponse(
            endpoints=map(convert.endpoint_to, views), next_page_token=encode_token(token)
        )

    def UpdateEndpoint(
        self, request: serving_pb2.UpdateEndpointRequest, _: Any
    ) -> serving_pb2.Endpoint:
        """Change an endpoint."""
        endpoint_id = _endpoint_id(request.endpoint.name, "endpoint.name")
        return self._endpoints.update_endpoint(
            convert.endpoint_from(request.endpoint, endpoint_id),
            list(request.update_mask.paths),
            _actor(),
            _endpoint_key("Update", request),
        )

    def DeleteEndpoint(self, request: serving_pb2.DeleteEndpointRequest, _: Any) -> Empty:
        """Take an endpoint down."""
        key: RequestKey[None, Empty] = RequestKey(
            "ServingService.DeleteEndpoint",
            request.request_id,
            _fingerprint(request),
            lambda _: Empty(),
            Empty.FromString,
        )
        return self._endpoints.delete_endpoint(_endpoint_id(request.name), _actor(), key)

    def DeployVersion(
        self, request: serving_pb2.DeployVersionRequest, _: Any
    ) -> serving_pb2.Endpoint:
        """Begin a deployment."""
        return self._endpoints.deploy_version(
            _endpoint_id(request.endpoint, "endpoint"),
            request.model_version,
            _reason(request.reason),
            _actor(),
            _endpoint_key("Deploy", request),
        )

    def UpdateTraffic(
        self, request: serving_pb2.UpdateTrafficRequest, _: Any
    ) -> serving_pb2.Endpoint:
        """Divide the traffic anew."""
        return self._endpoints.update_traffic(
            _endpoint_id(request.endpoint, "endpoint"),
            request.generation,
            [convert.variant_from(variant) for variant in request.variants],
            dict(request.overrides),
            (_actor(), _reason(request.reason)),
            _endpoint_key("UpdateTraffic", request),
        )

    def RollbackEndpoint(
        self, request: serving_pb2.RollbackEndpointRequest, _: Any
    ) -> serving_pb2.Endpoint:
        """Go back to the last good table."""
        return self._endpoints.rollback_endpoint(
            _endpoint_id(request.endpoint, "endpoint"),
            (_actor(), _reason(request.reason)),
            _endpoint_key("Rollback", request),
        )

    def ListTrafficTables(
        self, request: serving_pb2.ListTrafficTablesRequest, _: Any
    ) -> serving_pb2.ListTrafficTablesResponse:
        """List the tables of an endpoint."""
        page = page_params(request.page_size, request.page_token)
        endpoint_id = _endpoint_id(request.endpoint, "endpoint")
        tables, token = self._endpoints.list_tables(endpoint_id, page)
        return serving_pb2.ListTrafficTablesResponse(
            traffic_tables=map(convert.table_to, tables), next_page_token=encode_token(token)
        )

    def CreateRollout(
        self, request: serving_pb2.CreateRolloutRequest, _: Any
    ) -> serving_pb2.Rollout:
        """Start a rollout."""
        return self._rollouts.create_rollout(
            _endpoint_id(request.parent, "parent"),
            request.rollout.model_version,
            convert.strategy_from(request.rollout.strategy),
            _actor(),
            _rollout_key("Create", request),
        )

    def GetRollout(self, request: serving_pb2.GetRolloutRequest, _: Any) -> serving_pb2.Rollout:
        """Get a rollout."""
        return convert.rollout_to(self._rollouts.get_rollout(*_rollout_ids(request.name)))

    def ListRollouts(
        self, request: serving_pb2.ListRolloutsRequest, _: Any
    ) -> serving_pb2.ListRolloutsResponse:
        """List the rollouts of an endpoint."""
        page = page_params(request.page_size, request.page_token)
        endpoint_id = _endpoint_id(request.parent, "parent")
        rollouts, token = self._rollouts.list_rollouts(endpoint_id, page)
        return serving_pb2.ListRolloutsResponse(
            rollouts=map(convert.rollout_to, rollouts), next_page_token=encode_token(token)
        )

    def PauseRollout(self, request: serving_pb2.PauseRolloutRequest, _: Any) -> serving_pb2.Rollout:
        """Hold a rollout."""
        ids, key = _rollout_ids(request.name), _rollout_key("Pause", request)
        return self._rollouts.pause_rollout(ids, _reason(request.reason), _actor(), key)

    def ResumeRollout(
        self, request: serving_pb2.ResumeRolloutRequest, _: Any
    ) -> serving_pb2.Rollout:
        """Let a rollout go on."""
        ids, key = _rollout_ids(request.name), _rollout_key("Resume", request)
        return self._rollouts.resume_rollout(ids, _actor(), key)

    def AbortRollout(self, request: serving_pb2.AbortRolloutRequest, _: Any) -> serving_pb2.Rollout:
        """End a rollout."""
        ids, key = _rollout_ids(request.name), _rollout_key("Abort", request)
        return self._rollouts.abort_rollout(ids, _reason(request.reason), _actor(), key)


def _actor() -> str:
    return current_caller().principal


def _endpoint_id(name: str, field: str = "name") -> str:
    return parse_name(_ENDPOINT, name, field=field)["endpoint"]


def _rollout_ids(name: str) -> tuple[str, str]:
    ids = parse_name(_ROLLOUT, name)
    return ids["endpoint"], ids["rollout"]


def _reason(text: str) -> str:
    if len(text) > _MOST_REASON:
        raise InvalidArgument(
            "REASON_TOO_LONG", f"at most {_MOST_REASON} characters", field="reason"
        )
    return text


def _fingerprint(request: Message) -> bytes:
    return request.SerializeToString(deterministic=True)


def _endpoint_key(method: str, request: Any) -> RequestKey[EndpointView, serving_pb2.Endpoint]:
    return RequestKey(
        f"ServingService.{method}Endpoint",
        request.request_id,
        _fingerprint(request),
        convert.endpoint_to,
        serving_pb2.Endpoint.FromString,
    )


def _rollout_key(method: str, request: Any) -> RequestKey[Rollout, serving_pb2.Rollout]:
    return RequestKey(
        f"ServingService.{method}Rollout",
        request.request_id,
        _fingerprint(request),
        convert.rollout_to,
        serving_pb2.Rollout.FromString,
    )
