"""Path templates and the route table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transcoder.contracts import load_contracts, published_methods
from gateway.transcoder.paths import MANY, ONE, parse_template, split_path
from gateway.transcoder.table import RouteTable
from service_kit.errors import InvalidArgument, NotFound

IDS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}", fullmatch=True)


def table(*paths: str) -> RouteTable[str]:
    made: RouteTable[str] = RouteTable()
    for path in paths:
        made.add("GET", parse_template(path), path)
    return made


def test_variables_bind_several_segments() -> None:
    match = table("/v1/{name=models/*/versions/*}:run").match("GET", "/v1/models/a/versions/1:run")
    assert match.values == {"name": "models/a/versions/1"}


def test_a_bare_variable_is_one_segment_and_dots_are_kept() -> None:
    match = table("/v2/{a.b}/x").match("GET", "/v2/q.r/x")
    assert match.values == {"a.b": "q.r"}


def test_two_stars_take_the_rest() -> None:
    both = table("/v1/{name=files/**}", "/v1/files/{id}")
    assert both.match("GET", "/v1/files/a/b/c").values == {"name": "files/a/b/c"}
    assert both.match("GET", "/v1/files/a").values == {"id": "a"}


def test_literals_win_and_wrong_turns_are_undone() -> None:
    both = table("/v1/a/b/{x}", "/v1/{y}/c/d")
    assert both.match("GET", "/v1/a/c/d").values == {"y": "a"}
    assert both.match("GET", "/v1/a/b/d").values == {"x": "d"}


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1//x", "/v1/a%2fb", "/v1/a\\b", "/v1/a%00", "/v1/%ff"]
)
def test_odd_paths_lead_nowhere(path: str) -> None:
    with pytest.raises(NotFound):
        table("/v1/{x}").match("GET", path)


def test_another_method_is_told_which_is_allowed() -> None:
    with pytest.raises(InvalidArgument) as caught:
        table("/v1/{x}").match("POST", "/v1/a")
    assert caught.value.metadata["allow"] == "GET"


def test_a_route_twice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="two routes"):
        table("/v1/{x}", "/v1/{y}")


@pytest.mark.parametrize("text", ["v1", "/v1/{x=**}/y", "/v1/{x=a b}"])
def test_wrong_templates(text: str) -> None:
    with pytest.raises(ValueError, match="v1"):
        parse_template(text)


@given(st.data())
def test_every_published_rule_is_found_again(data: st.DataObject) -> None:
    rules = [(m, b) for m in published_methods(load_contracts()) for b in m.bindings]
    routes: RouteTable[int] = RouteTable()
    for at, (_, binding) in enumerate(rules):
        routes.add(binding.http_method, binding.template, at)
    at = data.draw(st.integers(0, len(rules) - 1))
    binding = rules[at][1]
    segments = [
        data.draw(IDS) if segment in (ONE, MANY) else segment
        for segment in binding.template.segments
    ]
    verb = f":{binding.template.verb}" if binding.template.verb else ""
    match = routes.match(binding.http_method, f"/{'/'.join(segments)}{verb}")
    assert match.target == at
    assert set(match.values) == {variable.field for variable in binding.template.variables}


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_path_is_split_or_refused(text: str) -> None:
    found = split_path(f"/{text}")
    assert found is None or all(found[0])
