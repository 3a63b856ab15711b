"""What a report is made of. Pure data: every text is taken as it is, and escaped by whoever renders it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["plain", "good", "bad", "open"]


@dataclass(frozen=True, slots=True)
class Heading:
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """`tone` says how the sentence is meant; it is never said by a colour alone."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Bullets:
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` have as many cells as `columns`. `folded`: closed at first, under this heading."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: str | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    label: str
    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """A chart of values with their intervals on one axis. `marks`: values of the axis that mean something."""

    title: str
    rows: Sequence[Interval]
    marks: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True, slots=True)
class Bars:
    """A chart of shares of one whole: (label, count)."""

    title: str
    rows: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A chart of one value and its interval over `x`."""

    title: str
    x_label: str
    points: Sequence[Point]
    marks: Sequence[tuple[str, float]] = ()


Block = Heading | Paragraph | Bullets | Table | Intervals | Bars | Curve


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    blocks: Sequence[Block]


NOT_KNOWN = "-"


def number(value: float | None, *, signed: bool = False) -> str:
    """For a person: four digits that mean something, and nothing where there is no number."""
    if value is None:
        return NOT_KNOWN
    return f"{value:+.4g}" if signed else f"{value:.4g}"


def between(ends: Sequence[float] | None, *, signed: bool = False) -> str:
    """An interval for a person."""
    return NOT_KNOWN if ends is None else " to ".join(number(end, signed=signed) for end in ends)
