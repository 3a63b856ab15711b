"""Charts as inline SVG, drawn with the page's own colours. Pure; every label is escaped."""

import math
from collections.abc import Sequence
from html import escape

from stepserve.report.blocks import Bars, Curve, Intervals, number

_WIDTH = 720
_LABEL_WIDTH = 200
_ROW = 28
_PAD = 14
_AXIS = 34
_CURVE_HEIGHT = 220
_LONGEST_LABEL = 30
_TICKS = 5


def intervals(chart: Intervals) -> str:
    """A row each: the interval as a line, the value as a dot."""
    ends = [end for row in chart.rows for end in (row.low, row.high)]
    axis = _Axis([*ends, *(value for _, value in chart.marks)], _LABEL_WIDTH, _WIDTH - _PAD)
    height = _ROW * len(chart.rows) + _AXIS
    parts = _marks(chart.marks, axis, height - _AXIS)
    for place, row in enumerate(chart.rows):
        y = _ROW * place + _ROW / 2
        told = f"{row.label}: {number(row.value)} ({number(row.low)} to {number(row.high)})"
        parts.append(
            f"<g><title>{escape(told)}</title>{_label(row.label, y)}"
            f'<line class="line" x1="{axis(row.low):.1f}" x2="{axis(row.high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot" cx="{axis(row.value):.1f}" cy="{y}" r="5"/></g>'
        )
    return _svg(chart.title, height, [*parts, *_ticks(axis, height - _AXIS)])


def bars(chart: Bars) -> str:
    """A bar each, as long as its share of all."""
    whole = sum(count for _, count in chart.rows) or 1
    room = _WIDTH - _LABEL_WIDTH - 110
    parts = []
    for place, (label, count) in enumerate(chart.rows):
        y = _ROW * place
        length = room * count / whole
        parts.append(
            f"{_label(label, y + _ROW / 2)}"
            f'<rect class="bar" x="{_LABEL_WIDTH}" y="{y + 5}" width="{length:.1f}" height="{_ROW - 10}"/>'
            f'<text class="note" x="{_LABEL_WIDTH + length + 8:.1f}" y="{y + _ROW / 2 + 4}">'
            f"{count} ({100 * count / whole:.1f} %)</text>"
        )
    return _svg(chart.title, _ROW * len(chart.rows) + _PAD, parts)


def curve(chart: Curve) -> str:
    """The value as a line, its interval as a band around it."""
    heights = [end for point in chart.points for end in (point.low, point.high)]
    across = _Axis([point.x for point in chart.points], 60, _WIDTH - _PAD)
    up = _Axis([*heights, *(value for _, value in chart.marks)], _CURVE_HEIGHT - _AXIS, _PAD)
    points = chart.points
    band = [*((point.x, point.high) for point in points), *((point.x, point.low) for point in reversed(points))]
    parts = []
    for name, value in chart.marks:
        y = up(value)
        parts.append(f'<line class="mark" x1="60" x2="{_WIDTH - _PAD}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="note" x="{_WIDTH - _PAD}" y="{y - 4:.1f}" text-anchor="end">{escape(name)}</text>')
    parts.append(f'<polygon class="band" points="{_path(band, across, up)}"/>')
    line = [(point.x, point.value) for point in points]
    parts.append(f'<polyline class="curve" points="{_path(line, across, up)}"/>')
    parts += [
        f'<text class="note" x="54" y="{up(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>' for tick in up.ticks
    ]
    middle = (60 + _WIDTH - _PAD) / 2
    label = (
        f'<text class="note" x="{middle}" y="{_CURVE_HEIGHT + 12}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    return _svg(chart.title, _CURVE_HEIGHT + 18, [*parts, *_ticks(across, _CURVE_HEIGHT - _AXIS), label])


class _Axis:
    """From a value to where it is drawn; a range of nothing gets a width."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        room = (high - low) * 0.05 or max(abs(high) * 0.05, 0.01)
        self._low, self._high = low - room, high + room
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)

    @property
    def ticks(self) -> list[float]:
        """Round numbers within the range."""
        rough = (self._high - self._low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self._low / step)
        return [round(number_ * step, 10) for number_ in range(first, math.floor(self._high / step) + 1)]


def _ticks(axis: _Axis, y: float) -> list[str]:
    return [
        f'<line class="tick" x1="{axis(tick):.1f}" x2="{axis(tick):.1f}" y1="{y}" y2="{y + 5}"/>'
        f'<text class="note" x="{axis(tick):.1f}" y="{y + 19}" text-anchor="middle">{number(tick)}</text>'
        for tick in axis.ticks
    ]


def _marks(marks: Sequence[tuple[str, float]], axis: _Axis, height: float) -> list[str]:
    return [
        f'<line class="mark" x1="{axis(value):.1f}" x2="{axis(value):.1f}" y1="0" y2="{height}">'
        f"<title>{escape(f'{name}: {number(value)}')}</title></line>"
        for name, value in marks
    ]


def _label(text: str, y: float) -> str:
    shown = text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
    return f'<text class="label" x="{_LABEL_WIDTH - 12}" y="{y + 4}" text-anchor="end">{escape(shown)}</text>'


def _path(points: Sequence[tuple[float, float]], across: _Axis, up: _Axis) -> str:
    return " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {_WIDTH} {height:g}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
