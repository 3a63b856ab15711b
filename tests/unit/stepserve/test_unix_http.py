"""What an event loop reports of sockets that were ready twice, and of everything else."""

import asyncio
import logging

import pytest

from stepserve.unix_http import expect_late_readiness


def test_only_a_second_readiness_is_left_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        expect_late_readiness(loop)
        woken = loop.create_future()
        loop.call_soon(woken.set_result, None)
        loop.call_soon(woken.set_result, None)
        await woken
        loop.call_soon(_broken)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    (line,) = caplog.records
    assert "_broken" in line.getMessage()


def _broken() -> None:
    raise asyncio.InvalidStateError("of something else")
