"""`/v1/chat/completions` through the gateway against bare `vllm serve`: `python -m benchmarks.gateway`.

All servers are loaded in turn, in many short rounds, so that whatever else the machine does meets all alike; both vLLMs
run with the same engine flags. The figure is the median of the rounds' ratios; absolute times mean little. Two bare
servers compared this way differ by some 3 %. The gateway demands a key that has every kind of limit (`--open`: none).

`--litellm FOLDER` also loads a LiteLLM proxy, with one key, before the same bare server: another way to put keys before
vLLM. FOLDER is a virtual environment of its own, made from PyPI when it is not there.
"""

import argparse
import contextlib
from pathlib import Path
from statistics import median

from benchmarks.litellm_proxy import litellm_proxy
from benchmarks.load import Load, chat_load
from benchmarks.processes import MODEL_ID, bare_vllm, limited_key, stepserve
from benchmarks.record import Metric, add_to

Server = tuple[str, str | None]  # URL and key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--requests", type=int, default=10, help="requests of each client a round, and at least 100")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--open", action="store_true", help="demand no key")
    parser.add_argument("--litellm", type=Path, metavar="FOLDER", help="compare with a LiteLLM proxy installed there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="put the ratios of every round there too")
    args = parser.parse_args()
    metrics: list[Metric] = []
    print("clients   server        req/s   of vllm serve    p50 ms (ratio)    p99 ms (ratio)")
    with contextlib.ExitStack() as stack:
        url, bare = stack.enter_context(stepserve()), stack.enter_context(bare_vllm())
        servers: dict[str, Server] = {"vllm serve": (bare, None)}
        servers["stepserve"] = (url, None if args.open else limited_key(url))
        if args.litellm:
            servers["litellm"] = stack.enter_context(litellm_proxy(args.litellm, bare, MODEL_ID))
        for clients in args.clients:
            requests = max(100, args.requests * clients)
            rounds: dict[str, list[Load]] = {name: [] for name in servers}
            for at, key in servers.values():
                chat_load(at, MODEL_ID, clients, requests, key)
            for number in range(args.rounds):
                for name in list(servers) if number % 2 else reversed(list(servers)):
                    at, key = servers[name]
                    rounds[name].append(chat_load(at, MODEL_ID, clients, requests, key))
            for name in servers:
                _report(clients, name, rounds[name], rounds["vllm serve"])
            metrics += ratios(clients, rounds["stepserve"], rounds["vllm serve"])
    add_to(args.json, metrics)


def ratios(clients: int, loads: list[Load], bare: list[Load]) -> list[Metric]:
    """Of each round, over the bare server's of the same."""
    pairs = list(zip(loads, bare, strict=True))
    per_s = [mine.requests_per_s / theirs.requests_per_s for mine, theirs in pairs]
    made = [Metric(name=f"chat, {clients} clients: requests/s of vllm serve", better="higher", rounds=per_s)]
    for name, quantile in (("p50", 0.5), ("p99", 0.99)):
        waits = [mine.latency_ms(quantile) / theirs.latency_ms(quantile) for mine, theirs in pairs]
        made.append(Metric(name=f"chat, {clients} clients: {name} of vllm serve", better="lower", rounds=waits))
    return made


def _report(clients: int, name: str, loads: list[Load], bare: list[Load]) -> None:
    ratio = median(mine.requests_per_s / theirs.requests_per_s for mine, theirs in zip(loads, bare, strict=True))
    mine, theirs = Load.together(loads), Load.together(bare)
    columns = [f"{clients:7d}   {name:10s} {mine.requests_per_s:8.1f}   {ratio:13.3f}"]
    for quantile in (0.5, 0.99):
        ms = mine.latency_ms(quantile)
        columns.append(f"{ms:7.1f} ({ms / theirs.latency_ms(quantile):5.2f})")
    print("   ".join(columns), flush=True)


if __name__ == "__main__":
    main()
