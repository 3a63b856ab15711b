import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control.errors import LogUnreadable
from control.logs.tail import follow, last_lines


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "api_server.log"


def test_the_end_of_a_large_file(log: Path) -> None:
    log.write_text("".join(f"line {number} {'x' * 90}\n" for number in range(20_000)))
    assert [line.split()[1] for line in last_lines(log, 3)] == ["19997", "19998", "19999"]
    assert len(last_lines(log, 5000)) == 5000


def test_fewer_lines_than_asked_for(log: Path) -> None:
    assert last_lines(log, 5) == []
    log.write_text("")
    assert last_lines(log, 5) == []
    log.write_text("one\ntwo\nhalf")
    assert last_lines(log, 5) == ["one", "two", "half"]


def test_what_was_turned_over_comes_first(log: Path) -> None:
    log.with_name("api_server.log.1").write_text("a\nb\nc\n")
    log.write_text("d\n")
    assert last_lines(log, 3) == ["b", "c", "d"]


def test_a_line_without_end_is_not_read_whole(log: Path) -> None:
    with log.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    assert sum(map(len, last_lines(log, 1))) <= 8 * 1024 * 1024


def test_a_pipe_is_refused_and_not_waited_for(log: Path) -> None:
    os.mkfifo(log)
    with pytest.raises(LogUnreadable, match=r"api_server\.log is not a plain file"):
        last_lines(log, 5)


async def _next(lines: AsyncIterator[str | None]) -> str:
    async for line in lines:
        if line is not None:
            return line
    raise AssertionError("the stream ended")


def test_following_through_growth_turning_over_and_emptying(log: Path) -> None:
    def append(text: str) -> None:
        with log.open("a") as file:
            file.write(text)

    def turn_over() -> None:
        log.replace(log.with_name("api_server.log.1"))
        append("new file\n")

    async def run() -> list[str]:
        append("old\nlast\n")
        lines = follow(log, 1)
        async with asyncio.timeout(240):
            seen = [await _next(lines)]
            append("ha")
            assert await anext(lines) is None  # half a line is none
            append("lf\n")
            seen.append(await _next(lines))
            turn_over()
            seen.append(await _next(lines))
            os.truncate(log, 0)
            append("emptied\n")
            seen.append(await _next(lines))
        return seen

    assert asyncio.run(run()) == ["last", "half", "new file", "emptied"]
