"""Several models loaded at once, on real engines."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.e2e.server import EARLY, FINAL_ID, Server, answer_of, title_of
from tests.eventually import wait_until

BESIDE_ID = "beside-0300"
QUESTION = "What is 58+67?"


@pytest.fixture(scope="module")
def early_digest(server: Server) -> str:
    server.copy_checkpoint(EARLY, BESIDE_ID)
    response = server.http.post("/models/register", json={"id": BESIDE_ID, "source": "test"})
    assert response.status_code == 200, response.text
    digest: str = response.json()["digest"]
    return digest


def _loaded(server: Server) -> dict[str, bool]:
    """Whether it is the active one, by id of what is loaded."""
    engines = server.http.get("/status").json()["engines"]
    return {engine["model"]["id"]: engine["active"] for engine in engines if engine["phase"] == "ready"}


def _cores(server: Server) -> set[psutil.Process]:
    return {each for each in server.processes() if title_of(each).startswith("VLLM::EngineCore")}


def test_a_request_loads_the_model_it_names_beside_the_active_one(server: Server, early_digest: str) -> None:
    assert BESIDE_ID in {card["id"] for card in server.http.get("/v1/models").json()["data"]}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.ask(QUESTION, BESIDE_ID), range(8)))
    assert {answer.headers["x-model-digest"] for answer in answers} == {early_digest}
    assert len({answer_of(answer) for answer in answers}) == 1
    assert _loaded(server) == {FINAL_ID: True, BESIDE_ID: False}
    active = server.ask(QUESTION)
    assert answer_of(active) == "125"
    assert active.headers["x-model-id"] == FINAL_ID
    series = server.http.get("/metrics").text
    for model_id in (FINAL_ID, BESIDE_ID):
        assert f'vllm:request_success_total{{engine="0",finished_reason="stop",model_name="{model_id}"}}' in series


def test_a_job_runs_on_a_model_that_is_loaded_beside(server: Server, early_digest: str) -> None:
    body = {"model_id": BESIDE_ID, "name": "beside", "dataset_ref": "math_eval.jsonl", "max_samples": 64}
    job = server.job(server.http.post("/eval/jobs", json=body).json()["job_id"])
    assert job["status"] == "done", job
    assert server.http.get("/models/active").json()["id"] == FINAL_ID


def test_an_engine_beside_that_dies_is_loaded_again_when_asked_for(server: Server, early_digest: str) -> None:
    before = answer_of(server.ask(QUESTION, BESIDE_ID))
    youngest = max(_cores(server), key=psutil.Process.create_time)
    os.kill(youngest.pid, signal.SIGKILL)
    wait_until("the death is noticed", lambda: BESIDE_ID not in _loaded(server), 240.0)
    assert answer_of(server.ask(QUESTION)) == "125", "the active model did not notice"
    assert answer_of(server.ask(QUESTION, BESIDE_ID)) == before


def test_requests_for_the_model_that_is_switched_to_wait_for_the_switch(server: Server, early_digest: str) -> None:
    assert server.http.post(f"/models/{BESIDE_ID}/unload").status_code == 200
    wait_until("the active model is loaded alone", lambda: len(_cores(server)) == 1, 240.0)
    before = _cores(server)
    with ThreadPoolExecutor(5) as pool:
        body = {"id": BESIDE_ID, "method": "blue_green"}
        switching = pool.submit(server.http.post, "/models/set_active", json=body)
        status = server.http.get
        wait_until("the switch runs", lambda: status("/status").json()["switching_to"] == BESIDE_ID, 240.0)
        asking = [pool.submit(server.ask, QUESTION, BESIDE_ID) for _ in range(4)]
        assert switching.result().json()["method"] == "blue_green"
        answers = [each.result() for each in asking]
    assert len({answer_of(answer) for answer in answers}) == 1
    assert {answer.headers["x-model-digest"] for answer in answers} == {early_digest}
    wait_until("the old engine has ended", lambda: not before & _cores(server), 240.0)
    assert len(_cores(server)) == 1, "the model has one engine, whatever name it is asked for by"
    assert _loaded(server) == {BESIDE_ID: True}
    assert server.http.post("/models/set_active", json={"id": FINAL_ID}).status_code == 200


def test_a_model_loaded_beside_takes_over_without_a_load(server: Server, early_digest: str) -> None:
    answer_of(server.ask(QUESTION, BESIDE_ID))
    cores = _cores(server)
    result = server.http.post("/models/set_active", json={"id": BESIDE_ID}).json()
    assert (result["method"], result["paused_ms"]) == ("blue_green", 0.0)
    assert _cores(server) == cores, "nothing was loaded"
    assert _loaded(server) == {FINAL_ID: False, BESIDE_ID: True}
    assert server.http.post("/models/set_active", json={"id": FINAL_ID}).status_code == 200
    assert server.http.delete(f"/models/{BESIDE_ID}").status_code == 200
    wait_until("it is gone", lambda: BESIDE_ID not in _loaded(server), 240.0)
    assert server.ask(QUESTION, BESIDE_ID).status_code == 404
