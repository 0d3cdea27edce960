"""The histogram of the hot path counts as Prometheus' own does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from service_kit.metrics import SECONDS, QuickHistogram

seconds = st.one_of(st.floats(0, 100), st.sampled_from(SECONDS))


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), seconds), max_size=40))
def test_it_is_shown_as_prometheus_would(observed: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    quick = QuickHistogram("m", "Text.", ("route",))
    ours.register(quick)
    plain = Histogram("m", "Text.", ("route",), registry=theirs, buckets=SECONDS)
    for route, value in observed:
        quick.labels(route).observe(value)
        plain.labels(route).observe(value)
    # Theirs tells the time of its making as well.
    wanted = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == wanted
