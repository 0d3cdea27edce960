"""Results as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.serving.contender import WORKLOADS, Workload
from bench.serving.results import Record, Results
from bench.serving.statistics import spread

COLUMNS = ("req/s", "±", "p50 ms", "p95 ms", "p99 ms", "CPU µs", "errors")


def show(results: Results, console: Console) -> None:
    """Prints a table for each workload, and what could not be measured."""
    for workload in WORKLOADS:
        measured = [each for each in results.records if each.has(workload.name)]
        if measured:
            console.print(_table(workload, measured))
    for record in results.records:
        for part in parts(record):
            console.print(f"{record.title}: {part}", style="dim", highlight=False)
        if record.problem:
            console.print(f"[red]{record.title}[/]: {record.problem}", highlight=False)


def _table(workload: Workload, records: Sequence[Record]) -> Table:
    table = Table(title=workload.title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("server", no_wrap=True, min_width=20)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    for record in records:
        table.add_row(record.title, *row(record, workload.name))
    return table


def row(record: Record, workload: str) -> Sequence[str]:
    """The cells of a server: medians over rounds, errors of all rounds; ± is half the range."""
    rps = spread(_there(record.figures(workload, "rps")))
    medians = [
        spread(_there(record.figures(workload, name))).median
        for name in ("p50_ms", "p95_ms", "p99_ms")
    ]
    cpu = spread(_there(record.figures(workload, "cpu_us"))).median
    errors = sum(_there(record.figures(workload, "errors")))
    return (
        f"{rps.median:,.0f}",
        f"{(rps.high - rps.low) / 2 / rps.median:.0%}",
        *(f"{each:.2f}" for each in medians),
        f"{cpu:,.0f}",
        f"{errors:,.0f}",
    )


def parts(record: Record) -> Sequence[str]:
    """Server CPU of a request by part, where a server has several."""
    lines = []
    for workload in WORKLOADS:
        found = [each for each in record.rounds.get(workload.name, []) if each is not None]
        names = {name for each in found for name in each.cpu_us_by_part}
        if len(names) > 1:
            medians = {
                name: spread([each.cpu_us_by_part.get(name, 0.0) for each in found]).median
                for name in names
            }
            listed = sorted(medians.items(), key=lambda pair: -pair[1])
            text = ", ".join(f"{name} {value:,.0f}" for name, value in listed)
            lines.append(f"{workload.title}: CPU µs {text}")
    return lines


def _there(values: Sequence[float | None]) -> list[float]:
    return [each for each in values if each is not None]
