"""TRL's own trainer with the callback, against the real server: pushed, proved, served, measured, while it trains."""

import json
from pathlib import Path

from stepserve import Client
from tests.e2e.environments import python_with, run
from tests.e2e.server import FINAL_ID, REPOSITORY, Server


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
