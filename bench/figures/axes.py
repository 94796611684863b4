"""Logarithmic axes that have a 0, and names beside points, placed so that none hides another."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import NullLocator
from matplotlib.transforms import Bbox

from bench.figures.style import STYLE

Point = tuple[float, float]
DISTANCES = (5, 10, 16, 23, 31, 40)  # points from the marker's centre, tried in this order
DIRECTIONS = ((1, 0), (-1, 0), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8), (0, 1), (0, -1))
SIDES = {1: ("left", "bottom"), -1: ("right", "top"), 0: ("center", "center")}  # of a label, by its direction


def logarithmic(axes: Axes, which: Literal["x", "y"], values: pd.Series) -> None:
    """A logarithmic axis from 0: linear up to the decade below the smallest of the values that are not 0."""
    seen, axis = values[values > 0], getattr(axes, f"{which}axis")
    low, high = (math.floor(math.log10(seen.min())), math.ceil(math.log10(seen.max()))) if len(seen) else (-1, 0)
    low = max(low, high - 5)
    getattr(axes, f"set_{which}scale")("symlog", linthresh=10.0**low, linscale=0.6)
    ticks = [10.0**k for k in range(low, high + 1)]
    axis.set_ticks([0, *ticks], ["0", *(f"{t:g}" for t in ticks)])
    axis.set_minor_locator(NullLocator())
    getattr(axes, f"set_{which}lim")(-0.25 * 10.0**low, 1.7 * seen.max() if len(seen) else 1)


def label_points(
    axis: Axes, points: Sequence[Point], names: Sequence[str], lines: Sequence[Point] = (), size: float = 7.5
) -> None:
    """Write each name at the nearest free place beside its point, with a line to it where that is far.

    Places are free that lie within the axes and hide no marker, no line and no label set before; where none is, the
    nearest of all is taken. The axes must have their limits by now, and the figure all else that takes room.

    Args:
        points: in data coordinates.
        lines: corners of a line of horizontal and vertical pieces, in data coordinates.
        size: of the letters, in points.
    """
    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.set_dpi(STYLE["savefig.dpi"])  # letters are up to a tenth narrower with fewer pixels
    figure.draw_without_rendering()  # the layout gives the axes their place, which they keep
    figure.set_layout_engine("none")
    inch = figure.dpi / 72
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    centres = axis.transData.transform(points)
    taken = [Bbox.from_bounds(x - 3 * inch, y - 3 * inch, 6 * inch, 6 * inch) for x, y in centres]
    taken += [Bbox([a, b]) for a, b in pairwise(axis.transData.transform(lines) if len(lines) else [])]
    for point, name in zip(points, names, strict=True):
        label = axis.annotate(name, point, (0, 0), textcoords="offset points", fontsize=size, zorder=4)
        label.set_in_layout(False)
        places = [(d * x, d * y) for d in DISTANCES for x, y in DIRECTIONS]
        boxes = [_placed(label, place, renderer) for place in places]
        within = [axis.bbox.containsx(b.x0) and axis.bbox.containsx(b.x1) and axis.bbox.y0 <= b.y0 for b in boxes]
        free = (i for i, box in enumerate(boxes) if within[i] and not any(box.overlaps(other) for other in taken))
        chosen = next(free, 0)
        taken.append(_placed(label, places[chosen], renderer))
        if chosen >= len(DIRECTIONS):
            x, y = places[chosen]
            axis.annotate(
                "",
                point,
                (x, y),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.6, "shrinkA": 0, "shrinkB": 2},
            ).set_in_layout(False)


def _placed(label: Annotation, place: tuple[float, float], renderer: object) -> Bbox:
    """Put the label there; the pixels that it takes, and two around them."""
    x, y = place
    label.xyann = place
    label.set(ha=SIDES[(x > 0) - (x < 0)][0], va=SIDES[(y > 0) - (y < 0)][1])
    return label.get_window_extent(renderer).padded(2)  # type: ignore[arg-type]
