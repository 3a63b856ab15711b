"""A report is one file, says what its blocks say, and never lets a model's text be more than text."""

import re
from html.parser import HTMLParser

import pytest

from stepserve.report import html, markdown
from stepserve.report.blocks import (
    Bars,
    Block,
    Bullets,
    Curve,
    Document,
    Heading,
    Interval,
    Intervals,
    Paragraph,
    Point,
    Table,
)

HOSTILE = '<script>alert("1")</script> & <img src=x onerror=y> | `a` [b](javascript:c)\n# d </style></svg>'
POINTS = [Point(float(n), -0.1, n / 100, 0.5) for n in range(1, 40)]
EVERYTHING: tuple[Block, ...] = (
    Heading(HOSTILE),
    Paragraph(HOSTILE, "bad"),
    Bullets([HOSTILE]),
    Table((HOSTILE, "b"), [[HOSTILE, "2"]], folded=HOSTILE),
    Intervals(HOSTILE, [Interval(HOSTILE, -0.1, 0.2, 0.5)], ((HOSTILE, 0.0),)),
    Bars(HOSTILE, [(HOSTILE, 3), ("b", 0)]),
    Curve(HOSTILE, HOSTILE, POINTS, ((HOSTILE, 0.0),)),
)
TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "ul", "li", "details", "summary", "div",
    "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "svg", "g", "line", "circle", "rect", "text",
    "polygon", "polyline",
}  # fmt: skip


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def test_what_a_model_said_stays_text_in_a_page() -> None:
    page = html.rendered(Document(HOSTILE, EVERYTHING))
    found = read(page)
    assert found.tags <= TAGS
    assert not {name for name in found.attributes if name.startswith("on") or name in {"src", "href", "style"}}
    assert found.text.count('alert("1")') >= len(EVERYTHING)


def test_a_page_asks_nobody_for_anything() -> None:
    page = html.rendered(Document("a", EVERYTHING))
    assert "default-src 'none'" in html.POLICY
    assert re.findall(r"https?://[^\"' ]+", page) == ["http://www.w3.org/2000/svg"] * 3
    assert "url(" not in page
    assert "@import" not in page


def test_what_a_model_said_stays_text_in_markdown() -> None:
    text = markdown.rendered(Document(HOSTILE, EVERYTHING))
    assert "<script>" not in text.replace("\\<", "")
    for line in text.splitlines():
        if line.startswith("|"):  # a bar or a line's end in a cell would break the table
            assert len(re.findall(r"(?<!\\)\|", line)) in {3, 4}, line
    assert not re.search(r"^# d", text, re.MULTILINE)
    assert not re.search(r"(?<!\\)\]\(", text)


def test_charts_draw_what_they_are_told() -> None:
    chart = Intervals("t", [Interval("first", 0.0, 0.5, 1.0), Interval("second", 0.25, 0.5, 0.75)], (("zero", 0.0),))
    page = html.rendered(Document("a", [chart]))
    lines = [(float(start), float(end)) for start, end in re.findall(r'class="line" x1="([\d.]+)" x2="([\d.]+)"', page)]
    (wide, narrow) = lines
    assert wide[1] - wide[0] == pytest.approx(2 * (narrow[1] - narrow[0]), abs=0.2)
    (mark,) = re.findall(r'class="mark" x1="([\d.]+)"', page)
    assert float(mark) == pytest.approx(wide[0], abs=0.1)
    assert "first: 0.5 (0 to 1)" in page
    text = markdown.rendered(Document("a", [chart]))
    assert "| second | 0.5 | 0.25 to 0.75 |" in text


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e9])
def test_a_chart_of_one_value_can_be_drawn(value: float) -> None:
    blocks: list[Block] = [
        Intervals("t", [Interval("a", value, value, value)]),
        Curve("t", "x", [Point(1.0, value, value, value)]),
        Bars("t", [("a", 0)]),
    ]
    page = html.rendered(Document("a", blocks))
    read(page)
    assert "nan" not in page
    assert "inf" not in page


def test_charts_of_nothing_are_left_out() -> None:
    blocks: list[Block] = [Intervals("t", []), Curve("t", "x", []), Bars("t", [])]
    assert "<svg" not in html.rendered(Document("a", blocks))
    assert markdown.rendered(Document("a", blocks)) == "# a\n"


@pytest.mark.parametrize("text", ["- a", "+ a", "1. a", "12) a", "# a", "> a", "~~~", "```", "---", "***", "| a |"])
def test_a_paragraph_is_never_something_else(text: str) -> None:
    assert markdown.rendered(Document("a", [Paragraph(text)])).splitlines()[2] != text


def test_plain_words_are_left_as_they_are() -> None:
    text = "numeric on sums.jsonl is better: +0.4 (0.1 to 0.7), i.e. 2-3 more!"
    assert markdown.rendered(Document("a", [Paragraph(text)])).splitlines()[2] == text
