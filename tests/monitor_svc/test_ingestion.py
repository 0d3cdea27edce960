"""Windows and quality equal a single pass, whatever is repeated, split or reordered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from monitor_svc.domain.monitors import SCORE
from monitor_svc.domain.performance import metrics
from monitor_svc.domain.profiles import Numbers
from monitor_svc.service.ports import OutcomeRow, PredictionRows
from monitor_svc.storage.tables import metadata
from service_kit.migrations import schema_differences
from tests.monitor_svc.conftest import (
    DAY,
    START,
    VERSION,
    House,
    monitor,
    predictions,
    reference_rows,
)


def _part(rows: PredictionRows, chosen: list[int]) -> PredictionRows:
    columns = {
        name: Numbers(c.values[chosen])
        if isinstance(c, Numbers)
        else replace(c, values=[c.values[i] for i in chosen])
        for name, c in rows.columns.items()
    }
    return replace(
        rows, ids=[rows.ids[i] for i in chosen], times_us=rows.times_us[chosen],
        scores=rows.scores[chosen], columns=columns,
    )  # fmt: skip


def _cells(house: House, starts: list[int]) -> dict[tuple[int, str], list[int]]:
    with house.transactions() as store:
        found = store.windows(house.monitoring.get(store, "drift"), starts)
        return {
            (start, name): sketch.cells.tolist()
            for start, window in found.items()
            for name, sketch in window.sketches.items()
        }


def test_tables_are_as_the_migrations_make_them(house: House):
    assert schema_differences(house.engine, metadata) == []


def test_windows_equal_a_single_pass(house: House):
    # A long lateness keeps every window open, so that any order is in time.
    created = house.create(monitor(allowed_lateness=_days(5)), reference_rows())
    rows = [predictions(300, START + day * DAY, seed=day) for day in range(3)]
    pieces = []
    rng = np.random.default_rng(0)
    for batch in rows:
        order = rng.permutation(300).tolist()
        cuts = sorted(rng.integers(0, 300, size=4).tolist())
        pieces += [_part(batch, order[a:b]) for a, b in zip([0, *cuts], [*cuts, 300], strict=True)]
    pieces += [pieces[1], pieces[7], rows[2]]
    rng.shuffle(pieces)  # type: ignore[arg-type]
    for first in range(0, len(pieces), 4):
        house.predict(*pieces[first : first + 4])
    starts = [START + day * DAY for day in range(3)]
    cells = _cells(house, starts)
    with house.transactions() as store:
        reference = store.reference(created.id, created.epoch)
        total = sum(q.rows for q in store.quality_of(created).values())
    assert reference is not None
    assert total == 900
    for start, batch in zip(starts, rows, strict=True):
        assert sum(cells[start, SCORE]) == 300
        for name, profile in reference.profiles.items():
            whole = profile.sketches(batch.columns[name], np.zeros(300, dtype=np.int64), 1)[0]
            assert cells[start, name] == whole.cells.tolist()


def test_late_rows_change_no_closed_window(house: House):
    house.create(monitor(), reference_rows())
    house.predict(predictions(300, START))
    house.predict(predictions(300, START + DAY, seed=2))
    before = _cells(house, [START])
    house.predict(predictions(50, START, seed=3))
    assert _cells(house, [START]) == before
    with house.transactions() as store:
        windows = house.monitoring.windows(store, "drift", 10, "")
        report = house.monitoring.performance(store, "drift", "")
    assert [w.start_us for w in windows] == [START]
    assert windows[0].row_count == 300
    assert not windows[0].skipped
    # Quality has no deadline.
    assert report[0].rows == 350


def test_shadow_counts_for_quality_and_not_for_drift(house: House):
    house.create(monitor(), reference_rows())
    shadow = predictions(300, START, shadow=True, version="models/late/versions/2")
    house.predict(shadow)
    assert _cells(house, [START]) == {}
    with house.transactions() as store:
        report = house.monitoring.performance(store, "drift", "")
        assert house.monitoring.get(store, "drift").watermark_us is None
    assert [(r.model_version, r.shadow, r.rows) for r in report] == [
        ("models/late/versions/2", True, 300)
    ]


def test_missing_and_unknown_columns(house: House):
    house.create(monitor(), reference_rows())
    rows = predictions(200, START)
    some = {"temp": rows.columns["temp"], "odd": Numbers(rows.scores)}
    house.predict(replace(rows, columns=some))
    with house.transactions() as store:
        state = store.windows(house.monitoring.get(store, "drift"), [START])[START]
    assert set(state.sketches) == {"temp", "hour", "carrier", SCORE}
    assert state.sketches["hour"].missing == state.sketches["carrier"].missing == 200


def test_implausible_rows_are_dropped(house: House):
    house.create(monitor(), reference_rows())
    rows = predictions(10, START)
    rows.scores[0], rows.times_us[1] = np.nan, START + 4_000 * DAY
    house.predict(rows)
    with house.transactions() as store:
        assert store.windows(house.monitoring.get(store, "drift"), [START])[START].row_count == 8


def test_one_prediction_of_the_wrong_time_closes_nothing(house: House):
    house.create(monitor(), reference_rows())
    now = int(house.clock.now().timestamp() * 1e6)
    # The very first one, and one in the midst of a replay, say that it is the present.
    house.predict(predictions(1, now, seed=90))
    house.predict(predictions(300, START))
    house.predict(predictions(1, now, seed=91))
    house.predict(predictions(300, START + DAY, seed=2))
    house.predict(predictions(300, START + DAY, seed=3))
    with house.transactions() as store:
        windows = house.monitoring.windows(store, "drift", 10, "")
        ahead = store.open_windows("drift", None)[-1]
    assert [(w.start_us, w.row_count) for w in windows] == [(START, 300)]
    assert (ahead.row_count, ahead.start_us > START + 100 * DAY) == (2, True)
    assert house.monitor().closed_before_us == START + DAY


def test_a_pause_of_a_month_is_over_after_a_window_worth_of_rows(house: House):
    house.create(monitor(), reference_rows())
    house.predict(predictions(300, START))
    later = predictions(300, START + 30 * DAY, seed=2)
    house.predict(_part(later, list(range(99))))
    assert house.monitor().closed_before_us == START
    house.predict(_part(later, list(range(99, 300))))
    assert house.monitor().closed_before_us == START + 30 * DAY
    with house.transactions() as store:
        (window,) = house.monitoring.windows(store, "drift", 10, "")
        (present,) = store.open_windows("drift", None)
    assert (window.row_count, present.row_count) == (300, 300)


def _label(house: House, rows: list[OutcomeRow], metric: str = "label") -> None:
    with house.transactions() as store:
        house.ingestion.outcomes(store, metric, rows)


def _metrics(house: House) -> dict[str, float]:
    with house.transactions() as store:
        found = house.monitoring.performance(store, "drift", "")
    assert len(found) == 1
    return dict(found[0].metrics)


def test_labels_early_late_twice_and_restated(house: House):
    house.create(monitor(), reference_rows())
    rows = predictions(300, START)
    rng = np.random.default_rng(5)
    wrong = rng.integers(0, 2, size=300).astype(float).tolist()
    right = (rng.random(300) < rows.scores).astype(float).tolist()
    times = range(START, START + 300)
    early = [OutcomeRow(*r) for r in zip(rows.ids[:100], wrong[:100], times, strict=False)]
    _label(house, early)
    house.predict(rows, replace(rows, shadow=True, model_version="models/late/versions/2"))
    later = START + DAY
    final = [OutcomeRow(name, v, later) for name, v in zip(rows.ids, right, strict=True)]
    _label(house, final[:250])
    _label(house, final[:250] + final[200:])
    # What became known before does not replace what became known later.
    _label(house, early)
    with house.transactions() as store:
        found = house.monitoring.performance(store, "drift", "")
    assert len(found) == 2
    from monitor_svc.domain.performance import labelled_quality, no_quality

    expected = metrics(no_quality(300) + labelled_quality(rows.scores, np.array(right)))
    for row in found:
        assert row.rows == row.labelled == 300
        assert row.metrics == pytest.approx(expected)


def test_other_metrics_do_not_touch_quality(house: House):
    house.create(monitor(), reference_rows())
    rows = predictions(100, START)
    house.predict(rows)
    _label(house, [OutcomeRow(name, 1.0, START) for name in rows.ids], "revenue")
    _label(house, [OutcomeRow("unknown", 1.0, START)])
    assert _metrics(house) == {"coverage": 0.0}


def test_reports_group_by_month_and_days(house: House):
    house.create(monitor(), reference_rows())
    for day in (0, 1, 7, 40):
        house.predict(predictions(50, START + day * DAY, seed=day))
    with house.transactions() as store:
        by_month = house.monitoring.performance(store, "drift", "MONTH")
        by_week = house.monitoring.performance(store, "drift", "7d")
    assert [r.rows for r in by_month] == [150, 50]
    assert [r.rows for r in by_week] == [100, 50, 50]
    assert by_month[0].model_version == VERSION


def test_endpoints_that_nobody_monitors_are_passed_over(house: House):
    house.create(monitor(), reference_rows())
    house.predict(replace(predictions(50, START), endpoint="endpoints/other"))
    with house.transactions() as store:
        assert store.predictions([f"{START}-1-0"]) == []


def test_a_batch_without_a_row_changes_nothing(house: House):
    house.create(monitor(), reference_rows())
    house.predict(predictions(0, START))
    house.predict(predictions(50, START), predictions(0, START))
    with house.transactions() as store:
        assert len(store.predictions([f"{START}-1-0"])) == 1


def _days(count: int):
    from datetime import timedelta

    return timedelta(days=count)
