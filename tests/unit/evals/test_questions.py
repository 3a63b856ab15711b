"""A job that is stopped while its dataset is being opened leaves no open file."""

import asyncio
from io import BufferedReader
from pathlib import Path

from evals.questions import _or_closed


def test_a_file_that_is_opened_for_nobody_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text("{}\n")

    async def scenario() -> bool:
        asked, may_open = asyncio.Event(), asyncio.Event()
        opened: list[BufferedReader] = []

        async def opening() -> BufferedReader:
            asked.set()
            await may_open.wait()
            opened.append(file.open("rb"))
            return opened[0]

        task = asyncio.create_task(_or_closed(opening()))
        await asked.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        may_open.set()
        while not opened or not opened[0].closed:
            await asyncio.sleep(0)
        return opened[0].closed

    assert asyncio.run(asyncio.wait_for(scenario(), 240))
