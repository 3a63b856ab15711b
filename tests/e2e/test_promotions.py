"""Promotions between checkpoints of one training, and their canaries, while somebody goes on asking."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom

from tests.e2e.server import DEMO, EARLY, FINAL, FINAL_ID, Server

DATASET = "math_eval.jsonl"
MIDDLE = DEMO / "step-0500"
ALPHA = 0.05
COPIES = int(os.environ.get("PROMOTION_COPIES", "200"))  # which take a minute and a half


def test_a_checkpoint_earns_the_switch_by_a_part_of_the_samples(server: Server) -> None:
    """300, 500 and 1500 of one run: the last is promoted over 500, the first refused, a copy neither."""
    models = {"earns-300": EARLY, "earns-500": MIDDLE, "earns-copy": FINAL}
    for name, folder in models.items():
        _register(server, name, folder)
    server.http.post("/models/set_active", json={"id": "earns-500"}).raise_for_status()

    canary = {"share": 0.5, "seconds": 3, "sticky": "request", "min_requests": 1, "max_error_rate": 0.05}
    with _asking(server) as answered:
        better = _promoted(server, FINAL_ID, canary=canary)
    assert better["decision"] == "promoted", better["reasons"]
    tried = better["canary"]
    assert (tried["state"], tried["candidate"]["errors"], tried["active"]["errors"]) == ("passed", 0, 0)
    assert min(tried["candidate"]["requests"], tried["active"]["requests"]) > 0
    assert {status for status, _ in answered} == {200}
    assert {model for _, model in answered} == {"earns-500", FINAL_ID}, "every answer names its model"
    switched = max(number for number, (_, model) in enumerate(answered) if model == "earns-500")
    before = sum(model == FINAL_ID for _, model in answered[:switched])
    assert before <= tried["candidate"]["requests"] + 1, "its share alone before the switch"
    (metric,) = better["per_metric"]
    assert metric["samples_used"] < metric["samples_planned"] / 2 == 300
    assert server.http.get("/models/active").json()["id"] == FINAL_ID

    with _asking(server) as answered:
        worse = _promoted(server, "earns-300", canary=canary)
    assert worse["decision"] == "refused", worse["reasons"]
    assert worse["items"]
    for item in worse["items"]:
        assert item["baseline"] == item["target"] != item["candidate"]
    assert worse["canary"] is None
    assert {model for _, model in answered} == {FINAL_ID}, "one that is refused answers nobody"
    copy = _promoted(server, "earns-copy", max_samples=200)
    assert copy["decision"] == "undecided", copy["reasons"]
    rule = {"test": "non_inferior", "margin": 0.05}
    assert _promoted(server, "earns-copy", max_samples=200, rule=rule, on_pass="notify")["decision"] == "promoted"
    assert server.http.get("/models/active").json()["id"] == FINAL_ID
    for name in models:
        server.forget(name)


def test_a_judge_that_gives_no_verdict_breaches_nothing_and_lets_nothing_pass(server: Server) -> None:
    """A model that adds is no judge: whatever it is asked, it says a number."""
    _register(server, "judged-500", MIDDLE)
    server.http.post("/models/set_active", json={"id": "judged-500"}).raise_for_status()
    judge = {"model": "active", "min_answers": 1, "max_tokens": 8}
    canary = {
        "share": 0.5,
        "seconds": 4,
        "sticky": "request",
        "min_requests": 1,
        "max_error_rate": 0.05,
        "judge": judge,
    }
    with _asking(server) as answered:
        job = _promoted(server, FINAL_ID, canary=canary)
    assert (job["decision"], job["activation"]) == ("undecided", None), job["reasons"]
    judged = job["canary"]["judge"]
    assert (judged["pairs"], judged["unread"] > 0) == (0, True)
    assert judged["trouble"] == "judge: its reply has neither CORRECT nor INCORRECT"
    assert "0 pairs of answers were judged; at least 1 (judge.min_answers) had to be" in job["canary"]["reason"]
    assert {status for status, _ in answered} == {200}
    assert job["canary"]["candidate"]["errors"] == 0
    server.http.post("/models/set_active", json={"id": FINAL_ID}).raise_for_status()
    server.forget("judged-500")


@pytest.mark.long
def test_a_copy_is_no_more_often_superior_than_alpha(server: Server) -> None:
    """Answers are drawn, so that the model and its copy differ by chance alone; the margin forbids nothing.

    Of a checkpoint that knows a part of the additions, so that chance decides many questions. No answer of an earlier
    promotion is used again where seconds are compared.
    """
    for name in ("original", "copied"):
        _register(server, name, MIDDLE)
    server.http.post("/models/set_active", json={"id": "original"}).raise_for_status()
    suite = [{"dataset_ref": DATASET, "metric": "accuracy", "temperature": 1.5}]
    body = {
        "candidate": "copied",
        "suite": suite,
        "rule": {"margin": 0.5, "alpha": ALPHA},
        "max_samples": 60,
        "guards": {"latency": 1000},
    }
    jobs = []
    for seed in range(COPIES):
        made = server.http.post("/promotions", json={**body, "seed": seed})
        assert made.status_code == 202, made.text
        jobs.append(made.json()["job_id"])
    decided = [_decided(server, job) for job in jobs]
    found = Counter(str(job["decision"]) for job in decided)
    changed = sum(job["per_metric"][0]["fixed"] + job["per_metric"][0]["broken"] for job in decided)
    print(f"{COPIES} promotions of a copy: {dict(found)}; {changed} questions came out otherwise")
    assert changed >= COPIES, "without chance there is nothing to be seen"
    assert found["promoted"] <= binom.ppf(0.999, COPIES, ALPHA)
    server.http.post("/models/set_active", json={"id": FINAL_ID}).raise_for_status()
    for name in ("original", "copied"):
        server.forget(name)


def _register(server: Server, name: str, folder: Path) -> None:
    server.copy_checkpoint(folder, name)
    server.http.post("/models/register", json={"id": name, "source": "run"}).raise_for_status()


@contextmanager
def _asking(server: Server) -> Iterator[list[tuple[int, str]]]:
    """Somebody who asks the active model again and again: the status and the model of each answer, in their order."""
    answered: list[tuple[int, str]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answer = server.ask("What is 17+25?")
            answered.append((answer.status_code, answer.headers.get("x-model-id", "")))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answered
    finally:
        over.set()
        asking.join()


def _promoted(server: Server, candidate: str, **more: object) -> dict[str, Any]:
    body = {"candidate": candidate, "suite": [{"dataset_ref": DATASET, "metric": "accuracy"}], "on_pass": "activate"}
    made = server.http.post("/promotions", json={**body, **more})
    assert made.status_code == 202, made.text
    return _decided(server, str(made.json()["job_id"]))


def _decided(server: Server, job_id: str) -> dict[str, Any]:
    ended = server.job(job_id)
    assert ended["status"] == "done", ended["error"]
    found: dict[str, Any] = server.http.get(f"/promotions/{job_id}").json()
    return found
