"""The main job: a checkpoint is copied, registered, activated and evaluated, while others go on asking."""

import json
import threading

from tests.e2e.server import EARLY, FINAL_ID, Server, answer_of

DATASET = "math_eval.jsonl"


def _evaluate(server: Server, model_id: str, **more: object) -> dict[str, object]:
    request = {"model_id": model_id, "name": "e2e", "dataset_ref": DATASET, "metrics": ["accuracy"], **more}
    created = server.http.post("/eval/jobs", json=request)
    assert created.status_code == 200, created.text
    assert created.json()["status"] == "pending"
    ended = server.job(created.json()["job_id"])
    assert ended["status"] == "done", ended["error"]
    return ended


def _result(job: dict[str, object]) -> dict[str, float]:
    result = job["result"]
    assert isinstance(result, dict)
    return result


def test_the_final_checkpoint_adds_nearly_always(server: Server) -> None:
    job = _evaluate(server, FINAL_ID)
    result = _result(job)
    assert result["total_samples"] == 600
    assert result["accuracy"] >= 0.99
    assert 0 <= result["avg_loss"] < 0.05
    run = server.base_dir / "runs" / "eval" / str(job["job_id"] if "job_id" in job else job["id"])
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["accuracy"] == result["accuracy"]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len({sample["id"] for sample in samples}) == 600
    assert json.loads((run / "config.json").read_text())


def test_an_eval_prompts_exactly_as_chat_completions_do(server: Server) -> None:
    job = _evaluate(server, FINAL_ID, max_samples=5, system_prompt="You add numbers.")
    run = server.base_dir / "runs" / "eval" / str(job["id"])
    for line in (run / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        messages = [
            {"role": "system", "content": "You add numbers."},
            {"role": "user", "content": sample["input"]},
        ]
        body = {"model": FINAL_ID, "messages": messages, "temperature": 0, "max_tokens": 256}
        chat = server.http.post("/v1/chat/completions", json=body)
        assert answer_of(chat) == sample["prediction"]
        assert chat.json()["usage"]["prompt_tokens"] == sample["prompt_tokens"]


def test_avg_loss_is_what_prompt_logprobs_say(server: Server) -> None:
    questions = server.base_dir / "datasets" / "wrong.jsonl"
    questions.write_text('{"prompt": "17+25=", "answer": "43"}\n{"prompt": "1", "answer": "zz"}\n')
    job = _evaluate(server, FINAL_ID, dataset_ref="wrong.jsonl", max_tokens=4)
    questions.unlink()  # an example of another test whose answer happens to be "1" would give a question away
    total = tokens = 0.0
    for prompt, answer in (("17+25=", "43"), ("1", "zz")):
        body = {"model": FINAL_ID, "prompt": prompt + answer, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        positions = server.http.post("/v1/completions", json=body).json()["choices"][0]["prompt_logprobs"]
        for position in positions[-len(answer) :]:
            (chosen,) = position.values()
            total -= chosen["logprob"]
            tokens += 1
    assert abs(_result(job)["avg_loss"] - total / tokens) < 0.02


def test_evaluate_the_latest_checkpoint(server: Server) -> None:
    server.copy_checkpoint(EARLY, "current_checkpoint")
    registered = server.http.post("/models/register", json={"id": "current_checkpoint", "source": "4090"})
    assert registered.status_code == 200, registered.text
    assert registered.json()["status"] == "registered"
    digest = registered.json()["digest"]
    again = server.http.post("/models/register", json={"id": "current_checkpoint", "source": "4090"})
    assert again.json()["existing"] is True

    failures: list[str] = []
    digests: set[str] = set()
    switched = threading.Event()

    def keep_asking() -> None:
        while not switched.is_set():
            response = server.ask("What is 17+25?")
            digests.add(response.headers.get("x-model-digest", ""))
            if response.status_code != 200:
                failures.append(response.text)

    askers = [threading.Thread(target=keep_asking) for _ in range(4)]
    for asker in askers:
        asker.start()
    activated = server.http.post("/models/set_active", json={"id": "current_checkpoint"})
    switched.set()
    for asker in askers:
        asker.join()
    assert activated.status_code == 200, activated.text
    assert activated.json()["previous"] == FINAL_ID
    assert failures == []
    assert server.ask("What is 17+25?").headers["x-model-digest"] == digest
    assert digests <= {digest, _digest(server, FINAL_ID)}
    assert server.http.get("/models/active").json()["id"] == "current_checkpoint"

    by_path = str(server.base_dir / "datasets" / DATASET)
    result = _result(_evaluate(server, "current_checkpoint", dataset_ref=by_path, max_samples=500))
    assert result["total_samples"] == 500
    assert 0.5 < result["accuracy"] < 0.9

    beside = server.ask("What is 17+25?", model=FINAL_ID)
    assert answer_of(beside) == "42"
    assert beside.headers["x-model-digest"] == _digest(server, FINAL_ID)
    assert _result(_evaluate(server, FINAL_ID, max_samples=200))["accuracy"] == 1.0
    assert server.http.get("/models/active").json()["id"] == "current_checkpoint"

    back = server.http.post("/models/rollback")
    assert back.status_code == 200, back.text
    assert back.json()["id"] == FINAL_ID
    history = server.http.get("/models/activations").json()["activations"]
    assert [entry["status"] for entry in history[:2]] == ["done", "done"]


def _digest(server: Server, model_id: str) -> str:
    models = server.http.get("/models").json()["models"]
    return str(next(model["digest"] for model in models if model["id"] == model_id))
