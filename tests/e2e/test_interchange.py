"""Logs of inspect-ai itself are taken in, and ours are read by it. No engine: it answers by itself."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evals.interchange import inspect_log
from evals.interchange.imported import imported
from stepserve.jobs.eval_ports import DoneEval
from tests.e2e.environments import harness_python

LIMIT_S = 240.0

WRITES = """
import sys
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import match
from inspect_ai.solver import solver

@solver
def knows_four():
    async def solve(state, generate):
        number = int(state.sample_id[1:])
        state.output = ModelOutput.from_content("none", str(number + 1) if number < 4 else "no")
        return state
    return solve

samples = [Sample(input=f"What is {n}+1?", target=str(n + 1), id=f"q{n}") for n in range(6)]
task = Task(dataset=samples, solver=knows_four(), scorer=match(), name="sums")
(log,) = eval(task, model="mockllm/model", log_dir=sys.argv[1], log_format="json", display="none", max_samples=1)
print(log.location.removeprefix("file://"))
"""
READS = """
import json, sys
from inspect_ai.log import read_eval_log
log = read_eval_log(sys.argv[1])
samples = [[one.id, one.epoch, one.scores["accuracy"].value, one.output.completion, one.target] for one in log.samples]
numbers = {score.name: score.metrics["mean"].value for score in log.results.scores}
print(json.dumps({"status": log.status, "model": log.eval.model, "numbers": numbers, "samples": samples}))
"""


def run_in(python: Path, code: str, argument: Path) -> str:
    ended = subprocess.run(
        [str(python), "-c", code, str(argument)], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout.splitlines()[-1]


def test_inspect_writes_what_we_read_and_reads_what_we_write(tmp_path: Path) -> None:
    python = harness_python("inspect")
    theirs = Path(run_in(python, WRITES, tmp_path / "logs"))
    run = imported(theirs.read_bytes(), "inspect", None, model_id="m", digest="sha256:m", name="n")
    assert [(one.id, one.target, one.prediction, one.correct) for one in run.records] == [
        (f"q{n}", str(n + 1), str(n + 1) if n < 4 else "no", n < 4) for n in range(6)
    ]
    assert run.records[2].input == "What is 2+1?"
    assert (run.result["accuracy"], run.result["imported_from"]["task"]) == (4 / 6, "sums")

    done = DoneEval("eval_1", "m", "sha256:m", run.config, run.result, tmp_path, datetime.now(UTC))
    ours = tmp_path / "ours.json"
    ours.write_text(json.dumps(inspect_log.written(done, run.records, "2026-01-01T00:00:00+00:00")))
    told: dict[str, Any] = json.loads(run_in(python, READS, ours))
    assert (told["status"], told["model"], told["numbers"]) == ("success", "stepserve/m", {"accuracy": 4 / 6})
    assert told["samples"] == [
        [f"q{n}", 1, "C" if n < 4 else "I", str(n + 1) if n < 4 else "no", str(n + 1)] for n in range(6)
    ]
