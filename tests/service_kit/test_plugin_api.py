"""The list of plugins over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
from modelyard.plugins.v1 import plugins_pb2 as pb
from modelyard.plugins.v1 import plugins_pb2_grpc
from pydantic import BaseModel, ConfigDict

from service_kit.channels import calling, open_channel
from service_kit.errors import InvalidArgument, NotFound
from service_kit.plugin_api import PluginApi
from service_kit.plugins import PluginCatalog
from service_kit.server import ServiceServer
from tests.service_kit.echo import SETTINGS

GROUP = "modelyard.bandit_policies"


class Greedy:
    """A plugin."""

    class Config(BaseModel):
        """Settings."""

        model_config = ConfigDict(extra="forbid")
        rate: float = 0.1

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: Config) -> None:
        self.config = config


@pytest.fixture
def stub() -> Iterator[plugins_pb2_grpc.PluginServiceStub]:
    catalog = PluginCatalog(
        [
            EntryPoint("greedy", f"{__name__}:Greedy", GROUP),
            EntryPoint("gone", "no_such_module:Plugin", GROUP),
        ]
    )
    services = [(plugins_pb2_grpc.add_PluginServiceServicer_to_server, PluginApi(catalog))]
    with (
        ServiceServer(SETTINGS, services) as server,
        open_channel(server.address, SETTINGS) as channel,
    ):
        yield plugins_pb2_grpc.PluginServiceStub(channel)


def test_listing_imports_nothing_and_goes_page_by_page(
    stub: plugins_pb2_grpc.PluginServiceStub,
) -> None:
    first = stub.ListPlugins(pb.ListPluginsRequest(group=GROUP, page_size=1))
    assert [(each.name, each.state) for each in first.plugins] == [
        ("plugins/bandit_policies.gone", pb.Plugin.STATE_FOUND)
    ]
    rest = stub.ListPlugins(pb.ListPluginsRequest(group=GROUP, page_token=first.next_page_token))
    assert [each.name for each in rest.plugins] == ["plugins/bandit_policies.greedy"]
    assert rest.next_page_token == ""


def test_a_check_loads_the_plugin_and_shows_its_settings(
    stub: plugins_pb2_grpc.PluginServiceStub,
) -> None:
    answer = stub.CheckPlugin(pb.CheckPluginRequest(name="plugins/bandit_policies.greedy"))
    assert answer.plugin.state == pb.Plugin.STATE_OK
    assert "rate" in answer.plugin.config_schema
    assert list(answer.findings) == []


def test_a_broken_plugin_says_why_and_breaks_nothing_else(
    stub: plugins_pb2_grpc.PluginServiceStub,
) -> None:
    answer = stub.CheckPlugin(pb.CheckPluginRequest(name="plugins/bandit_policies.gone"))
    assert answer.plugin.state == pb.Plugin.STATE_BROKEN
    assert answer.plugin.reason
    assert list(answer.findings) == [answer.plugin.reason]


def test_unknown_names_are_refused(stub: plugins_pb2_grpc.PluginServiceStub) -> None:
    with pytest.raises(NotFound), calling("plugins"):
        stub.CheckPlugin(pb.CheckPluginRequest(name="plugins/bandit_policies.other"))
    with pytest.raises(InvalidArgument), calling("plugins"):
        stub.CheckPlugin(pb.CheckPluginRequest(name="plugins/other"))
