"""What people would use instead, in one run: `python -m benchmarks.peers`.

**Proxies.** A LiteLLM proxy and vLLM's router, each before the same bare `vllm serve`, that server itself, and this
one with keys and limits, are loaded in turns, in many short rounds, at 1, 16 and 64 clients: how many milliseconds each
adds to the median and to the 99th percentile, its requests a second as a share of the bare server's, and its memory.
Peers come from PyPI, each in an environment of its own below `--environments`; one that cannot be installed or started
is named with the reason. llama-swap is not on PyPI: its way of switching is played below.

**Switches** from one checkpoint to another under clients that ask all the time: `vllm serve` that is stopped and
started with the other checkpoint, and this server by each method: failed requests, the longest time without an answer,
and the time until the other checkpoint answers. A proxy that starts and stops servers as they are asked for
(llama-swap) holds requests in that time instead of failing them.
"""

import argparse
import asyncio
import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import aiohttp
import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.litellm_proxy import litellm_proxy
from benchmarks.load import Load, chat_load
from benchmarks.processes import CHECKPOINT, MODEL_ID, bare_vllm, free_port, limited_key, running, stepserve

EARLY = CHECKPOINT.with_name("step-0500")
_BARE, _OURS = "vllm serve", "stepserve"
_METHODS = ("in_place", "blue_green", "restart")
_QUESTION = [{"role": "user", "content": "What is 58+67?"}]
_ASKERS = 4
_PAUSE_AFTER_FAILURE_S = 0.05
_UNUSABLE = (RuntimeError, OSError, subprocess.CalledProcessError)
Found = TypeVar("Found")


class Server:
    """`process`: the one that was started for it; what that has started belongs to it."""

    def __init__(self, url: str, key: str | None, processes: list[psutil.Process]) -> None:
        self.url = url
        self.key = key
        self._processes = processes

    def memory_mb(self) -> float:
        total = 0
        for process in self._processes:
            for each in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += each.memory_full_info().pss
        return total / 1e6


@contextlib.contextmanager
def vllm_router(folder: Path, behind: str) -> Iterator[str]:
    """Yields its URL. `folder` is its virtual environment, made when it is not there."""
    program = folder.absolute() / "bin" / "vllm-router"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", "vllm-router"], check=True)
    port, metrics = free_port(), free_port()
    command = [str(program), "--worker-urls", behind, "--policy", "round_robin", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--prometheus-port", str(metrics)]
    with running(command, {"PATH": str(program.parent)}, f"http://127.0.0.1:{port}", "/health") as url:
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--requests", type=int, default=10, help="requests of each client a round, and at least 100")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--environments", type=Path, default=Path("build/peers"), metavar="FOLDER")
    parser.add_argument("--only", choices=["proxies", "switches"])
    args = parser.parse_args()
    if args.only != "switches":
        proxies(args.environments, args.clients, args.rounds, args.requests)
    if args.only != "proxies":
        switches()


def proxies(environments: Path, clients: list[int], rounds: int, requests: int) -> None:
    environments.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        bare, processes = _entered(stack, bare_vllm())
        servers = {_BARE: Server(bare, None, processes)}
        url, processes = _entered(stack, stepserve())
        servers[_OURS] = Server(url, limited_key(url), processes)
        try:
            (url, key), processes = _entered(stack, litellm_proxy(environments / "litellm", bare, MODEL_ID))
            servers["litellm"] = Server(url, key, processes)
        except _UNUSABLE as error:
            print(f"litellm is left out: {error}")
        try:
            url, processes = _entered(stack, vllm_router(environments / "vllm-router", bare))
            servers["vllm-router"] = Server(url, None, processes)
        except _UNUSABLE as error:
            print(f"vllm-router is left out: {error}")
        for count in clients:
            _compare(servers, count, rounds, max(100, requests * count))


def _entered(
    stack: contextlib.ExitStack, server: contextlib.AbstractContextManager[Found]
) -> tuple[Found, list[psutil.Process]]:
    """What it yields, and the processes that it has started."""
    before = set(psutil.Process().children())
    yielded = stack.enter_context(server)
    return yielded, [process for process in psutil.Process().children() if process not in before]


def _compare(servers: dict[str, Server], clients: int, rounds: int, requests: int) -> None:
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    for server in servers.values():
        chat_load(server.url, MODEL_ID, clients, requests, server.key)
    for number in range(rounds):
        for name in list(servers) if number % 2 else reversed(list(servers)):
            loads[name].append(chat_load(servers[name].url, MODEL_ID, clients, requests, servers[name].key))
    shown = Table(f"{clients} clients", "requests/s", f"of {_BARE}", "adds to p50, ms", "adds to p99, ms", "memory, MB")
    for name, server in servers.items():
        together, bare = Load.together(loads[name]), Load.together(loads[_BARE])
        share = median(
            mine.requests_per_s / theirs.requests_per_s for mine, theirs in zip(loads[name], loads[_BARE], strict=True)
        )
        added = [f"{together.latency_ms(at) - bare.latency_ms(at):+.1f}" for at in (0.5, 0.99)]
        shown.add_row(name, f"{together.requests_per_s:.1f}", f"{share:.3f}", *added, f"{server.memory_mb():.0f}")
    Console(width=110).print(shown)


class Askers:
    """Clients that ask all the time, each again when it is answered; `url` may change meanwhile."""

    def __init__(self, url: str, model: str) -> None:
        self.url = url
        self.failed = 0
        self.answered_at_s: list[float] = []
        self._model = model
        self._stopped = False

    async def during(self, work: Callable[[], float]) -> float:
        """What the work says, with clients before, during and after it."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
            asking = [asyncio.create_task(self._ask(session)) for _ in range(_ASKERS)]
            try:
                return await asyncio.to_thread(work)
            finally:
                self._stopped = True
                await asyncio.gather(*asking)

    def longest_gap_s(self) -> float:
        times = sorted(self.answered_at_s)
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        body = {"model": self._model, "messages": _QUESTION, "temperature": 0}
        while not self._stopped:
            try:
                async with session.post(f"{self.url}/v1/chat/completions", json=body) as response:
                    await response.read()
                    answered = response.status == 200
            except aiohttp.ClientError:
                answered = False
            if answered:
                self.answered_at_s.append(time.perf_counter())
            else:
                self.failed += 1
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)


def switches() -> None:
    shown = Table("switch under load", "failed requests", "longest time without an answer, s", "whole switch, s")
    _add(shown, "vllm serve, stopped and started", *_restarted())
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder:
        base = Path(folder)
        _copy(EARLY, base / "models" / "early")
        with stepserve(base) as url, httpx.Client(base_url=url, timeout=600, trust_env=False) as http:
            http.post("/models/register", json={"id": "early", "source": "bench"}).raise_for_status()
            for method in _METHODS:
                for model_id in ("early", MODEL_ID):  # the first time is for what is compiled and cached
                    askers = Askers(url, "active")
                    took_s = asyncio.run(askers.during(partial(_switch_s, http, model_id, method)))
                _add(shown, f"stepserve, {method}", askers, took_s)
    Console(width=110).print(shown)


def _restarted() -> tuple[Askers, float]:
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        askers = Askers(first.enter_context(bare_vllm(EARLY)), MODEL_ID)
        _answers(askers.url)

        def restart() -> float:
            started = time.perf_counter()
            first.close()
            askers.url = second.enter_context(bare_vllm(CHECKPOINT))
            _answers(askers.url)
            return time.perf_counter() - started

        return askers, asyncio.run(askers.during(restart))


def _answers(url: str) -> None:
    body = {"model": MODEL_ID, "messages": _QUESTION}
    httpx.post(f"{url}/v1/chat/completions", json=body, timeout=600, trust_env=False).raise_for_status()


def _switch_s(http: httpx.Client, model_id: str, method: str) -> float:
    started = time.perf_counter()
    http.post("/models/set_active", json={"id": model_id, "method": method}).raise_for_status()
    return time.perf_counter() - started


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def _add(shown: Table, what: str, askers: Askers, took_s: float) -> None:
    shown.add_row(what, str(askers.failed), f"{askers.longest_gap_s():.2f}", f"{took_s:.2f}")


if __name__ == "__main__":
    main()
