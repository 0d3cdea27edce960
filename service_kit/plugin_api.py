"""Serves the list of plugins; the same in every service that hosts some."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import grpc
from modelyard.plugins.v1 import plugins_pb2 as pb
from modelyard.plugins.v1 import plugins_pb2_grpc

from service_kit.errors import InvalidArgument
from service_kit.names import parse_name
from service_kit.paging import encode_token, page_params
from service_kit.plugins import GROUPS, PREFIX, PluginCatalog, PluginInfo

Context: TypeAlias = grpc.ServicerContext
STATES = {"listed": "STATE_FOUND", "ok": "STATE_OK", "broken": "STATE_BROKEN"}


class PluginApi(plugins_pb2_grpc.PluginServiceServicer):
    """Serves `modelyard.plugins.v1.PluginService`.

    Args:
        catalog: The plugins of this environment.
    """

    def __init__(self, catalog: PluginCatalog) -> None:
        self._catalog = catalog

    def ListPlugins(  # noqa: N802
        self,
        request: pb.ListPluginsRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.ListPluginsResponse:
        """Lists plugins by group and name."""
        page = page_params(request.page_size, request.page_token)
        groups = [request.group] if request.group else sorted(GROUPS)
        found = [info for group in groups for info in self._catalog.discover(group)]
        rest = [info for info in found if resource_name(info) > page.offset_token]
        shown = rest[: page.size]
        more = encode_token(resource_name(shown[-1])) if len(rest) > page.size else ""
        return pb.ListPluginsResponse(
            plugins=[to_message(each) for each in shown], next_page_token=more
        )

    def CheckPlugin(  # noqa: N802
        self,
        request: pb.CheckPluginRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.CheckPluginResponse:
        """Loads a plugin and runs the checks of its group."""
        group, _, name = parse_name("plugins/{plugin}", request.name)["plugin"].partition(".")
        if not name:
            raise InvalidArgument(
                "INVALID_NAME", "must have the form plugins/{group}.{plugin}", field="name"
            )
        findings = self._catalog.check(group, name)
        return pb.CheckPluginResponse(
            plugin=to_message(self._catalog.inspect(group, name)), findings=findings
        )


def resource_name(info: PluginInfo) -> str:
    """`plugins/{group}.{plugin}`, the group without its prefix."""
    return f"plugins/{info.group.removeprefix(PREFIX)}.{info.name}"


def to_message(info: PluginInfo) -> pb.Plugin:
    """Makes the contract's plugin."""
    schema: Any = info.config_schema
    return pb.Plugin(
        name=resource_name(info),
        group=info.group,
        distribution=info.distribution,
        version=info.version,
        state=STATES[info.state],
        reason=info.reason,
        config_schema=json.dumps(schema) if schema else "",
    )
