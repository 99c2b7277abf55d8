"""Plots of settings that were tried: a cloud with its Pareto front, and parallel coordinates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from matplotlib.ticker import LogLocator, MaxNLocator

from mars_dist.report.figures import significant

LEFT, RIGHT, TOP, BOTTOM = 76, 468, 14, 206
BETWEEN, HEIGHT = 190, 260
"""Of the axes of parallel coordinates: what lies between two of them at least, and how high they are."""
LETTER, LINE = 7, 14
"""Room for a letter and for a line of their text."""


@dataclass(frozen=True)
class Point:
    """A setting: what it costs and how good it is."""

    name: str
    x: float
    y: float
    spread: float = 0.0
    """Half of what lies between its best and its worst seed."""


@dataclass(frozen=True)
class Axis:
    """A value of each setting: one of some names, or a number."""

    heading: str
    values: Sequence[str | float]

    @property
    def names(self) -> list[str | float]:
        """Different values, where there are names among them."""
        return list(dict.fromkeys(self.values)) if any(isinstance(value, str) for value in self.values) else []


def pareto_front(points: Sequence[Point], mode: Literal["min", "max"]) -> list[Point]:
    """The points that no other one beats in cost and quality at once, cheapest first."""
    sign = 1 if mode == "min" else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, sign * point.y)):
        if not front or sign * point.y < sign * front[-1].y:
            front.append(point)
    return front


def cloud(title: str, x_label: str, points: Sequence[Point], mode: Literal["min", "max"]) -> str:
    """Points with their spread over seeds, and a line along the Pareto front, whose points have names."""
    x_of = scale([point.x for point in points], LEFT + 14, RIGHT - 14)
    y_of = scale([y for point in points for y in (point.y - point.spread, point.y + point.spread)], BOTTOM - 8, TOP + 8)
    front = pareto_front(points, mode)
    line = " ".join(f"{x_of(point.x):.1f},{y_of(point.y):.1f}" for point in front)
    marks = "".join(
        f'<g class="point{" front" if point in front else ""}"><title>{escape(point.name)}: {short(point.x)}, '
        f"{short(point.y)}</title>"
        f'<line x1="{x_of(point.x):.1f}" x2="{x_of(point.x):.1f}" y1="{y_of(point.y - point.spread):.1f}" '
        f'y2="{y_of(point.y + point.spread):.1f}"/>'
        f'<circle cx="{x_of(point.x):.1f}" cy="{y_of(point.y):.1f}" r="4"/></g>'
        for point in points
    )
    ys = ticks([point.y for point in points], MaxNLocator(4))
    # One of those that read alike is enough.
    xs = {short(tick): tick for tick in ticks([point.x for point in points], MaxNLocator(4))}
    grid = "".join(
        f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y_of(tick):.1f}" y2="{y_of(tick):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y_of(tick) + 4:.1f}" class="y">{tick:g}</text>'
        for tick in ys
    ) + "".join(f'<text x="{x_of(tick):.1f}" y="{BOTTOM + 20}" class="x">{label}</text>' for label, tick in xs.items())
    names = "".join(f"<li>{escape(point.name)} <b>{short(point.y)} at {short(point.x)}</b></li>" for point in front)
    return (
        f'<figure class="curve"><h3>{escape(title)}</h3>'
        f'<svg viewBox="0 0 480 250" role="img" aria-label="{escape(title)} against {escape(x_label)}">{grid}'
        f'<polyline points="{line}" class="series-0"/>{marks}'
        f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 40}" class="x">{escape(x_label)}</text></svg>'
        f'<figcaption>The front, cheapest first:<ol class="front">{names}</ol></figcaption></figure>\n'
    )


def parallel(axes: Sequence[Axis], names: Sequence[str]) -> str:
    """A line for each setting through all axes; the first setting, the best, is drawn boldly and last.

    There is room for all that is written: the longest heading or name, and the names of the axis that has most.
    """
    written = [text for axis in axes for text in (axis.heading, *map(tick_label, axis.values))]
    between = max(BETWEEN, LETTER * max(map(len, written)))
    width, height = between * len(axes) + 50, max(HEIGHT, 76 + LINE * max(len(axis.names) for axis in axes))
    places, left = [axis_places(axis, height) for axis in axes], between // 2 + 25
    drawn = ""
    for i, axis in enumerate(axes):
        x = left + between * i
        labels = dict(zip(places[i], map(tick_label, axis.values), strict=True))
        shown = labels if axis.names else {min(labels), max(labels)}
        texts = "".join(f'<text x="{x + 6}" y="{y + 4:.1f}">{escape(labels[y])}</text>' for y in shown)
        drawn += (
            f'<line x1="{x}" x2="{x}" y1="34" y2="{height - 10}"/>{texts}'
            f'<text x="{x}" y="16" class="x heading">{escape(axis.heading)}</text>'
        )
    lines = ""
    for k in reversed(range(len(names))):
        points = " ".join(f"{left + between * i},{places[i][k]:.1f}" for i in range(len(axes)))
        best = " best" if k == 0 else ""
        lines += f'<polyline points="{points}" class="setting{best}"><title>{escape(names[k])}</title></polyline>'
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Parallel coordinates">'
        f'<svg class="parallel" style="min-width:{width}px" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Each setting as a line through its choices, its cost and its score">{lines}{drawn}</svg></div>'
    )


def axis_places(axis: Axis, height: int) -> list[float]:
    """How high each value lies; names in the order in which they come."""
    if names := axis.names:
        of = scale(range(len(names)), 50, height - 26)
        return [of(names.index(value)) for value in axis.values]
    numbers = [float(value) for value in axis.values]
    of = scale(numbers, height - 26, 50)
    return [of(number) for number in numbers]


def scale(values: Sequence[float], start: float, end: float) -> "Scale":
    return Scale(min(values), max(values), start, end)


@dataclass(frozen=True)
class Scale:
    """From values to places; all in the middle where they do not differ."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


def ticks(values: Sequence[float], locator: MaxNLocator | LogLocator) -> list[float]:
    low, high = min(values), max(values)
    return [tick for tick in locator.tick_values(low, high) if low <= tick <= high] or [low]


def tick_label(value: str | float) -> str:
    return value if isinstance(value, str) else short(value)


def short(value: float) -> str:
    """1,234, 0.0123, 5.6 G."""
    for power, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= power:
            return f"{value / power:.3g}\u202f{unit}"
    if value == int(value) and math.isfinite(value):
        return f"{value:,.0f}"
    return f"{value:.{significant(abs(value))}f}"
