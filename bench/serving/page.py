"""Results as a page; `python -m bench.serving.page FOLDER` writes it anew from the JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.serving import plot
from bench.serving.contender import WORKLOADS, Workload
from bench.serving.results import Record, Results
from bench.serving.statistics import ratio
from bench.serving.table import COLUMNS, parts, row

OURS = "modelyard"
PLOTTED = ("row32", "batch8")

HEAD = """# Online inference beside its peers

One LightGBM model, 100 trees on 30 features, answers everywhere; every server is asked in the same
run. Written by `make bench` from [`serving.json`](serving.json).

- **The suite** is measured by its whole path: the gateway checks an API key, splits the traffic by
  a hash over two versions, sends rows to replicas that Ray Serve placed in other processes, and
  logs each prediction to the stream. Its CPU is that of *all* its processes, idle services and
  Ray's own included. The peers do none of this: they check no key, split and log nothing.
- **Peers** run in environments of their own with pinned versions
  ([`bench/serving/constraints`](../../bench/serving/constraints)), one worker each, libraries on
  one thread. Where a peer has no LightGBM runtime, the model is its ONNX file; the list at the
  end says how each serves it.
- **Load** comes from wrk (HTTP) and h2load (gRPC): a fixed number of connections, each with one
  request at a time, so latency is that of a closed loop. Rows change from request to request, but
  for gRPC. Generator and server share the machine's cores; the generator's CPU is not counted.
- **Answers** are compared with the model's own before each measurement (to 1e-5).
- Servers are started, left alone for five seconds, warmed up, measured and stopped one after the
  other, round after round; figures are medians over rounds, ± is half their range, and ratios are
  taken round by round.
"""


def write(results: Results, folder: Path) -> None:
    """Writes JSON, page and plots to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "serving.json").write_text(results.to_json())
    drawn = [each for each in shown(results) if each.name in PLOTTED]
    for workload in drawn:
        plot.draw(results, workload, folder / f"serving-{workload.name}.svg")
    (folder / "serving.md").write_text("\n".join(lines(results)) + "\n")


def shown(results: Results) -> Sequence[Workload]:
    """Workloads with any figures."""
    return [each for each in WORKLOADS if any(one.has(each.name) for one in results.records)]


def lines(results: Results) -> Iterator[str]:
    """The page."""
    yield HEAD
    about = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    yield f"{results.date}; {about}; {results.rounds} rounds of {results.seconds:g} s a figure.\n"
    for workload in shown(results):
        yield from section(results, workload)
    yield "## CPU of the suite by part\n"
    for record in results.records:
        if record.name.startswith(OURS):
            yield from (f"- {record.title}, {each}" for each in parts(record))
    yield "\n## How each serves the model\n"
    yield from map(_how, results.records)


def section(results: Results, workload: Workload) -> Iterator[str]:
    """A workload: its plot, and its table with the suite's ratio to each server."""
    yield f"## {workload.title[:1].upper()}{workload.title[1:]}\n"
    if workload.name in PLOTTED:
        yield f"![{workload.title}](serving-{workload.name}.svg)\n"
    columns = ("server", *COLUMNS, "suite's req/s by this")
    yield f"| {' | '.join(columns)} |"
    yield "|---" + "|--:" * (len(columns) - 1) + "|"
    ours = next((each for each in results.records if each.name == OURS), None)
    for record in results.records:
        if record.has(workload.name):
            cells = (record.title, *row(record, workload.name), faster(ours, record, workload))
            yield f"| {' | '.join(cells)} |"
    yield ""


def faster(ours: Record | None, other: Record, workload: Workload) -> str:
    """The suite's throughput by another server's, with the range over rounds."""
    if ours is None or other is ours:
        return ""
    found = ratio(ours.figures(workload.name, "rps"), other.figures(workload.name, "rps"))
    if found is None:
        return ""
    return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"


def _how(record: Record) -> str:
    versions = ", ".join(f"{name} {each}" for name, each in record.versions.items())
    problem = f" **Not measured:** {' '.join(record.problem.split())}" if record.problem else ""
    return f"- **{record.title}**: {record.how} ({versions}).{problem}"


def main() -> None:
    """Writes the page of a folder anew."""
    folder = Path(sys.argv[1])
    write(Results.from_json((folder / "serving.json").read_text()), folder)


if __name__ == "__main__":
    main()
