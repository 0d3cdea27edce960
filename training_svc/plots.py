"""Plots of an evaluation, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training_svc.domain.metrics import Floats, pr_auc

CHALLENGER, CHAMPION, GRID = "#0b6e99", "#c2571a", "#d9d9d9"
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
    figure, axes = _figure("Precision against recall on the holdout", "recall", "precision")
    for name, scores, color in models:
        hits = np.cumsum(labels[np.argsort(-scores, kind="stable")])
        precision = hits / np.arange(1, len(hits) + 1)
        label = f"{name}, area {pr_auc(labels, scores):.3f}"
        axes.plot(hits / max(hits[-1], 1), precision, color=color, label=label, linewidth=1.8)
    axes.axhline(labels.mean(), color="#777777", linestyle=":", label="base rate")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return _png(figure)


def _calibration(labels: Floats, models: Models) -> bytes:
    figure, axes = _figure(
        "Calibration on the holdout", "predicted probability", "observed frequency"
    )
    axes.plot([0, 1], [0, 1], color="#777777", linestyle=":", label="perfect")
    for name, scores, color in models:
        bins = np.minimum((scores * BINS).astype(int), BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        filled = counts > 0
        predicted = np.bincount(bins, scores, minlength=BINS)[filled] / counts[filled]
        observed = np.bincount(bins, labels, minlength=BINS)[filled] / counts[filled]
        axes.plot(predicted, observed, color=color, marker="o", label=name, linewidth=1.8)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    return _png(figure)


def _importance(names: Sequence[str], importance: Sequence[float]) -> bytes:
    share = np.asarray(importance, float) / max(sum(importance), 1e-12)
    order = np.argsort(share)[-MOST_INPUTS:]
    figure, axes = _figure("Importance of the inputs", "share of the total gain", "")
    axes.barh([names[at] for at in order], share[order], color=CHALLENGER)
    return _png(figure)


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.8), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()
