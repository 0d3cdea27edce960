"""Plots of an evaluation, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training_svc.domain.metrics import Floats, calibration_error, pr_auc

CHALLENGER, CHAMPION, GRID, QUIET = "#0b6e99", "#c2571a", "#d9d9d9", "#777777"
MOST_INPUTS = 20
BINS = 10


def evaluation_plots(
    labels: Floats,
    challenger: Floats,
    champion: Floats | None,
    names: Sequence[str],
    importance: Sequence[float],
) -> dict[str, bytes]:
    """Draws precision-recall, calibration and, where known, importance of the inputs."""
    models = [("challenger", challenger, CHALLENGER)]
    if champion is not None:
        models.append(("champion", champion, CHAMPION))
    plots = {
        "precision_recall.png": _precision_recall(labels, models),
        "calibration.png": _calibration(labels, models),
    }
    if importance:
        plots["feature_importance.png"] = _importance(names, importance)
    return plots


Models = Sequence[tuple[str, Floats, str]]


def _precision_recall(labels: Floats, models: Models) -> bytes:
    figure = _figure()
    axes = _dressed(figure.add_subplot(), "recall", "precision")
    axes.set_title("Precision against recall on the holdout", loc="left")
    for name, scores, color in models:
        order = np.argsort(-scores, kind="stable")
        # Rows of one score are taken together: between them there is no order.
        ends = np.r_[np.flatnonzero(np.diff(scores[order])), len(order) - 1]
        hits = np.cumsum(labels[order])[ends]
        label = f"{name}, area {pr_auc(labels, scores):.3f}"
        recall, precision = hits / max(hits[-1], 1), hits / (ends + 1)
        axes.plot(recall, precision, color=color, label=label, linewidth=1.6)
    base = float(labels.mean())
    axes.axhline(base, color=QUIET, linestyle=":", label=f"base rate {base:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return _png(figure)


def _calibration(labels: Floats, models: Models) -> bytes:
    figure = _figure()
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    _dressed(upper, "", "observed frequency")
    _dressed(lower, "predicted probability", "share of rows")
    upper.set_title("Calibration on the holdout", loc="left")
    upper.plot([0, 1], [0, 1], color=QUIET, linestyle=":", label="perfect")
    for name, scores, color in models:
        bins = np.minimum((scores * BINS).astype(int), BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        filled = counts > 0
        predicted = np.bincount(bins, scores, minlength=BINS)[filled] / counts[filled]
        observed = np.bincount(bins, labels, minlength=BINS)[filled] / counts[filled]
        label = f"{name}, error {calibration_error(labels, scores):.3f}"
        upper.plot(predicted, observed, color=color, marker="o", label=label, linewidth=1.6)
        edges = np.linspace(0, 1, BINS + 1)
        lower.stairs(counts / len(scores), edges, color=color, linewidth=1.6)
    upper.set(xlim=(0, 1), ylim=(0, 1))
    upper.legend(frameon=False)
    return _png(figure)


def _importance(names: Sequence[str], importance: Sequence[float]) -> bytes:
    share = np.asarray(importance, float) / max(sum(importance), 1e-12)
    order = np.argsort(share, kind="stable")[-MOST_INPUTS:]
    figure = _figure()
    axes = _dressed(figure.add_subplot(), "", "")
    axes.set_title("Importance of the inputs, share of the whole", loc="left")
    bars = axes.barh([names[at] for at in order], share[order], color=CHALLENGER)
    axes.bar_label(bars, [f"{each:.1%}" for each in share[order]], padding=3, fontsize=8)
    axes.margins(x=0.1, y=0.02)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False, left=False)
    return _png(figure)


def _figure() -> Figure:
    return Figure(figsize=(6.4, 4.8), dpi=110, layout="constrained")


def _dressed(axes: Axes, x: str, y: str) -> Axes:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return axes


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()
