"""Switches A↔B by each method under load, and what they cost: `python -m benchmarks.switch`.

64 streams and a closed loop of short requests run all the time. Every answer is compared with what the model that its
digest names answers when nothing else goes on. Times are compared with reading the checkpoint's bytes, and with the
cold start of `vllm serve` to its first answer, both measured in the same run.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.load import chat_load
from benchmarks.processes import CHECKPOINT, MODEL_ID, bare_vllm, stepserve
from benchmarks.switch_clients import Clients, Tally, activate, ask


def _switches(client: httpx.Client, ids: Sequence[str], method: str, count: int) -> list[dict[str, Any]]:
    return [activate(client, ids[number % 2], method) for number in range(count)]


async def _under_load(clients: Clients, client: httpx.Client, ids: Sequence[str], method: str, count: int) -> Any:
    switches = asyncio.ensure_future(asyncio.to_thread(_switches, client, ids, method, count))
    await clients.run(switches)
    return await switches


def _read_ms(folder: Path) -> float:
    """The fastest of five reads of the weights into memory."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for shard in folder.glob("*.safetensors"):
            shard.read_bytes()
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def _resident_mb() -> float:
    """Of everything that this process has started."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().uss
    return total / 1e6


def _left_open() -> str:
    """What a leak would make grow."""
    family = psutil.Process().children(recursive=True)
    descriptors = 0
    for process in family:
        with suppress(psutil.NoSuchProcess):
            descriptors += process.num_fds()
    segments = len(list(Path("/dev/shm").glob("psm_*")))
    return f"{len(family)} processes, {descriptors} descriptors, {segments} segments"


def larger(folder: Path, megabytes: int, seed: int) -> Path:
    """A random model of the demo's architecture and tokenizer, of about so many megabytes in bfloat16."""
    torch.manual_seed(seed)
    shutil.copytree(CHECKPOINT, folder)
    (folder / "model.safetensors").unlink()
    config = Qwen3Config.from_pretrained(CHECKPOINT)
    config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads = (
        1024,
        4096,
        16,
        8,
    )
    config.head_dim, config.layer_types = 64, None
    per_layer = 2 * (3 * 1024 * 4096 + 2 * 1024 * 1024 + 2 * 1024 * 512)
    config.num_hidden_layers = max(1, round(megabytes * 1e6 / per_layer))
    Qwen3ForCausalLM(Qwen3Config(**{k: v for k, v in config.to_dict().items() if k != "layer_types"})).to(
        torch.bfloat16
    ).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--switches", type=int, default=20)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--closed-loop", type=int, default=4)
    parser.add_argument("--methods", nargs="*", default=["in_place", "blue_green", "restart"])
    parser.add_argument("--larger-mb", type=int, default=540, help="size of the generated model; 0 leaves it out")
    parser.add_argument("--larger-only", action="store_true", help="switches in place of the generated model alone")
    args = parser.parse_args()
    if args.larger_only:
        with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as temporary:
            base = Path(temporary)
            (base / "models").mkdir()
            with stepserve(base) as url, httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
                _larger_in_place(client, base, args.larger_mb, args.switches)
        return

    started = time.perf_counter()
    with bare_vllm() as url:
        chat_load(url, MODEL_ID, 1, 1)
        cold_ms = 1000 * (time.perf_counter() - started)
    print(f"cold start of vllm serve to its first answer: {cold_ms:.0f} ms")

    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as temporary:
        base = Path(temporary)
        early = base / "models" / "early"
        shutil.copytree(CHECKPOINT.with_name("step-0300"), early)
        with (
            stepserve(base, proof_wait_s=60) as url,
            httpx.Client(base_url=url, timeout=600, trust_env=False) as client,
        ):
            client.post("/models/register", json={"id": "early", "source": "bench"}).raise_for_status()
            ids = ["early", MODEL_ID]
            expected = {}
            for model_id in ids:
                activate(client, model_id, "in_place")
                digest, answer = ask(client)
                expected[digest] = answer
            rest = Clients(url, expected, args.streams, args.closed_loop)
            asyncio.run(rest.run_for(10.0))
            print(f"at rest: p99 of a short request {rest.tally.p99_ms():.0f} ms")
            for method in args.methods:
                clients = Clients(url, expected, args.streams, args.closed_loop)
                results = asyncio.run(_under_load(clients, client, ids, method, 1))
                before_mb, before = _resident_mb(), _left_open()
                results += asyncio.run(_under_load(clients, client, ids[::-1], method, args.switches - 1))
                _report(method, results, clients.tally, rest.tally, cold_ms, _read_ms(early))
                print(f"            after the first: memory {before_mb:.0f} MB, {before}")
                print(f"            after the last:  memory {_resident_mb():.0f} MB, {_left_open()}")
            if args.larger_mb:
                _larger_in_place(client, base, args.larger_mb, 6)


def _report(
    method: str, results: list[dict[str, Any]], tally: Tally, rest: Tally, cold_ms: float, read_ms: float
) -> None:
    paused, held, total = (median(result[key] for result in results) for key in ("paused_ms", "held_ms", "total_ms"))
    print(
        f"{method:11s} {len(results)} switches, {len(tally.answers)} answers, {len(tally.failures)} failed,"
        f" {len(tally.wrong)} wrong; paused {paused:.1f} ms, held {held:.1f} ms, total {total:.0f} ms"
    )
    print(
        f"            read {read_ms:.1f} ms; 0.5 x read + 60 = {0.5 * read_ms + 60:.1f} ms;"
        f" cold start / paused {cold_ms / max(paused, 0.001):.0f}; total / cold start {total / cold_ms:.3f};"
        f" p99 / p99 at rest {tally.p99_ms() / rest.p99_ms():.2f}"
    )
    for line in (tally.failures + tally.wrong)[:5]:
        print(f"            {line}")


def _larger_in_place(client: httpx.Client, base: Path, megabytes: int, count: int) -> None:
    """Nobody asks anything meanwhile: how long a switch itself takes, of which `paused` is what clients would wait."""
    folders = [larger(base / "models" / f"larger-{seed}", megabytes, seed) for seed in (1, 2)]
    for folder in folders:
        client.post("/models/register", json={"id": folder.name, "source": "bench"}).raise_for_status()
    ids = [folder.name for folder in folders]
    activate(client, ids[0], "restart")
    results = _switches(client, ids[::-1], "in_place", count)
    size_mb = sum(shard.stat().st_size for shard in folders[0].glob("*.safetensors")) / 1e6
    read_ms = _read_ms(folders[0])
    paused, total = (median(result[key] for result in results) for key in ("paused_ms", "total_ms"))
    print(
        f"{size_mb:.0f} MB in place, {count} switches: paused {paused:.0f} ms, total {total:.0f} ms;"
        f" read {read_ms:.0f} ms; 0.5 x read + 60 = {0.5 * read_ms + 60:.0f} ms; proof: {results[-1]['proof']['kind']},"
        f" {results[-1]['proof']['tokens']} tokens"
    )


if __name__ == "__main__":
    main()
