"""Data generation in figures: `python -m benchmarks.datagen`.

How much of the time the engine is busy during a self_instruct job; what it costs to compare an example with a pool of
100,000; control's memory over a small and a large job. All in one run; the engine is the demo model's.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from benchmarks.processes import MODEL_ID, stepserve
from datagen.similarity import Fingerprint, SimilarityIndex

_WORDS = [
    stem + ending
    for stem in "write sum poem list explain cat tree number city river music find make tell short".split()  # noqa: SIM905 - as words
    for ending in "a e i o u s ing ed er ly".split()  # noqa: SIM905 - as words
]
_COMMON = ["the", "a", "of", "to", "in", "is", "and", "for", "what", "how"]
_SHORT_SEEDS = [{"instruction": f"Add {n} and {n + 7}", "output": str(2 * n + 7)} for n in range(10, 90)]


def questions(count: int, seed: int) -> Iterator[str]:
    """Of 8 to 25 words, four in ten of them common."""
    chance = random.Random(seed)
    for _ in range(count):
        length = chance.randint(8, 25)
        yield " ".join(chance.choice(_COMMON if chance.random() < 0.4 else _WORDS) for _ in range(length))


def additions(count: int, seed: int) -> Iterator[str]:
    """The hard case: questions that differ in their numbers alone."""
    chance = random.Random(seed)
    return (f"What is {chance.randint(10, 9999)}+{chance.randint(10, 9999)}?" for _ in range(count))


def lookup_ms(pool: Iterator[str], probes: Iterator[str], *, same_numbers: bool) -> list[float]:
    """To look one question up and add it; sorted."""
    with tempfile.TemporaryDirectory() as folder, SimilarityIndex(Path(folder) / "index") as index:
        batch = []
        for number, question in enumerate(pool):
            batch.append((str(number), Fingerprint(question)))
            if len(batch) == 1000:
                index.add(batch)
                batch = []
        times = []
        for number, question in enumerate(probes):
            started = time.perf_counter()
            print_ = Fingerprint(question)
            index.nearest(print_, same_numbers=same_numbers)
            index.add([(f"probe {number}", print_)])
            times.append(1000 * (time.perf_counter() - started))
    return sorted(times)


def post(client: httpx.Client, strategy: str, **config: Any) -> str:
    body = {"model_id": MODEL_ID, "strategy": strategy, "config": config}
    job_id: str = client.post("/data_gen/jobs", json=body).raise_for_status().json()["job_id"]
    return job_id


def ended(client: httpx.Client, job_id: str) -> tuple[dict[str, Any], float]:
    """The job, and the most memory (MB) that control took meanwhile."""
    job: dict[str, Any] = {"status": "pending"}
    most_mb = 0.0
    while job["status"] in {"pending", "running"}:
        time.sleep(0.5)
        job = client.get(f"/data_gen/jobs/{job_id}").raise_for_status().json()
        most_mb = max(most_mb, control_mb())
    return job, most_mb


def control_mb() -> float:
    for process in psutil.Process().children(recursive=True):
        if " ".join(process.cmdline()).startswith("stepserve: control"):
            return float(process.memory_info().rss) / 1e6
    raise RuntimeError("control is not there")


def log_times(base: Path, job_id: str) -> tuple[int, int, float, float]:
    """Attempts, generations, seconds and seconds with the engine busy, of a job's first run."""
    lines = [json.loads(line) for line in (base / "runs" / "data_gen" / job_id / "attempts.jsonl").open()]
    items = sum(line["items"] for line in lines)
    return len(lines), items, max(line["at_s"] for line in lines), max(line["busy_s"] for line in lines)


def write_rows(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number in range(count):
            print(json.dumps({"a": number, "b": 3 * number + 1}), file=file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=2000)
    parser.add_argument("--pool", type=int, default=100_000)
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large", type=int, default=50_000)
    args = parser.parse_args()

    for name, make in (("sentences", questions), ("additions", additions)):
        for same_numbers in (False, True):
            times = lookup_ms(make(args.pool, 1), make(300, 2), same_numbers=same_numbers)
            rule = "same numbers" if same_numbers else "any numbers"
            print(
                f"pool of {args.pool} {name}, {rule}: {median(times):.2f} ms an example, p99 {times[296]:.2f} ms",
                flush=True,
            )

    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder, stepserve(Path(folder)) as url:
        base = Path(folder)
        client = httpx.Client(base_url=url, timeout=60, trust_env=False)
        (base / "seeds.jsonl").write_text("\n".join(map(json.dumps, _SHORT_SEEDS)))
        asked = {"seed_file": "seeds.jsonl", "num_examples": 100_000, "max_attempts": args.attempts, "max_tokens": 64}
        job_id = post(client, "self_instruct", **asked)
        job, _ = ended(client, job_id)
        attempts, items, seconds, busy_s = log_times(base, job_id)
        print(
            f"self_instruct: {attempts} attempts, {items} generations in {seconds:.1f} s ({items / seconds:.0f}/s),"
            f" engine busy {busy_s / seconds:.3f} of the time; the job {job['status']}: {(job['error'] or '')[:90]}",
            flush=True,
        )
        write_rows(base / "rows.jsonl", args.large)
        memory = []
        for count in (args.small, args.large):
            job_id = post(
                client, "custom", template="Add {{a}}+{{b}}", input="rows.jsonl", num_examples=count,
                max_attempts=count, max_tokens=4, filters=["length"], against_earlier_shards=False,
            )  # fmt: skip
            job, most_mb = ended(client, job_id)
            if job["status"] != "done":
                raise RuntimeError(job["error"])
            memory.append(most_mb)
            result = job["result"]
            print(
                f"custom: {result['accepted']} examples in {result['seconds']:.1f} s, engine busy"
                f" {result['engine_busy_share']:.3f} of the time, control at most {most_mb:.0f} MB",
                flush=True,
            )
        print(f"control's memory, {args.large} examples to {args.small}: {memory[1] / memory[0]:.2f}")
        client.close()


if __name__ == "__main__":
    main()
