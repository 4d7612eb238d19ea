"""Line charts as inline SVG that needs no style sheet: text and grid take the colour of the surrounding text.

Made here and in `templates/chart.svg`, not by a plotting library: a chart is one path per line and its ticks, its text
and grid follow the page's light or dark colours, and a line takes a few kilobytes. Matplotlib's SVG fixes its colours
and fonts and would be the report's heaviest dependency; libraries that draw in the browser need their script in every
page.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from uda_jax.report.elements import render

# Colours of similar weight that stay apart on white and on near-black.
_COLOURS = "#3b7dd8 #e07b28 #2f9e5f #cf4a52 #8a63c9 #a0714f #d765ab #7f8792 #a79a1f #23a5b8".split()
_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 22, 34, 38
_MOST_POINTS = 240
# Above this number of lines each gets fewer points, and the logged values behind them are left out.
_MANY_LINES = 12
_FEWEST_POINTS = 40


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a chart, of one run or of several seeds.

    Attributes:
      name: shown when the pointer rests on the line.
      colour: number of the line's colour, see `stroke`.
      steps: of the points.
      values: `[N]`, or `[seeds, N]`: then the line is their mean, in a band from their least to their largest value.
        A value that is NaN interrupts the line of its run.
    """

    name: str
    colour: int
    steps: Sequence[float]
    values: Sequence[float] | Sequence[Sequence[float]]


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A line as it is drawn: its points, the logged values `[seeds, N]` and their smoothed mean, least and largest."""

    line: Series
    steps: np.ndarray
    raw: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Stroke:
    """How a line is drawn: its colour, `#rrggbb`, and whether in dashes."""

    colour: str
    dashed: bool


def chart(title: str, lines: Sequence[Series], across: str = "step") -> Markup:
    """Draws values over steps: smoothed lines, the raw ones faint behind them.

    Args:
      title: written above the axes.
      lines: at least one Series; those without a finite value are left out.
      across: what the steps are, written below their axis.

    Returns:
      An `<svg>` element, or nothing if there is nothing to draw.
    """
    most = max(_FEWEST_POINTS, _MOST_POINTS * _MANY_LINES // max(len(lines), _MANY_LINES))
    drawn = [found for line in lines if (found := _drawn(line, most)) is not None]
    if not drawn:
        return Markup()
    x_ticks = ticks(min(0.0, *(each.steps.min() for each in drawn)), max(each.steps.max() for each in drawn))
    y_ticks = ticks(*_limits(drawn))

    def position(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = _LEFT + (steps - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (_WIDTH - _LEFT - _RIGHT)
        share = np.clip((values - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]), 0, 1)
        return x, _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    bands, paths = [], []
    for each in drawn:
        name, look = each.line.name, stroke(each.line.colour)
        if len(each.raw) > 1:
            bands.append((name, look, _area(*position(each.steps, each.low), position(each.steps, each.high)[1])))
        elif len(drawn) <= _MANY_LINES:
            paths.append((name, look, True, _path(*position(each.steps, each.raw[0]))))
    paths += [
        (each.line.name, stroke(each.line.colour), False, _path(*position(each.steps, each.mean))) for each in drawn
    ]
    grid, labels = _axes(x_ticks, y_ticks, position, across)
    sizes = {"width": _WIDTH, "height": _HEIGHT, "left": _LEFT}
    return render("chart.svg", title=title, grid=grid, labels=labels, bands=bands, paths=paths, **sizes)


def stroke(number: int) -> Stroke:
    """Returns the look of the line with a number from 0; after ten the colours come again, dashed."""
    return Stroke(_COLOURS[number % len(_COLOURS)], number >= len(_COLOURS))


def smooth(values: np.ndarray, span: float = 0.05) -> np.ndarray:
    """Averages exponentially, with the start's bias corrected and NaN passed over.

    Args:
      values: float `[N]`.
      span: the averaging length as a share of N; below 1 point nothing changes.

    Returns:
      float `[N]`, NaN where `values` is.
    """
    keep = max(0.0, 1 - 1 / max(span * len(values), 1))
    total = weight = 0.0
    smoothed = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
            smoothed[i] = total / weight
    return smoothed


def ticks(low: float, high: float, count: int = 5) -> np.ndarray:
    """Returns about `count` round numbers (1, 2 or 5 times a power of ten apart) that enclose [low, high]."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    distance = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / distance + 1e-9), math.ceil(high / distance - 1e-9)
    return np.arange(first, last + 1) * distance


def _axes(
    x_ticks: np.ndarray, y_ticks: np.ndarray, position: Callable, across: str
) -> tuple[str, list[dict[str, str]]]:
    """The path of the grid, and anchor, position and text of the labels."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    grid, labels = [], []
    for tick, x in zip(x_ticks, position(x_ticks, y_ticks[:1])[0], strict=True):
        grid.append(f"M{x:.1f} {_TOP}V{bottom}")
        labels.append({"anchor": "middle", "x": f"{x:.1f}", "y": f"{bottom + 15}", "text": _number(tick)})
    for tick, y in zip(y_ticks, position(x_ticks[:1], y_ticks)[1], strict=True):
        grid.append(f"M{_LEFT} {y:.1f}H{right}")
        labels.append({"anchor": "end", "x": f"{_LEFT - 6}", "y": f"{y + 3.5:.1f}", "text": _number(tick)})
    labels.append({"anchor": "end", "x": f"{right}", "y": f"{_HEIGHT - 6}", "text": across})
    return "".join(grid), labels


def _drawn(line: Series, most: int) -> _Drawn | None:
    """Thins and smooths the points of a line; None without a finite value."""
    steps, raw = _thin(np.asarray(line.steps, float), np.atleast_2d(np.asarray(line.values, float)), most)
    if not np.isfinite(raw).any():
        return None
    smoothed = np.stack([smooth(values) for values in raw])
    with warnings.catch_warnings():
        # No seed has a value there, and the line a gap.
        warnings.simplefilter("ignore", RuntimeWarning)
        return _Drawn(
            line, steps, raw, *(function(smoothed, axis=0) for function in (np.nanmean, np.nanmin, np.nanmax))
        )


def _limits(drawn: Sequence[_Drawn]) -> tuple[float, float]:
    """The range of the smoothed lines and of all raw points but the most extreme ones, which would flatten the rest."""
    points = np.concatenate([each.raw.ravel() for each in drawn])
    low, high = np.percentile(points[np.isfinite(points)], [1, 99])
    return min(low, *(np.nanmin(each.low) for each in drawn)), max(high, *(np.nanmax(each.high) for each in drawn))


def _thin(steps: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over runs of neighbouring points, so that a long run does not make a heavy page; values `[seeds, N]`."""
    values = np.where(np.isfinite(values), values, np.nan)
    bucket = -(-len(steps) // most)
    if bucket <= 1:
        return steps, values
    starts = range(0, len(steps), bucket)
    return (
        np.array([steps[i : i + bucket].mean() for i in starts]),
        np.stack([values[:, i : i + bucket].mean(axis=1) for i in starts], axis=1),
    )


def _area(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """The path around what lies between two lines, one closed part for each stretch without a gap."""
    parts = []
    known = np.isfinite(low)
    ends = np.flatnonzero(np.diff(np.concatenate(([0], known.astype(int), [0]))))
    for first, last in ends.reshape(-1, 2):
        there = [f"{x[i]:.1f} {low[i]:.1f}" for i in range(first, last)]
        back = [f"{x[i]:.1f} {high[i]:.1f}" for i in range(last - 1, first - 1, -1)]
        parts.append(f"M{'L'.join([*there, *back])}Z")
    return "".join(parts)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    parts = []
    for i in np.flatnonzero(np.isfinite(y)):
        starts = i == 0 or not math.isfinite(y[i - 1])
        ends = i + 1 == len(y) or not math.isfinite(y[i + 1])
        # A lone point becomes a line of no length, which the round caps make a dot.
        parts.append(f"{'M' if starts else 'L'}{x[i]:.1f} {y[i]:.1f}{'h0' if starts and ends else ''}")
    return "".join(parts)


def _number(value: float) -> str:
    if abs(value) >= 10000:
        return f"{value / 1000:.6g}k"
    return f"{value:.6g}"
