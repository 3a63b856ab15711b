"""Rates that several gateways share in a real Redis, and what happens when it goes away."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.access.rates import Rates
from tests import debian


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    server = debian.program("redis-server")
    socket = tmp_path / "redis.sock"
    command = [server, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not socket.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"redis+unix://{socket}", process
    finally:
        process.kill()
        process.wait()


async def test_two_gateways_count_together(redis: tuple[str, subprocess.Popen[bytes]]) -> None:
    one, other = Rates(redis[0]), Rates(redis[0])
    taken = [await each.take("k", 5) for each in (one, other) * 4]
    assert [each is None for each in taken] == [True] * 5 + [False] * 3
    assert all(each is None or 1 <= each <= 60 for each in taken)
    await one.spend("tokens", 100, 70)
    assert await other.left("tokens", 100) == 30
    await other.spend("tokens", 100, 500)  # more than is left takes what is left
    assert await one.left("tokens", 100) == 0
    await one.close()
    await other.close()


async def test_while_the_store_is_away_each_counts_for_itself(redis: tuple[str, subprocess.Popen[bytes]]) -> None:
    url, process = redis
    rates = Rates(url)
    assert await rates.take("k", 2) is None
    process.send_signal(signal.SIGSTOP)  # it takes connections and never answers
    began = time.monotonic()
    assert await rates.take("k", 2) is None
    assert time.monotonic() - began < 20
    assert await rates.take("k", 2) is None
    assert await rates.take("k", 2) is not None  # the limit holds
    process.send_signal(signal.SIGCONT)
    process.kill()
    await rates.close()


async def test_in_memory_the_limit_holds_for_a_crowd() -> None:
    rates = Rates(None)
    taken = await asyncio.gather(*(rates.take("k", 10) for _ in range(50)))
    assert sum(each is None for each in taken) == 10
