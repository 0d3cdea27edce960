from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from service_kit import plugins
from service_kit.errors import FailedPrecondition, InvalidArgument, NotFound
from service_kit.plugins import GROUPS, PluginCatalog, configure
from tests.service_kit.sample_plugins import Good

MODULE = "tests.service_kit.sample_plugins"
GROUP = "modelyard.detectors"


def point(name: str, target: str, module: str = MODULE) -> EntryPoint:
    return EntryPoint(name, f"{module}:{target}", GROUP)


@pytest.fixture
def catalog() -> PluginCatalog:
    return PluginCatalog(
        [
            point("test-good", "Good"),
            point("test-old", "Old"),
            point("test-noconfig", "NoConfig"),
            point("test-list", "NoCapabilities"),
            point("test-value", "not_a_class"),
            point("test-gone", "Gone"),
            point("test-missing", "Any", "tests.service_kit.no_such_module"),
            point("test-exits", "Any", "tests.service_kit.sample_plugin_exits"),
            point("test-twice", "Good"),
            point("test-twice", "Old"),
            point("test-sloppy", "Sloppy"),
        ]
    )


def test_listing_imports_nothing() -> None:
    sys.modules.pop(MODULE)
    catalog = PluginCatalog([point("test-good", "Good")])
    [info] = [item for item in catalog.discover(GROUP) if item.name == "test-good"]
    assert (info.state, info.group, info.config_schema) == ("listed", GROUP, {})
    assert MODULE not in sys.modules


def test_a_good_plugin_is_described(catalog: PluginCatalog) -> None:
    info = catalog.inspect("detectors", "test-good")
    assert (info.state, info.reason, info.api_version) == ("ok", "", 1)
    assert info.capabilities == {"numeric"}
    assert set(info.config_schema["properties"]) == {"threshold", "columns"}
    assert catalog.load(GROUP, "test-good").__name__ == "Good"
    assert info in catalog.discover(GROUP)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test-old", "api_version is 0, not 1"),
        ("test-noconfig", "Config"),
        ("test-list", "capabilities"),
        ("test-value", "no class"),
        ("test-gone", "cannot be imported: AttributeError"),
        ("test-missing", "cannot be imported: ModuleNotFoundError"),
        ("test-exits", "cannot be imported: SystemExit"),
        ("test-twice", "several distributions"),
    ],
)
def test_a_broken_plugin_says_why_and_breaks_nothing(
    catalog: PluginCatalog, name: str, reason: str
) -> None:
    info = catalog.inspect(GROUP, name)
    assert info.state == "broken"
    assert reason in info.reason
    assert catalog.check(GROUP, name) == [info.reason]
    with pytest.raises(FailedPrecondition, match="PLUGIN_BROKEN"):
        catalog.load(GROUP, name)
    assert catalog.inspect(GROUP, "test-good").state == "ok"


def test_unknown_names_are_not_found(catalog: PluginCatalog) -> None:
    with pytest.raises(NotFound, match="PLUGIN_NOT_FOUND"):
        catalog.load(GROUP, "nothing")
    with pytest.raises(NotFound, match="PLUGIN_GROUP_UNKNOWN"):
        catalog.discover("modelyard.nothing")


def test_installed_distributions_are_searched() -> None:
    for group in GROUPS:
        assert all(item.distribution for item in plugins.discover(group))


def test_config_is_parsed() -> None:
    made = configure(Good, {"threshold": 0.5, "columns": ["a"]})
    assert (made.config.threshold, made.config.columns) == (0.5, ["a"])
    assert configure(Good, {}).config.threshold == 0.1


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"threshold": "secret"}, "config.threshold"),
        ({"threshold": -1}, "config.threshold"),
        ({"threshold": float("nan")}, "config.threshold"),
        ({"columns": ["a", float("inf")]}, "config.columns.1"),
        ({"columns": ["a", 3]}, "config.columns.1"),
        ({"unknown": 1}, "config.unknown"),
        ({"threshold": 2000}, "config"),
    ],
)
def test_wrong_config_names_the_field_and_echoes_nothing(
    config: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        configure(Good, config)
    assert (caught.value.reason, caught.value.field) == ("PLUGIN_CONFIG_INVALID", field)
    assert "secret" not in str(caught.value)


def test_all_wrong_fields_are_told() -> None:
    with pytest.raises(InvalidArgument) as caught:
        configure(Good, {"threshold": 0, "columns": 1})
    assert set(caught.value.metadata) == {"config.threshold", "config.columns"}


def test_checks_find_what_does_not_conform(catalog: PluginCatalog) -> None:
    assert catalog.check(GROUP, "test-good") == []
    docs, extra, example = catalog.check(GROUP, "test-sloppy")
    assert "docstring" in docs
    assert "extra" in extra
    assert "config.needed" in example


def test_a_service_adds_checks_for_its_group(catalog: PluginCatalog) -> None:
    def has_score(found: type) -> Iterator[str]:
        if not hasattr(found, "score"):
            yield "there is no method score"

    def crashes(found: type) -> list[str]:
        raise RuntimeError("in the plugin")

    catalog.register_check("detectors", has_score)
    catalog.register_check("detectors", crashes)
    catalog.register_check("metrics", lambda _: ["not for this group"])
    assert catalog.check(GROUP, "test-good") == [
        "there is no method score",
        "crashes raised RuntimeError: in the plugin",
    ]


def test_refresh_looks_again(catalog: PluginCatalog) -> None:
    catalog.inspect(GROUP, "test-good")
    catalog.refresh()
    [info] = [item for item in catalog.discover(GROUP) if item.name == "test-good"]
    assert info.state == "listed"
