"""Pushes of weights into a real server: `python -m benchmarks.weights`.

In turn, the tiny model's weights are pushed and switched to in place from their files; the figure is the ratio of the
medians of the pauses. Then pushes that are cut off or altered. Then pushes under streams of chats, each of which has to
be right for the version that it names. Then the gateway's memory before and after many pushes. A larger model's bytes
over loopback, against a bare copy of as many bytes from one socket to another. Last, deltas of that model, in turn with
pushes of all of it.
"""

import argparse
import asyncio
import itertools
import math
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psutil
import torch
from safetensors.torch import load_file

from benchmarks.processes import CHECKPOINT, MODEL_ID, stepserve
from benchmarks.push_faults import faulty_pushes
from benchmarks.switch import larger
from stepserve import Client
from stepserve.client.weights import PushedWeights

EARLY = CHECKPOINT.parent / "step-0300"
QUESTIONS = [f"What is {a}+{b}?" for a, b in ((17, 25), (48, 37), (99, 1), (60, 35), (28, 64), (73, 19))]
PARTS = ("pause", "faults", "load", "memory", "larger")
TIMEOUT = aiohttp.ClientTimeout(total=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pushes", type=int, default=20, help="against switches in place")
    parser.add_argument("--loaded-pushes", type=int, default=50)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--larger-mb", type=int, default=400)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--deltas", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-weights-") as folder:
        base = Path(folder)
        with stepserve(base_dir=base, proof_compute_max_bytes=0) as url, Client(url) as client:
            sources = [load_file(EARLY / "model.safetensors"), load_file(CHECKPOINT / "model.safetensors")]
            if "pause" in args.only:
                against_switches(base, client, sources, args.pushes)
            if "faults" in args.only:
                faulty_pushes(url, client, sources)
            if "load" in args.only:
                under_load(url, client, sources, args.loaded_pushes, args.streams)
            if "memory" in args.only:
                for delta in (False, True):
                    memory(client, sources, args.many, delta=delta)
            if "larger" in args.only:
                tensors = throughput(base, client, args.larger_mb)
                deltas(client, tensors, args.deltas)


def against_switches(base: Path, client: Client, sources: list[Any], count: int) -> None:
    early = base / "models" / "early"
    early.mkdir(parents=True)
    for file in EARLY.iterdir():
        (early / file.name).write_bytes(file.read_bytes())
    client.register_model("early", "bench")
    pauses: dict[str, list[float]] = {"push": [], "in_place": []}
    for number in range(count):
        switched = client.set_active_model(("early", MODEL_ID)[number % 2], method="in_place")
        pauses["in_place"].append(switched.paused_ms or 0.0)
        pauses["push"].append(client.push_weights(sources[(number + 1) % 2]).paused_ms)
    push_ms, switch_ms = median(pauses["push"]), median(pauses["in_place"])
    print(f"pause of a push {push_ms:.1f} ms, of a switch in place {switch_ms:.1f} ms: {push_ms / switch_ms:.2f}")


def under_load(url: str, client: Client, sources: list[Any], count: int, streams: int) -> None:
    right: dict[bool, dict[str, str]] = {}
    first = client.push_weights(sources[1]).version  # even numbers from here on are the final weights
    for offset in (0, 1):
        if offset:
            client.push_weights(sources[0])
        right[offset == 0] = {question: "".join(client.chat(asked(question), temperature=0)) for question in QUESTIONS}
    tally = asyncio.run(_pushes_under_load(url, client, sources, (first, right), (count, streams)))
    print(f"{count} pushes under {streams} streams: {tally['answers']} answers, {tally['failed']} failed,", end=" ")
    print(f"{tally['wrong']} wrong; pause {tally['pause_ms']:.0f} ms, held {tally['held_ms']:.0f} ms (medians)")


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


async def _pushes_under_load(
    url: str,
    client: Client,
    sources: list[Any],
    expected: tuple[int, dict[bool, dict[str, str]]],
    size: tuple[int, int],
) -> dict[str, float]:
    first, right = expected
    count, streams = size
    tally = {"answers": 0, "failed": 0, "wrong": 0}
    stopped = False

    async def ask(session: aiohttp.ClientSession, number: int) -> None:
        for question in itertools.islice(itertools.cycle(QUESTIONS), number, None):
            if stopped:
                return
            body = {"model": "active", "messages": asked(question), "temperature": 0}
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                tally["answers"] += 1
                if answer.status != 200:
                    tally["failed"] += 1
                    continue
                is_final = (int(answer.headers["x-model-version"]) - first) % 2 == 0
                said = (await answer.json())["choices"][0]["message"]["content"]
                tally["wrong"] += said != right[is_final][question]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=TIMEOUT) as session:
        asking: list[Awaitable[None]] = [asyncio.create_task(ask(session, number)) for number in range(streams)]
        pushed: list[PushedWeights] = [
            await asyncio.to_thread(client.push_weights, sources[(number + 1) % 2]) for number in range(count)
        ]
        stopped = True
        await asyncio.gather(*asking)
    return {
        **tally,
        "pause_ms": median(each.paused_ms for each in pushed),
        "held_ms": median(each.held_ms for each in pushed),
    }


def memory(client: Client, sources: list[Any], count: int, *, delta: bool) -> None:
    gateway = next(
        process
        for process in psutil.Process().children(recursive=True)
        if " ".join(process.cmdline()).startswith("stepserve: gateway")
    )
    for number in range(20):
        client.push_weights(sources[number % 2], delta=delta)
    before = gateway.memory_info().rss, gateway.num_fds()
    for number in range(count):
        client.push_weights(sources[number % 2], delta=delta)
    after = gateway.memory_info().rss, gateway.num_fds()
    grown = (after[0] - before[0]) / 1e6
    kind = "deltas" if delta else "pushes"
    print(f"{count} {kind}: the gateway grew by {grown:.1f} MB of {before[0] / 1e6:.0f}, {after[1] - before[1]} files")


def throughput(base: Path, client: Client, megabytes: int) -> dict[str, torch.Tensor]:
    """Returns the tensors that were pushed last."""
    folder = larger(base / "models" / "larger", megabytes, 1)
    client.register_model(folder.name, "bench")
    client.set_active_model(folder.name)
    tensors = load_file(folder / "model.safetensors")
    name = next(iter(tensors))
    rounds = []
    for _ in range(5):
        tensors[name] = tensors[name] * 1.01
        started = time.monotonic()
        pushed = client.push_weights(tensors)
        rounds.append((pushed, time.monotonic() - started, bare_copy_s(pushed.bytes)))
    received_s = median(each.received_ms / 1000 for each, _, _ in rounds)
    copy_s = median(copied for _, _, copied in rounds)
    size_mb = rounds[0][0].bytes / 1e6
    rates = f"received at {size_mb / received_s:.0f} MB/s, a bare copy at {size_mb / copy_s:.0f}"
    print(f"{size_mb:.0f} MB {rates}: {copy_s / received_s:.2f}")
    medians = {what: median(each[what] for each, _, _ in rounds) for what in ("checked_ms", "paused_ms")}
    whole_s = median(whole for _, whole, _ in rounds)
    print(f"  checked in {medians['checked_ms']:.0f} ms, paused {medians['paused_ms']:.0f} ms, {whole_s:.2f} s in all")
    return tensors


def deltas(client: Client, tensors: dict[str, torch.Tensor], count: int) -> None:
    """One element of twenty gets other bits, all of which nobody could foresee but that the number is finite."""
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    client.push_weights(tensors, delta=True)
    rounds = []
    for number in range(count):
        whole = client.push_weights(tensors)
        carried_bytes = 0.0
        for tensor in tensors.values():
            chosen = torch.rand(tensor.shape) < 0.05
            tensor[chosen] = torch.randint(0, 0x3F80, (int(chosen.sum()),), dtype=torch.int16).view(torch.bfloat16)
            count_chosen = int(chosen.sum())
            carried_bytes += which_bytes(tensor.numel(), count_chosen) + 2 * count_chosen
        started = time.monotonic()
        pushed = client.push_weights(tensors, delta=True)
        assert pushed.base is not None, number
        rounds.append((whole, pushed, time.monotonic() - started, carried_bytes))
    moved = median((pushed.received_bytes or 0) for _, pushed, _, _ in rounds)
    share, carried = moved / rounds[0][1].bytes, moved / median(each for _, _, _, each in rounds)
    all_ms = median(whole.paused_ms for whole, _, _, _ in rounds)
    delta_ms = median(pushed.paused_ms for _, pushed, _, _ in rounds)
    print(
        f"5 % changed: a delta is {share:.3f} of all bytes, {carried:.2f} of what the changed elements carry;", end=" "
    )
    print(f"pause {delta_ms:.0f} ms, of a push of everything {all_ms:.0f} ms: {delta_ms / all_ms:.2f}")
    checked_ms = median(pushed.checked_ms for _, pushed, _, _ in rounds)
    print(f"  applied and checked in {checked_ms:.0f} ms, {median(each for _, _, each, _ in rounds):.2f} s in all")


def which_bytes(elements: int, changed: int) -> float:
    """As many as it takes to say which elements: the logarithm of the number of ways to choose them."""
    ways = math.lgamma(elements + 1) - math.lgamma(changed + 1) - math.lgamma(elements - changed + 1)
    return ways / math.log(2) / 8


def bare_copy_s(size: int) -> float:
    """From one socket to another on loopback, into memory that is written once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def send() -> None:
            piece = memoryview(bytes(1024 * 1024))
            with socket.create_connection(listener.getsockname()) as there:
                for begin in range(0, size, len(piece)):
                    there.sendall(piece[: size - begin])

        sender = threading.Thread(target=send)
        sender.start()
        here, _ = listener.accept()
        target, position = memoryview(bytearray(size)), 0
        started = time.monotonic()
        with here:
            while position < size:
                position += here.recv_into(target[position : position + 1024 * 1024])
        sender.join()
        return time.monotonic() - started


if __name__ == "__main__":
    main()
