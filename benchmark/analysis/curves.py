"""The training-curve figure of a run."""

from __future__ import annotations

import io
from collections.abc import Sequence


def training_curves(rows: Sequence[dict[str, float]], title: str) -> bytes:
    """Draw accuracy (left) and loss terms (right) over the epochs, as a PNG."""
    from matplotlib.figure import Figure  # takes a second to import: only commands that draw wait for it

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.4), dpi=110)
    # fixed margins: computing a layout would cost as much as drawing, for every run
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.14, top=0.91, wspace=0.18)
    accuracy, losses = figure.subplots(1, 2)
    for name, label in (("train/top1", "train"), ("val/top1", "validation"), ("test/top1", "test")):
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        if points:
            accuracy.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else "")
    accuracy.set(xlabel="epoch", ylabel="top-1 accuracy (%)", title=title)
    for name in sorted({key for row in rows for key in row if key.startswith("train/loss")}):
        losses.plot(epochs, [row.get(name, float("nan")) for row in rows], label=name.removeprefix("train/"))
    losses.set(xlabel="epoch", ylabel="training loss", title="loss terms")
    for axes in (accuracy, losses):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
