"""Outside eyes: EleutherAI's lm-eval asks the same questions at /v1, and sees what our evals see."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lm_eval_harness import lm_eval
from tests.e2e.server import FINAL_ID, Server
from tests.e2e.test_eval_metrics import evaluate

pytestmark = pytest.mark.long

# The demo model's own chat turns as plain text, of sums it knows and of some it does not.
_SUMS = [(a, 97 - a) for a in range(12, 32)] + [(a, 3 * a) for a in range(101, 121)]


def test_generation_agrees_to_the_sample(server: Server, tmp_path: Path) -> None:
    lines = [
        {
            "prompt": f"<|im_start|>user\nWhat is {a}+{b}?<|im_end|>\n<|im_start|>assistant\n",
            "answer": str(a + b),
        }
        for a, b in _SUMS
    ]
    task = {
        "task": "sy_sums",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    theirs = lm_eval(server, tmp_path / "lm", task, lines)
    result, ours = evaluate(server, lines, "lm-sums", metrics=["exact_match"], stop=["\n"], max_tokens=8)
    assert [sample["prediction"] for sample in ours] == [sample["filtered_resps"][0] for sample in theirs]
    assert [sample["correct"] for sample in ours] == [bool(sample["exact_match"]) for sample in theirs]
    assert 0.3 < result["accuracy"] < 0.9

    # Its own log of this is a run to compare with.
    log = "".join(json.dumps(sample) + "\n" for sample in theirs)
    query = {"model_id": FINAL_ID, "format": "lm_eval", "metric": "exact_match"}
    taken = server.http.post("/eval/imports", content=log, params=query).raise_for_status().json()
    assert taken["result"]["accuracy"] == result["accuracy"]
    mine = server.http.get("/jobs?type=eval&limit=10").json()["jobs"]
    ours_id = next(job["id"] for job in mine if job["config"]["dataset_ref"].startswith("lm-sums"))
    query = {"a": ours_id, "b": taken["job_id"]}
    compared = server.http.get("/eval/compare", params=query).raise_for_status().json()
    assert (compared["paired"], compared["fixed"], compared["broken"]) == (len(_SUMS), 0, 0)


def test_chat_agrees_to_the_sample(server: Server, tmp_path: Path) -> None:
    lines = [{"question": f"What is {a}+{b}?", "answer": str(a + b)} for a, b in _SUMS]
    task = {
        "task": "sy_chat",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    theirs = lm_eval(server, tmp_path / "lm", task, lines, chat=True)
    result, ours = evaluate(server, lines, "lm-chat", metrics=["exact_match"], stop=["\n"], max_tokens=8)
    assert [sample["prediction"] for sample in ours] == [sample["filtered_resps"][0] for sample in theirs]
    assert 0.3 < result["accuracy"] < 0.9


def test_log_likelihoods_agree_to_the_sample(server: Server, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"question": f"What is {a}+{b}?", "choices": [str(a + b), str(a + b + 1), f"{a}{b}"], "answer": 0}
        for a, b in _SUMS
    ]
    task = {
        "task": "sy_choices",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
    }
    theirs = lm_eval(server, tmp_path / "lm", task, lines)
    _, ours = evaluate(
        server, lines, "lm-choices", metrics=["acc", "acc_norm"], template="Question: {{question}}\nAnswer:"
    )
    for our, their in zip(ours, theirs, strict=True):
        for score, (their_logprob, _) in zip(our["continuations"], their["filtered_resps"], strict=True):
            assert abs(score["logprob"] - float(their_logprob)) < 0.05
        assert our["scores"]["acc"]["value"] == their["acc"], our["id"]
        assert our["scores"]["acc_norm"]["value"] == their["acc_norm"], our["id"]
