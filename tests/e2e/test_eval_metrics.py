"""What evals ask of a real engine beyond one answer: choices by log-probability, several answers, prompts too long."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.server import FINAL_ID, Server


def evaluate(server: Server, lines: list[dict[str, Any]], name: str, **fields: Any) -> tuple[Any, list[Any]]:
    """The result, and the samples in the dataset's order."""
    (server.base_dir / "datasets" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    request = {"model_id": FINAL_ID, "name": name, "dataset_ref": name, "max_tokens": 8, **fields}
    created = server.http.post("/eval/jobs", json=request)
    assert created.status_code == 200, created.text
    job = server.job(created.json()["job_id"])
    assert job["status"] == "done", job["error"]
    run = server.base_dir / "runs" / "eval" / str(job["id"])
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    return job["result"], sorted(samples, key=lambda sample: int(sample["index"]))


def _sums(a: int, b: int) -> dict[str, Any]:
    return {"question": f"What is {a}+{b}?", "choices": [str(a + b + step) for step in (0, 1, 10)], "answer": 0}


def test_choices_by_log_probability_are_those_of_prompt_logprobs(server: Server) -> None:
    lines = [_sums(a, 98 - a) for a in range(12, 20)]
    result, samples = evaluate(
        server, lines, "choices", metrics=["acc", "acc_norm"], template="{{question}}", apply_chat_template=False
    )
    assert result["accuracy_metric"] == "acc"
    assert [sample["prediction"] for sample in samples] == [""] * len(lines)
    for line, sample in zip(lines, samples, strict=True):
        for choice, score in zip(line["choices"], sample["continuations"], strict=True):
            prompt = f"{line['question']} {choice}"
            body = {"model": FINAL_ID, "prompt": prompt, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
            positions = server.http.post("/v1/completions", json=body).json()["choices"][0]["prompt_logprobs"]
            scored = [next(iter(position.values()))["logprob"] for position in positions[-len(choice) - 1 :]]
            assert abs(sum(scored) - score["logprob"]) < 0.05
            assert score["tokens"] == len(choice) + 1


def test_the_right_sum_is_the_likeliest_in_chat(server: Server) -> None:
    result, samples = evaluate(
        server,
        [_sums(a, 98 - a) for a in range(12, 20)],
        "chat-choices",
        metrics=["acc"],
        template="{{question}}",
        apply_chat_template=True,
    )
    assert result["accuracy"] == 1.0
    assert {sample["extracted"] for sample in samples} == {"A"}
    assert result["avg_loss"] < 0.1


def test_several_answers_a_question(server: Server) -> None:
    lines = [{"question": f"What is {a}+{a}?", "answer": 2 * a} for a in range(20, 30)]
    result, samples = evaluate(server, lines, "several", n=3, temperature=1.5, seed=7)
    assert (result["total_samples"], result["answers_per_sample"]) == (10, 3)
    assert {len(sample["completions"]) for sample in samples} == {3}
    right = sum(answer["text"] == sample["target"] for sample in samples for answer in sample["completions"])
    assert result["correct"] == right
    assert result["accuracy"] == right / 30
    again, _ = evaluate(server, lines, "several", n=3, temperature=1.5, seed=7)
    assert again["correct"] == right


def test_a_prompt_longer_than_the_context_is_counted_as_such(server: Server) -> None:
    lines = [{"question": "What is 17+25?", "answer": 42}, {"question": "7" * 5000, "answer": 42}]
    result, samples = evaluate(server, lines, "long", max_error_share=0.5)
    assert (result["total_samples"], result["answered_samples"], result["errors"]) == (2, 1, 1)
    assert (result["correct"], result["accuracy"]) == (1, 1.0)
    assert (result["engine_errors"], result["prompts_too_long"]) == (1, 1)
    assert result["outcomes"] == {
        "correct": 1, "wrong": 0, "truncated": 0, "unparsed": 0, "engine_error": 1, "not_scored": 0,
    }  # fmt: skip
    assert samples[1]["too_long"] is True
    assert "context" in samples[1]["error"]


def test_a_model_that_can_answer_nothing_fails_its_eval(server: Server) -> None:
    lines = [{"question": f"{a}" * 5000, "answer": 42} for a in range(1, 10)]
    path = server.base_dir / "datasets" / "hopeless.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    request = {"model_id": FINAL_ID, "name": "n", "dataset_ref": "hopeless", "max_error_share": 1.0}
    job = server.job(server.http.post("/eval/jobs", json=request).json()["job_id"])
    assert (job["status"], job["result"]) == ("failed", None)
    assert job["error"].startswith(
        "9 of the 9 samples asked so far have no result (none has one); most often (9 times): "
    )
    points = server.http.get("/eval/history", params={"dataset": "hopeless"}).json()["points"]
    assert points == []


def test_worked_examples_are_turns_before_the_question(server: Server) -> None:
    lines = [{"question": f"What is {a}+{a}?", "answer": 2 * a} for a in range(20, 24)]
    result, samples = evaluate(server, lines, "shots", num_fewshot=2)
    assert result["total_samples"] == 4
    alone, plain = evaluate(server, lines, "shots")
    assert alone["template_digest"] != result["template_digest"]
    assert all(sample["prompt_tokens"] > one["prompt_tokens"] * 2 for sample, one in zip(samples, plain, strict=True))


def test_put_evaluate_compare_and_score_again_through_the_one_port(server: Server) -> None:
    lines = [{"question": f"What is {a}+{b}?", "answer": a + b} for a, b in ((12, 30), (45, 17), (101, 303))]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    put = server.http.put("/datasets/uploaded.jsonl", content=body)
    assert put.status_code == 201, put.text
    assert "uploaded.jsonl" in [one["name"] for one in server.http.get("/datasets").json()["datasets"]]
    jobs = []
    for system_prompt in (None, "You add numbers."):
        request = {"model_id": FINAL_ID, "name": "pair", "dataset_ref": "uploaded", "system_prompt": system_prompt}
        job = server.job(server.http.post("/eval/jobs", json=request).json()["job_id"])
        assert job["status"] == "done", job["error"]
        jobs.append(str(job["id"]))
    report = server.http.get("/eval/compare", params={"a": jobs[0], "b": jobs[1]}).json()
    assert report["paired"] == 3
    assert report["differs"] == ["template_digest"]
    rescored = server.http.post(f"/eval/jobs/{jobs[0]}/rescore", json={"metrics": ["numeric", "math", "chrf"]})
    assert rescored.status_code == 200, rescored.text
    assert rescored.json()["metrics"]["numeric"]["mean"] == report["mean_a"]
    points = server.http.get("/eval/history", params={"dataset": "uploaded"}).json()["points"]
    assert {point["job_id"] for point in points} == set(jobs)


def test_a_body_that_breaks_off_is_no_dataset(server: Server) -> None:
    def half() -> Iterator[bytes]:
        yield b'{"question": "q", "answer": "a"}\n'
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        server.http.put("/datasets/torn.jsonl", content=half())
    assert server.http.get("/datasets/torn.jsonl").status_code == 404


def test_a_model_of_this_server_judges_and_programs_are_run(server: Server) -> None:
    result, samples = evaluate(
        server,
        [{"question": "What is 17+25?", "answer": 42}],
        "judged",
        metrics=["accuracy", "judge"],
        judge={"model": FINAL_ID, "max_tokens": 16},
    )
    assert result["accuracy_metric"] == "accuracy"
    assert samples[0]["scores"]["judge"]["value"] in (0.0, 1.0)
    assert result["metrics"]["judge"]["errors"] == 0
    line = {"prompt": "def f():\n", "test": "def check(f):\n    assert f() == 42", "entry_point": "f"}
    request = {"model_id": FINAL_ID, "name": "p", "dataset_ref": "programs", "metrics": ["pass@1"], "max_tokens": 16}
    (server.base_dir / "datasets" / "programs.jsonl").write_text(json.dumps(line) + "\n")
    created = server.http.post("/eval/jobs", json=request)
    if created.status_code == 422:  # fails closed, saying why
        assert "no sandbox can be had" in created.text
        return
    job = server.job(created.json()["job_id"])
    assert job["status"] == "done", job["error"]
    result = job["result"]
    assert isinstance(result, dict)
    assert result["metrics"]["pass@1"]["mean"] == 0.0
