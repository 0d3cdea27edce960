"""Results as a plot: throughput and CPU of each server."""

from __future__ import annotations

from pathlib import Path

from bench.serving.contender import Workload
from bench.serving.results import Record, Results
from bench.serving.statistics import Spread, spread

OURS, THEIRS = "#1f6feb", "#9aa4b2"
FIGURES = (("rps", "requests per second"), ("cpu_us", "server CPU per request, µs"))


def draw(results: Results, workload: Workload, path: Path) -> None:
    """Writes bars of medians, with the range of the rounds, to an SVG or PNG file."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "bench"  # the same results give the same file
    from matplotlib import pyplot as plt

    records = [each for each in results.records if each.has(workload.name)][::-1]
    height = 1.2 + 0.34 * len(records)
    figure, axes = plt.subplots(1, 2, figsize=(10, height), sharey=True, layout="constrained")
    colours = [OURS if each.name.startswith("modelyard") else THEIRS for each in records]
    titles = [each.title for each in records]
    for axis, (name, label) in zip(axes, FIGURES, strict=True):
        found = [summary(each, workload.name, name) for each in records]
        middles = [each.median for each in found]
        ranges = [
            [each.median - each.low for each in found],
            [each.high - each.median for each in found],
        ]
        bars = axis.barh(titles, middles, xerr=ranges, color=colours, ecolor="#444c56", capsize=2)
        axis.bar_label(bars, [f"{each:,.0f}" for each in middles], padding=6, fontsize=8)
        axis.set_xlabel(label)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(workload.title)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def summary(record: Record, workload: str, figure: str) -> Spread:
    """A figure over the rounds that have it."""
    return spread([each for each in record.figures(workload, figure) if each is not None])
