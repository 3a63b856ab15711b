"""Patterns over texts in pieces: however a text is cut, what arrives is what arrives of the whole text."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.filtering.filter import Blocked, Chain, whole
from gateway.filtering.patterns import PatternFilter, patterns

CARD = r"\b\d{4}([ -]?)\d{4}\1\d{4}\b"
KEY = r"(?<=key: )\w+"
WORD = r"(?i)secret word"


def made(*wanted: str, **options: Any) -> PatternFilter:
    return patterns({"patterns": list(wanted), "replacement": "█", **options})


def streamed(pieces: Sequence[str], *wanted: str, **options: Any) -> list[str]:
    """What goes on after each piece, and at last at the end."""
    text = made(*wanted, **options).of_answer()
    assert text is not None
    return [*(text.feed(piece) for piece in pieces), text.end()]


def test_a_match_over_several_pieces_is_redacted_and_nothing_before_it_waits() -> None:
    assert streamed(["pay 12", "34 5678", " 9012", " now"], CARD) == ["pay ", "", "", "█ now", ""]
    assert streamed(["the sec", "ret", "ly SECRET", " wo", "rd"], WORD) == ["the ", "", "secretly ", "", "", "█"]


def test_what_cannot_begin_a_match_goes_on_at_once() -> None:
    assert streamed(["hello ", "world, ", "12"], CARD) == ["hello ", "world, ", "", "12"]


def test_patterns_see_what_has_gone_on_before_a_piece() -> None:
    assert streamed(["my key: ", "abc", " x"], KEY) == ["my key: ", "", "█ x", ""]
    assert streamed(["x", "1234 5678 9012"], CARD) == ["x", "1234 ", "5678 9012"], "no word begins within a word"


def test_a_match_that_more_text_would_undo_waits_for_it() -> None:
    assert streamed(["foo", "bar"], "foo(?!bar)") == ["", "foobar", ""]
    assert streamed(["foo", "baz"], "foo(?!bar)") == ["", "█baz", ""]


def test_of_overlapping_matches_all_is_redacted() -> None:
    assert "".join(streamed(["abc", "def"], "bcd", "cde")) == "a█f"


@given(st.text("1 -key:sSecrtwod4", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_however_it_is_cut_the_same_arrives(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    at_once = made("s[e ]+c", "key: ?1", r"1+-4", WORD).of_answer()
    assert at_once is not None
    assert "".join(streamed(pieces, "s[e ]+c", "key: ?1", r"1+-4", WORD)) == whole(at_once, text)


def test_a_match_without_an_end_holds_back_so_much_and_no_more() -> None:
    pieces = ["<", *(["x" * 10] * 10)]
    seen = streamed(pieces, "<.*>", max_chars=32)
    assert max(len("".join(pieces[: number + 1])) - len("".join(seen[: number + 1])) for number in range(11)) <= 32
    assert "".join(seen) == "".join(pieces)
    assert "".join(streamed(["1" * 20] * 5, r"\d+", max_chars=32)).strip("█") == "", (
        "a run of digits is none the less one"
    )


@pytest.mark.parametrize("pieces", [["the secret word"], ["the secret ", "word"], ["the secret word", " is"]])
def test_blocking_ends_the_text(pieces: list[str]) -> None:
    with pytest.raises(Blocked, match="house rules"):
        streamed(pieces, WORD, action="block", name="house rules")


def test_a_pattern_that_takes_too_long_lets_nothing_through() -> None:
    text = made(r"(.*)*1(.*)2(.*)3", name="slow").of_request()
    assert text is not None
    with pytest.raises(Blocked, match="slow"):
        whole(text, "a1" * 400)


def test_places_are_looked_at_as_told() -> None:
    assert made("x", places=["answer"]).of_request() is None
    assert made("x", places=["request"]).of_answer() is None


def test_filters_behind_each_other() -> None:
    first, second = (made(wanted, replacement=other).of_answer() for wanted, other in (("ab+", "c"), ("cd", "e")))
    assert first is not None
    assert second is not None
    chain = Chain([first, second])
    assert [chain.feed("xa"), chain.feed("bb"), chain.feed("d"), chain.end()] == ["x", "", "", "e"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patterns": ["("]}, "'('"),
        ({"patterns": ["x*"]}, "no characters"),
        ({"patterns": []}, "at least 1"),
        ({"pattern": "x"}, "patterns"),
        ({"patterns": ["x"], "action": "hide"}, "redact"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        patterns(options)
