"""A model on two ranks: switches, adapters, a rank that is killed, and ranks that do not do as they say."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.e2e.adapters import write_adapter
from tests.e2e.server import EARLY, FINAL, FINAL_ID, REPOSITORY, Server, answer_of, title_of
from tests.e2e.test_switching import Load
from tests.eventually import wait_until


@pytest.fixture(scope="module")
def two_rank_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("two_rank_server")
    settings: dict[str, Any] = {"engine__args": '{"tensor_parallel_size": 2}', "engine__max_loras": 1}
    with Server(base, **settings) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def early(two_rank_server: Server) -> str:
    """A second model, registered."""
    two_rank_server.copy_checkpoint(EARLY, "early")
    two_rank_server.http.post("/models/register", json={"id": "early", "source": "test"}).raise_for_status()
    return "early"


def activate(server: Server, model_id: str) -> dict[str, Any]:
    answer = server.http.post("/models/set_active", json={"id": model_id})
    assert answer.status_code == 200, answer.text
    switched: dict[str, Any] = answer.json()
    return switched


def ranks(server: Server) -> list[psutil.Process]:
    return [each for each in server.processes() if title_of(each).startswith("VLLM::Worker")]


@pytest.mark.parametrize("switches", [4, pytest.param(20, marks=pytest.mark.long)])
def test_switches_in_place_under_load(two_rank_server: Server, early: str, switches: int) -> None:
    """The proof is by references that transformers computed, so each rank's shard has to be the new one."""
    assert len(ranks(two_rank_server)) == 2
    expected = {}
    for model_id in (early, FINAL_ID):
        switched = activate(two_rank_server, model_id)
        assert (switched["method"], switched["proof"]["kind"]) == ("in_place", "computed")
        answer = two_rank_server.ask("What is 58+67?")
        expected[answer.headers["x-model-digest"]] = answer_of(answer)
    with Load(two_rank_server, 8) as load:
        for number in range(switches):
            assert activate(two_rank_server, (early, FINAL_ID)[number % 2])["method"] == "in_place"
    assert load.failures == []
    assert load.answers <= set(expected.items())
    assert len(load.digests) == 2


def test_an_adapter_is_on_every_rank(two_rank_server: Server) -> None:
    for name, strength in (("idle", 0.0), ("changed", 1.0)):
        write_adapter(two_rank_server.models_dir / name, strength=strength)
        body = {"id": name, "source": "test", "base_model": FINAL_ID}
        two_rank_server.http.post("/models/register", json=body).raise_for_status()
    assert answer_of(two_rank_server.ask("What is 17+25?", model="idle")) == "42"
    assert answer_of(two_rank_server.ask("What is 17+25?", model="changed")) != "42"


def test_a_rank_that_is_killed_is_a_dead_engine(two_rank_server: Server) -> None:
    before = ranks(two_rank_server)
    before[-1].kill()
    wait_until(
        "the ranks of another engine serve", lambda: _others(two_rank_server, before) and two_rank_server.ready(), 240.0
    )
    assert answer_of(two_rank_server.ask("What is 17+25?")) == "42"
    assert psutil.wait_procs(before, timeout=240)[1] == []


def _others(server: Server, before: list[psutil.Process]) -> bool:
    now = ranks(server)
    return len(now) == 2 and not set(now) & set(before)


def test_more_ranks_than_the_model_has_heads_for(two_rank_server: Server, early: str) -> None:
    body = {"id": early, "source": "test", "engine": {"args": {"tensor_parallel_size": 3}}}
    refused = two_rank_server.http.post("/models/register", json=body)
    assert refused.status_code == 422
    assert "engine: args: " in refused.json()["detail"]
    assert "3" in refused.json()["detail"]


@pytest.fixture(scope="module")
def faulty() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.e2e.ranks_run", str(EARLY), str(FINAL)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    if found is None:
        pytest.skip("two ranks need two cores, and no GPU")
    return found


def test_a_proof_finds_a_shard_that_one_rank_alone_has_loaded(faulty: dict[str, Any]) -> None:
    assert faulty["fresh"] is True
    assert faulty["other weights"] is False
    assert faulty["one shard"]["passed"] is False
    assert faulty["one shard"]["mean_abs_diff"] > 3 * faulty["one shard"]["tolerance"]
    assert faulty["why not ready"] is None, "each rank has made its shard ready"
    assert faulty["all shards"]["passed"] is True
    assert faulty["all shards"]["mean_abs_diff"] < faulty["one shard"]["mean_abs_diff"] / 10


def test_a_rank_that_fails_fails_the_reload_and_nothing_later(faulty: dict[str, Any]) -> None:
    assert "failed on rank 1 of 2: OSError: this rank cannot read its shard" in faulty["failed"]
    assert faulty["pids then"] == faulty["pids"], "each call is answered by its own replies"
    assert faulty["back"] is True


def test_no_rank_outlives_its_engine(faulty: dict[str, Any]) -> None:
    assert faulty["left"] == []
