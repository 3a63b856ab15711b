"""The whole loop on a running server: `python -m demo.loop` (two minutes on two cores; `make run` in another terminal).

An early demo checkpoint is evaluated, its failures become verified examples, the checkpoint is trained on them, and the
new one is evaluated again: on the sealed half of the questions, which nothing was made from, it is better.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from datagen.failures import half_of
from demo.shard_training import examples_of, go_on

EARLY = Path(__file__).parent / "checkpoints" / "step-0300"
EXAM = "math_eval.jsonl"


class Loop:
    """`base` is the server's base directory, on this machine."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=300, trust_env=False)
        self._models = Path(self._get("/info")["models_dir"])
        self._runs = Path(self._get("/info")["runs_dir"])

    def serve(self, model_id: str, checkpoint: Path) -> None:
        """Copies, registers and activates it."""
        target = self._models / model_id
        if not target.exists():
            shutil.copytree(checkpoint, target)
        self._post("/models/register", {"id": model_id, "source": "demo.loop"})
        self._post("/models/set_active", {"id": model_id})

    def evaluate(self, model_id: str) -> tuple[str, float, float]:
        """The job's id, the accuracy on all questions, and that on the sealed half."""
        job = self._job("/eval/jobs", {"model_id": model_id, "name": "loop", "dataset_ref": EXAM})
        samples = (self._runs / "eval" / job["id"] / "samples.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in samples]
        sealed = [record["correct"] for record in records if half_of(record["input"]) == "test"]
        return job["id"], job["result"]["accuracy"], sum(sealed) / len(sealed)

    def generate(self, model_id: str, strategy: str, **config: Any) -> dict[str, Any]:
        return self._job("/data_gen/jobs", {"model_id": model_id, "strategy": strategy, "config": config})

    def take_shards(self, job_id: str, folder: Path) -> list[Path]:
        """As a trainer on another machine would: claimed, downloaded, acknowledged."""
        taken = []
        while (
            shard := self._post("/shards/claim", {"claimed_by": "demo.loop", "job_id": job_id})["shard"]
        ) is not None:
            path = folder / shard["name"]
            path.write_bytes(self._http.get(shard["url"]).raise_for_status().content)
            self._post(f"/shards/{shard['name']}/ack", {"claim_id": shard["claim_id"]})
            taken.append(path)
        return taken

    def active(self) -> str:
        active: str = self._get("/models/active")["id"]
        return active

    def activate(self, model_id: str) -> None:
        self._post("/models/set_active", {"id": model_id})

    def _job(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        job_id = self._post(path, body)["job_id"]
        while True:
            job: dict[str, Any] = self._get(f"/jobs/{job_id}")
            if job["status"] == "done":
                return job
            if job["status"] in {"failed", "cancelled"}:
                sys.exit(f"{job_id} {job['status']}: {job['error']}")
            time.sleep(0.5)

    def _get(self, path: str) -> Any:
        return self._http.get(path).raise_for_status().json()

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(path, json=body)
        if answer.is_error:
            sys.exit(f"POST {path}: {answer.text}")
        return answer.json()


def run(url: str, *, examples: int = 800, steps: int = 150) -> dict[str, float]:
    """Prints each step; returns `before` and `after`, the accuracies on the sealed half, and how many `examples`."""
    loop = Loop(url)
    was_active = loop.active()
    run_id = time.strftime("%H%M%S")
    early, late = "loop-early", f"loop-trained-{run_id}"
    try:
        loop.serve(early, EARLY)
        eval_id, whole, before = loop.evaluate(early)
        print(f"{early}: accuracy {whole:.3f}, on the sealed half {before:.3f}", flush=True)
        job = loop.generate(
            early, "fix_eval_failures", source_eval_run_id=eval_id, domain="math", num_examples=examples, max_tokens=8,
            samples=16, replay_share=0.3,
        )  # fmt: skip
        result = job["result"]
        print(
            f"{result['accepted']} verified examples in {result['seconds']:.0f} s, {result['replayed']} replays;"
            f" split: {result['split']}; rejected: {result['rejected']}",
            flush=True,
        )
        with tempfile.TemporaryDirectory() as folder:
            shards = loop.take_shards(job["id"], Path(folder))
            go_on(EARLY, Path(folder) / late, examples_of(shards), steps=steps)
            loop.serve(late, Path(folder) / late)
        _, whole, after = loop.evaluate(late)
        print(f"{late}: accuracy {whole:.3f}, on the sealed half {after:.3f}", flush=True)
    finally:
        loop.activate(was_active)
    return {"before": before, "after": after, "examples": result["accepted"], "replayed": result["replayed"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8765")
    parser.add_argument("--examples", type=int, default=800)
    parser.add_argument("--steps", type=int, default=150)
    args = parser.parse_args()
    found = run(args.url, examples=args.examples, steps=args.steps)
    if found["after"] <= found["before"]:
        sys.exit("the trained checkpoint is not better")


if __name__ == "__main__":
    main()
