"""What of a figure's texts can be read."""

from __future__ import annotations

import itertools

from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def shown(figure: Figure) -> list[Text]:
    """Every text that is seen: tick labels outside of an axis are there, and not drawn."""
    FigureCanvasAgg(figure)  # measures texts as in a PNG
    figure.draw_without_rendering()  # type: ignore[no-untyped-call]
    hidden: set[int] = set()
    insets = [inset for axes in figure.axes for inset in axes.child_axes]
    for axes in (*figure.axes, *insets):
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted(limits)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not _is_seen(tick, low, high):
                    hidden |= {id(tick.label1), id(tick.label2)}
    texts = figure.findobj(Text)
    return [text for text in texts if text.get_visible() and text.get_text().strip() and id(text) not in hidden]  # type: ignore[attr-defined]


def _is_seen(tick: Tick, low: float, high: float) -> bool:
    slack = 1e-6 * (high - low)
    return tick.get_visible() and low - slack <= tick.get_loc() <= high + slack  # type: ignore[attr-defined]


def texts_of(figure: Figure) -> list[str]:
    """All texts that are seen."""
    return [text.get_text() for text in shown(figure)]


def unreadable(figure: Figure, texts: list[Text] | None = None) -> list[str]:
    """What leaves the figure, and what stands on another text; `texts` if they are known to be those shown."""
    texts = shown(figure) if texts is None else texts
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    width, height = figure.bbox.width, figure.bbox.height
    found = [
        f"'{text}' leaves the figure"
        for text, box in boxes
        if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > width + 0.5 or box.y1 > height + 0.5
    ]
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1:
            found.append(f"'{one}' on '{other}'")
    return found
