"""An eval job against offline `LLM.generate` on the same prompts: `python -m benchmarks.eval`.

The job's time is what its row says, from started to completed: it includes reading the dataset, prompts, scoring,
the reference's loss, files and database. The offline time is the bare call. Both take turns in one run. After them: a
client that posts one prompt a request, the time to the first token of an interactive client at rest and while an eval
runs, in turns too, that of one who asks after a silence and finds the engine full of an eval, and the most memory that
control has during a job of 1,000 samples and during a large one.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import httpx
import psutil

from benchmarks.processes import CHECKPOINT, MODEL_ID, stepserve
from benchmarks.record import Metric, add_to
from demo.addition import Addition, split
from demo.tokenizer import TURN_END, TURN_START
from gateway.serving.batch_share import LINGER_S

MAX_TOKENS = 256
_INTERACTIVE_S = 10.0
_INTERACTIVE_TURNS = 5
_ARRIVALS = 16


@contextlib.contextmanager
def offline() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "benchmarks.offline", str(CHECKPOINT)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        try:
            yield process
        finally:
            process.communicate()  # the end of its input ends it, and its engine with it


def offline_seconds(process: "subprocess.Popen[str]", prompts: list[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    print(json.dumps({"prompts": prompts, "max_tokens": MAX_TOKENS}), file=process.stdin, flush=True)
    seconds: float = json.loads(process.stdout.readline())["seconds"]
    return seconds


def post_job(client: httpx.Client, dataset: str, samples: int) -> str:
    request = {"model_id": MODEL_ID, "name": "bench", "dataset_ref": dataset, "max_samples": samples}
    created = client.post("/eval/jobs", json={**request, "max_tokens": MAX_TOKENS}).raise_for_status().json()
    job_id: str = created["job_id"]
    return job_id


def job_seconds(client: httpx.Client, job_id: str) -> float:
    job: dict[str, Any] = {"status": "pending"}
    while job["status"] in ("pending", "running"):
        time.sleep(0.5)  # asking more often would take the cores from the job
        job = client.get(f"/eval/jobs/{job_id}").raise_for_status().json()
    if job["status"] != "done":
        raise RuntimeError(job["error"])
    started, completed = (datetime.fromisoformat(job[key]) for key in ("started_at", "completed_at"))
    return (completed - started).total_seconds()


def prompt_of(addition: Addition) -> str:
    return f"{TURN_START}user\n{addition.question}{TURN_END}\n{TURN_START}assistant\n"


def write_dataset(path: Path, additions: Sequence[Addition], samples: int) -> None:
    """So many questions, each with an id of its own; they begin again when there are more than additions."""
    with path.open("w") as file:
        for number, addition in zip(range(samples), itertools.cycle(additions), strict=False):
            sample = {"id": str(number), "question": addition.question, "answer": addition.answer}
            print(json.dumps(sample), file=file)


async def first_token_ms(url: str, stop: threading.Event, pause_s: float = 0.0) -> list[float]:
    """Times to the first token of one client that streams, again and again, until told to stop; sorted."""
    times = []
    body = {"model": "active", "prompt": prompt_of(Addition(17, 25)), "max_tokens": 8, "temperature": 0, "stream": True}
    async with aiohttp.ClientSession() as session:
        while not stop.is_set():
            await asyncio.sleep(pause_s)
            started = time.perf_counter()
            async with session.post(f"{url}/v1/completions", json=body) as response:
                await response.content.readany()
                times.append(1000 * (time.perf_counter() - started))
                await response.read()
    return sorted(times)


async def one_by_one_per_s(url: str, prompts: Sequence[str]) -> float:
    """What a client that posts one prompt a request, and waits for its answer, gets through."""
    async with aiohttp.ClientSession() as session:
        started = time.perf_counter()
        for prompt in prompts:
            body = {"model": "active", "prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0}
            async with session.post(f"{url}/v1/completions", json=body) as response:
                await response.read()
        return len(prompts) / (time.perf_counter() - started)


def _control() -> psutil.Process:
    for process in psutil.Process().children(recursive=True):
        if " ".join(process.cmdline()).startswith("stepserve: control"):
            return process
    raise RuntimeError("control is not there")


def _most_mb(client: httpx.Client, dataset: str, samples: int) -> float:
    """The most resident memory that control has while a job runs (looked at every 0.1 s)."""
    control, over = _control(), threading.Event()
    seen = [float(control.memory_info().rss)]

    def watch() -> None:
        while not over.wait(0.1):
            seen.append(float(control.memory_info().rss))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        job_seconds(client, post_job(client, dataset, samples))
    finally:
        over.set()
        watching.join()
    return max(seen) / 1e6


def _interactive(url: str, seconds: float, pause_s: float = 0.0) -> list[float]:
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    return asyncio.run(first_token_ms(url, stop, pause_s))


def _p99(ordered: list[float]) -> float:
    return ordered[int(0.99 * (len(ordered) - 1))]


def _cancel(client: httpx.Client, job_id: str) -> None:
    """Of a job that is meant to be running still."""
    if client.post(f"/jobs/{job_id}/cancel").status_code != httpx.codes.OK:
        raise SystemExit(f"{job_id} ended too early: --large needs a larger number")


def _beside_an_eval(client: httpx.Client, url: str, samples: int) -> None:
    """Prints the time to the first token at rest and beside an eval of large.jsonl, by turns."""
    turns = []
    for _ in range(_INTERACTIVE_TURNS):
        at_rest = _interactive(url, _INTERACTIVE_S)
        job_id = post_job(client, "large.jsonl", samples)
        beside = _interactive(url, _INTERACTIVE_S)
        _cancel(client, job_id)
        turns.append((_p99(at_rest), _p99(beside), median(at_rest), median(beside)))
    rest_ms, beside_ms, median_rest_ms, median_beside_ms = (median(column) for column in zip(*turns, strict=True))
    ratios = sorted(beside / rest for rest, beside, *_ in turns)
    print(
        f"time to first token, p99: {rest_ms:.1f} ms at rest, {beside_ms:.1f} ms beside an eval, ratio"
        f" {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(turns)} turns; medians"
        f" {median_rest_ms:.1f} and {median_beside_ms:.1f} ms)",
        flush=True,
    )


def _into_a_full_engine(client: httpx.Client, url: str, samples: int) -> None:
    """Prints the time to the first token of requests that are far enough apart for the eval to fill the engine."""
    pause_s = LINGER_S + 0.6
    job_id = post_job(client, "large.jsonl", samples)
    times = _interactive(url, _ARRIVALS * pause_s, pause_s)
    _cancel(client, job_id)
    print(
        f"time to first token of a request into an engine full of an eval: median {median(times):.1f} ms, at most"
        f" {times[-1]:.1f} ms ({len(times)} requests)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--samples", type=int, nargs="*", default=[500, 5000])
    parser.add_argument("--large", type=int, default=100_000, help="samples of the job that memory is measured with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="put the ratios of every round there too")
    args = parser.parse_args()
    training, held_out = split()
    additions = [*held_out, *training]
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as base, stepserve(Path(base)) as url:
        client = httpx.Client(base_url=url, timeout=60, trust_env=False)
        datasets = Path(base) / "datasets"
        with offline() as process:
            for samples in args.samples:
                write_dataset(datasets / f"bench-{samples}.jsonl", additions, samples)
                prompts = [
                    prompt_of(addition) for _, addition in zip(range(samples), itertools.cycle(additions), strict=False)
                ]
                rounds = max(3, args.rounds * 500 // samples)
                ours, bare = [], []
                for number in range(rounds + 1):
                    job = job_seconds(client, post_job(client, f"bench-{samples}.jsonl", samples))
                    alone = offline_seconds(process, prompts)
                    if number:  # the first round warms up
                        ours.append(samples / job)
                        bare.append(samples / alone)
                name = f"eval job, {samples} samples: samples/s of LLM.generate"
                ratios = [mine / theirs for mine, theirs in zip(ours, bare, strict=True)]
                add_to(args.json, [Metric(name=name, better="higher", rounds=ratios)])
                rate, bare_rate = median(ours), median(bare)
                print(
                    f"{samples:6d} samples: job {rate:.0f}/s (scored, with avg_loss, from files to files), offline"
                    f" LLM.generate {bare_rate:.0f}/s, ratio {rate / bare_rate:.3f}",
                    flush=True,
                )
        single = asyncio.run(one_by_one_per_s(url, [prompt_of(addition) for addition in held_out[:200]]))
        print(
            f"one prompt a request, one after the other: {single:.0f}/s; the job is {rate / single:.1f} times as fast"
        )
        write_dataset(datasets / "large.jsonl", additions, args.large)
        _beside_an_eval(client, url, args.large)
        _into_a_full_engine(client, url, args.large)
        write_dataset(datasets / "small.jsonl", additions, 1000)
        small_mb, large_mb = _most_mb(client, "small.jsonl", 1000), _most_mb(client, "large.jsonl", args.large)
        print(f"control's memory: at most {small_mb:.0f} MB at 1000 samples, {large_mb:.0f} MB at {args.large}")
        client.close()


if __name__ == "__main__":
    main()
