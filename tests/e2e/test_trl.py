"""TRL against the real server: its trainer with the callback, and its client of a vLLM server, as they are."""

import json
from pathlib import Path

import pytest

from stepserve import Client
from tests.e2e.environments import python_with, run
from tests.e2e.server import EARLY, FINAL, FINAL_ID, REPOSITORY, Server

_STEPS = 12  # of GRPO; ten are enough to take the reward from 0.4 to 0.6


def test_sft_with_the_callback(server: Server, tmp_path: Path) -> None:
    python = python_with("trl", beside_ours=True)
    command = [str(python), "-m", "tests.e2e.trl_run", str(tmp_path / "out"), server.url, "trl"]
    environment = {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    with Client(server.url) as client:
        try:
            history = json.loads(run(command, 240.0, environment).splitlines()[-1])
            results = {entry["step"]: entry for entry in history if "eval_math_eval/accuracy" in entry}
            assert list(results) == [2, 4]
            jobs = {job.model_id: job.result or {} for job in client.list_jobs(type="eval", limit=2)}
            for step, entry in results.items():
                assert entry["eval_math_eval/accuracy"] == jobs[f"trl-step-{step}"]["accuracy"]
            assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4]
            last = client.list_activations()[0]
            assert last.id == client.active_model().id == "trl-step-4"
            assert last.proof is not None
            assert (last.proof["passed"], last.proof["kind"]) == (True, "reference"), (
                "of the model in the trainer's memory"
            )
        finally:
            client.set_active_model(FINAL_ID)
            for model in client.list_models():
                if model.id.startswith("trl-"):
                    client.delete_model(model.id, files=True)


def test_its_client_generates_and_updates_the_weights(server: Server, tmp_path: Path) -> None:
    """But for its communicator, which demands CUDA."""
    python = python_with("trl", beside_ours=True)
    command = [str(python), "-m", "tests.e2e.trl_client_run", server.url, str(FINAL), "What is 17+25?"]
    environment = {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    server.http.post("/models/set_active", json={"id": FINAL_ID}).raise_for_status()
    try:
        seen = json.loads(run(command, 120.0, environment).splitlines()[-1])
        assert (seen["model"], seen["world_size"]) == (FINAL_ID, 1)
        assert seen["prompt_ids"] == seen["expected_prompt_ids"]
        assert seen["before"] == seen["after"]
        assert seen["logprobs"] > 0
        assert "stray is not a tensor of the model" in seen["refused"]
        assert server.http.get("/weight_info").json()["version"] >= 2
    finally:
        server.http.post("/models/set_active", json={"id": FINAL_ID}).raise_for_status()


@pytest.mark.long
def test_a_whole_grpo_training_makes_the_reward_rise(server: Server, tmp_path: Path) -> None:
    """TRL's trainer as it is: it generates with the server and sends it the weights of every step."""
    python = python_with("trl", beside_ours=True)
    server.copy_checkpoint(EARLY, "grpo")
    server.http.post("/models/register", json={"id": "grpo", "source": "test"}).raise_for_status()
    server.http.post("/models/set_active", json={"id": "grpo"}).raise_for_status()
    version = int(server.ask("What is 17+25?").headers["x-model-version"])
    command = [str(python), "-m", "tests.e2e.trl_grpo_run", str(tmp_path / "out"), server.url, str(_STEPS)]
    environment = {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    try:
        history = json.loads(run(command, 600.0, environment).splitlines()[-1])
        rewards = [entry["reward"] for entry in history if "reward" in entry]
        assert len(rewards) == _STEPS
        assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1, rewards
        assert server.ask("What is 17+25?").headers["x-model-version"] == str(version + _STEPS)
    finally:
        server.http.post("/models/set_active", json={"id": FINAL_ID}).raise_for_status()
        server.forget("grpo")
