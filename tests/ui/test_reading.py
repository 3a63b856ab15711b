"""Answers are read beside their drawing, several at a time."""

import threading
import time
from collections.abc import Iterator

import pytest

from stepserve.client.client import Client
from stepserve.client.errors import StepserveError
from tests.ui.ui_server import LONG, MODEL, UiServer
from ui import reading
from ui.harmless import newest
from ui.talk import Solution, Talk


def test_four_thousand_pieces_are_drawn_ten_times_a_second_and_none_is_lost(filled_server: UiServer) -> None:
    with Client(filled_server.url) as server:
        answer = Talk(server, MODEL, [{"role": "user", "content": LONG.format(count=4000, length=8)}])
        drawn: list[int] = []
        began = time.monotonic()
        (read,) = reading.read([answer], lambda _: drawn.append(len(answer.text)))
        took_s = time.monotonic() - began
    read.result()
    assert len(answer.text) == drawn[-1] == 32_000
    assert len(drawn) <= took_s / 0.1 + 2


def test_drawing_that_takes_long_is_not_timed(filled_server: UiServer) -> None:
    drawing, read_whole = threading.Event(), threading.Event()

    class Watched(Talk):
        def __iter__(self) -> Iterator[None]:
            yield from super().__iter__()
            assert drawing.wait(60)
            read_whole.set()

    def draw(_: int) -> None:
        drawing.set()
        assert read_whole.wait(60), "it is read while it is drawn"

    with Client(filled_server.url) as server:
        reading.read([Watched(server, MODEL, [{"role": "user", "content": "What is 1+1?"}])], draw)[0].result()


def test_several_answers_are_read_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=60)

    def stream() -> Iterator[None]:
        both.wait()
        yield

    drawn: list[int] = []
    for read in reading.read([stream(), stream()], drawn.append):
        read.result()
    assert sorted(drawn) == [0, 1]


def test_one_that_fails_takes_no_other_with_it() -> None:
    def fails() -> Iterator[None]:
        yield
        raise StepserveError("it broke off")

    first, second = reading.read([fails(), iter([None])], lambda _: None)
    with pytest.raises(StepserveError, match="it broke off"):
        first.result()
    second.result()


def test_a_visitor_who_leaves_ends_what_is_read() -> None:
    closed, left = threading.Event(), threading.Event()

    def stream() -> Iterator[None]:
        try:
            yield
            left.wait(60)
            yield
        finally:
            closed.set()

    def draw(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reading.read([stream()], draw)
    left.set()
    assert closed.wait(60)


def test_a_solution_comes_in_pieces_and_then_whole(filled_server: UiServer) -> None:
    with Client(filled_server.url) as server:
        solution = Solution(server, "/solve/math", {"problem": "What is 17+25?", "model_id": MODEL})
        assert [solution.text for _ in solution] == ["4", "42"]
    assert solution.result is not None
    assert (solution.result["answer"], solution.result["solution"]) == ("42", "42")


def test_of_a_long_answer_that_grows_the_end_is_drawn() -> None:
    shown = newest("a" * 1_000_000 + "the end")
    assert len(shown) < 21_000
    assert shown.startswith("… 980,007 characters before these")
    assert shown.endswith("the end")
    assert newest("short") == "short"
