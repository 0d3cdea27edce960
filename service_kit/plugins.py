"""Plugins that distributions announce by entry points: found lazily, broken ones with a reason.

A plugin is a class with a pydantic ``Config``, ``api_version = 1`` and ``capabilities``; it is
made of a ``Config`` alone and never sees a service's inside.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from service_kit.errors import FailedPrecondition, InvalidArgument, NotFound

API_VERSION = 1
PREFIX = "modelyard."
GROUPS = tuple(
    PREFIX + name
    for name in (
        "detectors",
        "trainers",
        "model_runtimes",
        "validators",
        "metrics",
        "alert_sinks",
        "bandit_policies",
        "auth_providers",
        "feature_transformations",
        "services",
    )
)


class Plugin(Protocol):
    """What every plugin class has, whatever its group.

    Attributes:
        Config: A pydantic model; its JSON schema is shown to users.
        api_version: The version of these rules that the class was written for.
        capabilities: Names that its group gives a meaning to.
    """

    Config: ClassVar[type[BaseModel]]
    api_version: ClassVar[int]
    capabilities: ClassVar[frozenset[str]]


P = TypeVar("P")
PluginClass = type[Any]
State = Literal["listed", "ok", "broken"]
Check = Callable[[PluginClass], Iterable[str]]


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as a list shows it.

    Attributes:
        name: Name within the group.
        group: One of `GROUPS`.
        distribution: Name of the distribution that announces it, or empty.
        version: Version of that distribution, or empty.
        state: ``listed`` until it is loaded for the first time, then ``ok`` or ``broken``.
        reason: Why it is broken, or empty.
        api_version: What the class states, 0 while unknown.
        capabilities: What the class states.
        config_schema: JSON schema of its configuration, empty while unknown.
    """

    name: str
    group: str
    distribution: str = ""
    version: str = ""
    state: State = "listed"
    reason: str = ""
    api_version: int = 0
    capabilities: frozenset[str] = frozenset()
    config_schema: Mapping[str, Any] = field(default_factory=dict)


class BrokenPluginError(Exception):
    """Why a class cannot be a plugin."""


class PluginCatalog:
    """The plugins of this environment; safe to share between threads.

    Args:
        extra: Entry points besides those of the installed distributions.
    """

    def __init__(self, extra: Sequence[EntryPoint] = ()) -> None:
        self._extra = tuple(extra)
        self._lock = threading.RLock()
        self._points: dict[str, list[EntryPoint]] = {}
        self._inspected: dict[tuple[str, str], tuple[PluginInfo, PluginClass | None]] = {}
        self._checks: dict[str, list[Check]] = {}

    def refresh(self) -> None:
        """Forget what was found; an installation since then is seen at the next call."""
        with self._lock:
            self._points.clear()
            self._inspected.clear()

    def discover(self, group: str) -> list[PluginInfo]:
        """The plugins of a group by name, without importing any of them.

        Raises NotFound (``PLUGIN_GROUP_UNKNOWN``).
        """
        group = _full(group)
        with self._lock:
            found = {}
            for point in self._announced(group):
                inspected = self._inspected.get((group, point.name))
                found[point.name] = inspected[0] if inspected else _listed(group, point)
        return [found[name] for name in sorted(found)]

    def inspect(self, group: str, name: str) -> PluginInfo:
        """Load a plugin and say whether it is ok, or broken and why.

        Raises NotFound (``PLUGIN_NOT_FOUND``, ``PLUGIN_GROUP_UNKNOWN``).
        """
        return self._inspect(_full(group), name)[0]

    def load(self, group: str, name: str) -> PluginClass:
        """The class of a plugin.

        Raises FailedPrecondition (``PLUGIN_BROKEN``) and NotFound as `inspect` does.
        """
        info, found = self._inspect(_full(group), name)
        if found is None:
            raise FailedPrecondition(
                "PLUGIN_BROKEN", f"the plugin cannot be used: {info.reason}", field="plugin"
            )
        return found

    def register_check(self, group: str, check: Check) -> None:
        """Add what a group demands; `check` takes the class and gives what it finds wrong."""
        with self._lock:
            self._checks.setdefault(_full(group), []).append(check)

    def check(self, group: str, name: str) -> list[str]:
        """What is wrong with a plugin, one sentence each; empty when it conforms."""
        group = _full(group)
        info, found = self._inspect(group, name)
        if found is None:
            return [info.reason]
        with self._lock:
            checks = [_check_config, *self._checks.get(group, [])]
        return [finding for check in checks for finding in _findings(check, found)]

    def _announced(self, group: str) -> list[EntryPoint]:
        if group not in self._points:
            extra = [point for point in self._extra if point.group == group]
            self._points[group] = [*entry_points(group=group), *extra]
        return self._points[group]

    def _inspect(self, group: str, name: str) -> tuple[PluginInfo, PluginClass | None]:
        with self._lock:
            known = self._inspected.get((group, name))
            if known is None:
                points = [point for point in self._announced(group) if point.name == name]
                if not points:
                    raise NotFound("PLUGIN_NOT_FOUND", "no such plugin", field="plugin")
                known = self._inspected[group, name] = _examine(group, points)
            return known


def _full(group: str) -> str:
    full = group if group.startswith(PREFIX) else PREFIX + group
    if full not in GROUPS:
        raise NotFound("PLUGIN_GROUP_UNKNOWN", "no such group of plugins", field="group")
    return full


def _listed(group: str, point: EntryPoint) -> PluginInfo:
    origin = point.dist
    return PluginInfo(
        name=point.name,
        group=group,
        distribution=origin.name if origin else "",
        version=origin.version if origin else "",
    )


def _examine(group: str, points: Sequence[EntryPoint]) -> tuple[PluginInfo, PluginClass | None]:
    info = _listed(group, points[0])
    try:
        if len({point.value for point in points}) > 1:
            raise BrokenPluginError("several distributions announce this name")
        found = _import(points[0])
        schema = _validated(found)
    except BrokenPluginError as error:
        return replace(info, state="broken", reason=str(error)), None
    described = replace(
        info,
        state="ok",
        api_version=found.api_version,
        capabilities=found.capabilities,
        config_schema=schema,
    )
    return described, found


def _import(point: EntryPoint) -> PluginClass:
    try:
        found = point.load()
    # A module that calls sys.exit must not end the service that looks at it.
    except (Exception, SystemExit) as error:
        raise BrokenPluginError(f"cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, type):
        raise BrokenPluginError("is no class")
    return found


def _validated(found: PluginClass) -> dict[str, Any]:
    """The schema of the configuration; raises BrokenPluginError."""
    version = getattr(found, "api_version", None)
    if version != API_VERSION:
        raise BrokenPluginError(f"api_version is {version}, not {API_VERSION}")
    capabilities = getattr(found, "capabilities", None)
    if not isinstance(capabilities, frozenset) or not all(
        isinstance(item, str) for item in capabilities
    ):
        raise BrokenPluginError("capabilities is no frozenset of names")
    config = getattr(found, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        raise BrokenPluginError("Config is no pydantic model")
    try:
        return config.model_json_schema()
    except Exception as error:
        raise BrokenPluginError(f"Config has no JSON schema: {type(error).__name__}") from error


def configure(plugin: type[P], config: Mapping[str, Any]) -> P:
    """An instance of a plugin class with a configuration given by a user.

    Raises InvalidArgument (``PLUGIN_CONFIG_INVALID``) that names the field as ``config.<field>``
    and has all fields at fault in its metadata.
    """
    problems = dict.fromkeys(_not_finite(config, "config"), "must be finite")
    if problems:
        raise _invalid(problems)
    try:
        parsed = plugin.Config.model_validate(dict(config))  # type: ignore[attr-defined]
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise _invalid(
            {".".join(["config", *map(str, item["loc"])]): item["msg"] for item in details}
        ) from error
    make: Callable[[BaseModel], P] = plugin
    try:
        return make(parsed)
    except ValueError as error:
        raise _invalid({"config": "is refused by the plugin"}) from error


def _invalid(problems: Mapping[str, str]) -> InvalidArgument:
    name, message = next(iter(problems.items()))
    return InvalidArgument("PLUGIN_CONFIG_INVALID", f"{name}: {message}", field=name, **problems)


def _not_finite(value: object, place: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{place}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield place


def _findings(check: Check, found: PluginClass) -> list[str]:
    try:
        return list(check(found))
    except Exception as error:
        # A plugin that raises where it must not is a finding, too.
        return [f"{getattr(check, '__name__', 'check')} raised {type(error).__name__}: {error}"]


def _check_config(found: PluginClass) -> Iterator[str]:
    """What holds in every group."""
    if not (found.__doc__ or "").strip():
        yield "the class has no docstring"
    if found.Config.model_config.get("extra") != "forbid":
        yield "Config takes fields it does not know; set extra='forbid'"
    try:
        configure(found, getattr(found, "example_config", {}))
    except InvalidArgument as error:
        yield f"example_config cannot be used: {error.message}"


_catalog = PluginCatalog()
discover = _catalog.discover
inspect = _catalog.inspect
load = _catalog.load
check = _catalog.check
register_check = _catalog.register_check
refresh = _catalog.refresh
