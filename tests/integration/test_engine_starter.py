"""The process that engines are forked from: a fork of the gateway that has kept nothing of it."""

import json
import subprocess
import sys
from typing import Any

import psutil
import pytest

from gateway.engine.fork_server import for_gpu
from tests.eventually import wait_until
from tests.integration.programs import REPOSITORY

pytestmark = pytest.mark.skipif(for_gpu(), reason="engines are spawned there")


def run(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.integration.starter_run", *arguments]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize(("arguments", "is_fork"), [((), True), (("thread",), False)])
def test_an_engine_begins_with_vllm_and_without_what_the_gateway_has(arguments: tuple[str, ...], is_fork: bool) -> None:
    """Where a thread runs in the gateway, the process is started anew instead, and imports vLLM for itself."""
    told = run(*arguments)
    assert told["has_vllm"]
    assert told["has_gateway"] is is_fork
    assert told["is_child"]
    assert told["parent"] == told["starter"]
    assert told["listening"] not in told["descriptors"], "the public port would outlive the gateway"
    assert told["environment"] == "set since"
    assert (told["signals"], told["thresholds"]) == ([True, True], [700, 10, 10])
    wait_until("it has ended with the gateway", lambda: not psutil.pid_exists(told["starter"]), 60.0)
