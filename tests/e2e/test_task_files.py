"""lm-eval and inspect-ai themselves, each in an environment of its own, as eval jobs of the demo model."""

import json
from typing import Any

import pytest

from tests.e2e.environments import installed_harnesses
from tests.e2e.server import FINAL_ID, Server
from tests.e2e.test_eval_metrics import evaluate

pytestmark = pytest.mark.long

# Sums that the demo model knows and some that it does not.
_SUMS = [(a, 97 - a) for a in range(12, 24)] + [(a, 3 * a) for a in range(101, 109)]
_LINES = [{"id": f"q{a}", "question": f"What is {a}+{b}?", "answer": str(a + b)} for a, b in _SUMS]

_INSPECT = """
from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import exact
from inspect_ai.solver import generate
from inspect_ai.dataset import FieldSpec

@task
def sums(tokens: int = 4):
    fields = FieldSpec(input="question", target="answer", id="id")
    return Task(dataset=json_dataset("sums.jsonl", fields), solver=generate(max_tokens=tokens), scorer=exact())

@task
def nothing():
    raise RuntimeError("another task of the file was made")
"""


@pytest.fixture(scope="module", autouse=True)
def _tasks(server: Server) -> None:
    (server.base_dir / "harnesses").symlink_to(installed_harnesses())
    folder = server.base_dir / "tasks" / "sums"
    folder.mkdir(parents=True)
    (folder / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _LINES))
    (folder / "sums.py").write_text(_INSPECT)
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "sums.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / "sums.yaml").write_text(json.dumps(task))  # JSON is YAML
    choices = {
        **task,
        "task": "choices",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": 0,
        "doc_to_choice": "{{[answer, '7']}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    del choices["generation_kwargs"]
    (folder / "choices.yaml").write_text(json.dumps(choices))


def run_task(server: Server, **fields: Any) -> tuple[str, Any]:
    """The job's id and its result."""
    made = server.http.post("/eval/tasks", json={"model_id": FINAL_ID, "name": "sums", **fields})
    assert made.status_code == 200, made.text
    job = server.job(made.json()["job_id"])
    assert job["status"] == "done", job["error"]
    return str(job["id"]), job["result"]


def ours(server: Server, **fields: Any) -> tuple[str, Any]:
    result, _ = evaluate(server, _LINES, "task-sums", metrics=["exact_match"], **fields)
    jobs = server.http.get("/jobs?type=eval&limit=10").json()["jobs"]
    return next(job["id"] for job in jobs if job["config"]["dataset_ref"].startswith("task-sums")), result


def test_lm_eval_sees_what_our_eval_sees(server: Server) -> None:
    own_id, own = ours(server, stop=["\n"])
    job_id, result = run_task(server, task={"file": "sums/sums.yaml", "chat": True}, max_connections=4)
    assert 0.3 < result["accuracy"] == own["accuracy"] < 0.9
    assert result["harness"]["requests"] == len(_SUMS)
    page = server.http.get(f"/eval/jobs/{job_id}/samples?limit=100").json()["samples"]
    theirs = {one["id"]: one["prediction"] for one in page}
    page = server.http.get(f"/eval/jobs/{own_id}/samples?limit=100").json()["samples"]
    assert theirs == {one["id"]: one["prediction"] for one in page}


def test_lm_eval_gets_log_probabilities(server: Server) -> None:
    _, result = run_task(server, task={"file": "sums/choices.yaml"}, max_samples=10)
    assert (result["accuracy_metric"], result["total_samples"]) == ("acc", 10)


def test_inspect_sees_what_our_eval_sees(server: Server) -> None:
    own_id, own = ours(server)
    task = {"file": "sums/sums.py", "name": "sums", "args": {"tokens": 8}}
    job_id, result = run_task(server, task=task, temperature=0)
    assert result["accuracy"] == own["accuracy"]
    kept = server.http.get(f"/eval/jobs/{job_id}/samples?limit=100").json()["samples"]
    asked = server.http.get(f"/eval/jobs/{own_id}/samples?limit=100").json()["samples"]
    assert {one["id"]: one["verdict"] for one in kept} == {one["id"]: one["verdict"] for one in asked}
