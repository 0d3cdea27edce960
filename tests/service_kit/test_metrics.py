"""The metrics of the hot path count as Prometheus' own does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from service_kit.metrics import SECONDS, QuickCounter, QuickHistogram

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


def test_a_quick_counter_reads_as_the_library_s_own() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    quick = QuickCounter("m_total", "Text.", ("route", "status"))
    ours.register(quick)
    plain = Counter("m_total", "Text.", ("route", "status"), registry=theirs)
    for labels, amount in ((("/a", "200"), 1), (("/a", "200"), 2.5), (("/b", "500"), 1)):
        quick.labels(*labels).inc(amount)
        plain.labels(*labels).inc(amount)

    def lines(registry: CollectorRegistry) -> list[str]:
        text = generate_latest(registry).decode().splitlines()
        return [line for line in text if "_created" not in line]

    assert lines(ours) == lines(theirs)
