"""Line charts as inline SVG that needs no style sheet: text and grid take the colour of the surrounding text."""

import dataclasses
import html
import math
from collections.abc import Callable, Sequence

import numpy as np

# Colours of similar weight that stay apart on white and on near-black.
_COLOURS = "#3b7dd8 #e07b28 #2f9e5f #cf4a52 #8a63c9 #a0714f #d765ab #7f8792 #a79a1f #23a5b8".split()
_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 22, 34, 38
_MOST_POINTS = 240


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
      name: shown when the pointer rests on the line.
      colour: number of the line's colour; after ten the colours come again, dashed.
      steps, values: the points; a value that is NaN interrupts the line.
    """

    name: str
    colour: int
    steps: Sequence[float]
    values: Sequence[float]


def chart(title: str, lines: Sequence[Series]) -> str:
    """Draws values over steps: smoothed lines, the raw ones faint behind them.

    Args:
      title: written above the axes.
      lines: at least one Series; those without a finite value are left out.

    Returns:
      An `<svg>` element, or "" if there is nothing to draw.
    """
    drawn = [(line, *_thin(np.asarray(line.steps, float), np.asarray(line.values, float))) for line in lines]
    drawn = [(line, steps, raw, smooth(raw)) for line, steps, raw in drawn if np.isfinite(raw).any()]
    if not drawn:
        return ""
    x_ticks = ticks(min(0.0, *(steps.min() for _, steps, _, _ in drawn)), max(steps.max() for _, steps, _, _ in drawn))
    y_ticks = ticks(*_limits([raw for _, _, raw, _ in drawn], [smoothed for _, _, _, smoothed in drawn]))

    def place(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = _LEFT + (steps - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (_WIDTH - _LEFT - _RIGHT)
        share = np.clip((values - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]), 0, 1)
        return x, _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    name = html.escape(title)
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" fill="currentColor" role="img" aria-label="{name}">']
    parts.append(f'<text font-size="13" font-weight="600" x="{_LEFT}" y="20">{name}</text>')
    parts += _axes(x_ticks, y_ticks, place)
    for raw_line in (True, False):
        for line, steps, raw, smoothed in drawn:
            path = _path(*place(steps, raw if raw_line else smoothed))
            faint = ' opacity="0.2"' if raw_line else ""
            parts.append(
                f'<path {stroke(line.colour)}{faint} d="{path}"><title>{html.escape(line.name)}</title></path>'
            )
    return "".join([*parts, "</svg>"])


def stroke(colour: int) -> str:
    """Returns the SVG attributes of a line in colour number `colour`."""
    dashes = ' stroke-dasharray="5 4"' if colour >= len(_COLOURS) else ""
    line = f'fill="none" stroke="{_COLOURS[colour % len(_COLOURS)]}" stroke-width="1.8"{dashes}'
    return f'{line} stroke-linejoin="round" stroke-linecap="round"'


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


def _axes(x_ticks: np.ndarray, y_ticks: np.ndarray, place: Callable) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines, labels = [], []
    for tick, x in zip(x_ticks, place(x_ticks, y_ticks[:1])[0], strict=True):
        lines.append(f"M{x:.1f} {_TOP}V{bottom}")
        labels.append(f'<text text-anchor="middle" x="{x:.1f}" y="{bottom + 15}">{_number(tick)}</text>')
    for tick, y in zip(y_ticks, place(x_ticks[:1], y_ticks)[1], strict=True):
        lines.append(f"M{_LEFT} {y:.1f}H{right}")
        labels.append(f'<text text-anchor="end" x="{_LEFT - 6}" y="{y + 3.5:.1f}">{_number(tick)}</text>')
    labels.append(f'<text text-anchor="end" x="{right}" y="{_HEIGHT - 6}">step</text>')
    path = "".join(lines)
    grid = f'<path fill="none" stroke="currentColor" opacity="0.15" d="{path}"/>'
    return [grid, '<g font-size="10.5" fill-opacity="0.7">', *labels, "</g>"]


def _limits(raw: list[np.ndarray], smoothed: list[np.ndarray]) -> tuple[float, float]:
    """The range of the smoothed lines and of all raw points but the most extreme ones, which would flatten the rest."""
    points = np.concatenate(raw)
    low, high = np.percentile(points[np.isfinite(points)], [1, 99])
    lines = np.concatenate(smoothed)
    return min(low, np.nanmin(lines)), max(high, np.nanmax(lines))


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over runs of neighbouring points, so that a long run does not make a heavy page."""
    values = np.where(np.isfinite(values), values, np.nan)
    bucket = -(-len(values) // _MOST_POINTS)
    if bucket <= 1:
        return steps, values
    starts = range(0, len(values), bucket)
    return (
        np.array([steps[i : i + bucket].mean() for i in starts]),
        np.array([values[i : i + bucket].mean() for i in starts]),
    )


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
