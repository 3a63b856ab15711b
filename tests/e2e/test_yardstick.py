"""A bare vLLM answers the same requests as we do, but for the differences that yardstick/differences.json lists.

`python -m tests.e2e.yardstick.record` writes the requests anew.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.server import FINAL, FINAL_ID, REPOSITORY, Server, free_port, kill
from tests.e2e.yardstick.outcome import differing, outcomes
from tests.e2e.yardstick.record import requests
from tests.eventually import wait_until

_START_LIMIT_S, _STOP_LIMIT_S = 280.0, 20.0

pytestmark = pytest.mark.long

FOLDER = REPOSITORY / "tests" / "e2e" / "yardstick"

Json = dict[str, Any]


def _recorded() -> list[Json]:
    return [json.loads(line) for line in (FOLDER / "requests.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The own server of vLLM, started by its module: the CPU wheel has no command of its own that works."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--model={FINAL}", f"--port={port}"]
    command += ["--host=127.0.0.1", "--served-model-name", FINAL_ID, "active", "--scheduling-policy=priority"]
    command += ["--enforce-eager", "--max-num-seqs=256"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    output = tmp_path_factory.mktemp("bare") / "output.txt"
    url = f"http://127.0.0.1:{port}"
    with output.open("w") as written:
        process = psutil.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=written, stderr=written)
        try:
            wait_until("vLLM is ready", lambda: process.poll() is not None or _is_up(url), _START_LIMIT_S)
            assert process.poll() is None, output.read_text()[-4000:]
            yield url
        finally:
            family = [process, *process.children(recursive=True)] if process.is_running() else []
            process.send_signal(signal.SIGINT)
            kill(psutil.wait_procs(family, timeout=_STOP_LIMIT_S)[1])
            process.wait()


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_the_recorded_requests_are_those_of_the_program() -> None:
    assert _recorded() == json.loads(json.dumps(list(requests()))), "python -m tests.e2e.yardstick.record"
    names = [request["name"] for request in _recorded()]
    assert len(set(names)) == len(names)


def test_answers_differ_where_it_is_listed_and_nowhere_else(server: Server, bare: str) -> None:
    theirs = asyncio.run(outcomes(bare, _recorded()))
    ours = asyncio.run(outcomes(server.url, _recorded()))
    found = {name: differing(theirs[name], ours[name]) for name in theirs}
    found = {name: parts for name, parts in found.items() if parts}
    listed: list[Json] = json.loads((FOLDER / "differences.json").read_text())
    unlisted = {name: parts for name, parts in found.items() if _entry(listed, name, parts) is None}
    assert unlisted == {}
    used = [_entry(listed, name, parts) for name, parts in found.items()]
    assert [entry["requests"] for entry in listed if entry not in used] == [], "listed, and differs no more"


def _entry(listed: list[Json], name: str, parts: Json) -> Json | None:
    """The entry that allows this: all of what differs has to be named there."""
    allowed = (
        entry
        for entry in listed
        if parts.keys() <= set(entry["parts"]) and any(fnmatchcase(name, one) for one in entry["requests"])
    )
    return next(allowed, None)
