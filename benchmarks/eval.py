"""An eval job against offline `LLM.generate` on the same prompts: `python -m benchmarks.eval`.

The job's time is what its row says, from started to completed: it includes reading the dataset, prompts, scoring, the
reference's loss, files and database. The offline time is the bare call. Both take turns in one run.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from statistics import median
from typing import Any

import httpx

from benchmarks.processes import CHECKPOINT, MODEL_ID, switchyard
from demo.addition import split
from demo.tokenizer import TURN_END, TURN_START

MAX_TOKENS = 256


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


def job_seconds(client: httpx.Client, samples: int) -> float:
    request = {"model_id": MODEL_ID, "name": "bench", "dataset_ref": "math_eval.jsonl", "max_samples": samples}
    job_id = client.post("/eval/jobs", json={**request, "max_tokens": MAX_TOKENS}).raise_for_status().json()["job_id"]
    job: dict[str, Any] = {"status": "pending"}
    while job["status"] in ("pending", "running"):
        time.sleep(0.5)  # asking more often would take the cores from the job
        job = client.get(f"/eval/jobs/{job_id}").raise_for_status().json()
    if job["status"] != "done":
        raise RuntimeError(job["error"])
    started, completed = (datetime.fromisoformat(job[key]) for key in ("started_at", "completed_at"))
    return (completed - started).total_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--samples", type=int, default=500)
    args = parser.parse_args()
    _, held_out = split()
    prompts = [
        f"{TURN_START}user\n{addition.question}{TURN_END}\n{TURN_START}assistant\n"
        for addition in held_out[: args.samples]
    ]
    ours: list[float] = []
    bare: list[float] = []
    with switchyard() as url, offline() as process, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for number in range(args.rounds + 1):
            job, alone = job_seconds(client, args.samples), offline_seconds(process, prompts)
            if number:  # the first round warms up
                ours.append(args.samples / job)
                bare.append(args.samples / alone)
    rate, bare_rate = median(ours), median(bare)
    print(f"eval job of {args.samples} samples   {rate:8.1f} samples/s (scored, with avg_loss, from files to files)")
    print(f"offline LLM.generate         {bare_rate:8.1f} prompts/s")
    print(f"ratio                        {rate / bare_rate:8.3f}")


if __name__ == "__main__":
    main()
