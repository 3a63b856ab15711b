"""A pipeline from its preview to its shards: over HTTP, and with control killed on the way."""

import random
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.app import create_app
from control.routes import data_gen
from datagen.kind import DataGenKind
from datagen.pipelines.preview import Previews
from stepserve.contract import BatchItem, BatchOutput
from tests.eventually import eventually
from tests.integration.control_plane import PACE, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.test_data_gen_kills import EACH_TAKES_S, Trainer, control, run_and_kill
from tests.unit.control.checkpoint_files import write_checkpoint

DOCS = [{"id": f"d{number}", "text": f"Fact {number}."} for number in range(60)]
CONFIG: dict[str, Any] = {
    "seed": 11,
    "num_examples": len(DOCS),
    "shard_size": 7,
    "filters": [],
    "max_similarity": 1.0,
    "against_earlier_shards": False,
    "columns": [
        {"name": "answer", "kind": "prompt", "template": "Answer {{question}} by {{doc.text}}"},
        {"name": "question", "kind": "prompt", "template": "A {{level}} question of {{doc.text}} ({{draw}})"},
        {"name": "doc", "kind": "rows", "rows": DOCS},
        {"name": "level", "kind": "category", "values": ["easy", "hard"], "weights": [3, 1]},
        {"name": "draw", "kind": "integers", "low": 0, "high": 1_000_000},
        {
            "name": "checked", "kind": "verifier", "verifier": "regex", "answer": "{{answer}}",
            "settings": {"pattern": "bad", "match": "nowhere"},
        },
    ],
    "user": "{{question}}",
    "assistant": "{{answer}}",
}  # fmt: skip

SPLIT: dict[str, Any] = CONFIG | {
    "num_examples": 3 * len(DOCS),
    "columns": [
        {"name": "words", "kind": "expression", "template": '["why", "when", "who"]', "result": "json"},
        {"name": "word", "kind": "each", "of": "words"},
        *(
            column | {"template": "A {{level}} question of {{doc.text}} ({{draw}}): {{word}}?"}
            if column["name"] == "question"
            else column
            for column in CONFIG["columns"]
        ),
    ],
}


def answers(item: BatchItem) -> BatchOutput:
    """The same to the same prompt and seed; some are cut off, some are bad."""
    assert item.messages is not None
    assert item.sampling is not None
    prompt, seed = item.messages[-1].content, item.sampling.seed
    assert seed is not None
    kind = "bad" if prompt.startswith("Answer") and seed % 5 == 0 else "good"
    reason = "length" if prompt.startswith("A ") and seed % 7 == 0 else "stop"
    return BatchOutput(text=f"{kind} {seed}: {prompt}", finish_reason=reason, prompt_tokens=5, completion_tokens=2)


async def activate(base: Path, http: httpx.AsyncClient, *others: str) -> None:
    for model in ("a", *others):
        write_checkpoint(base / "models" / model)
        (await http.post("/models/register", json={"id": model, "source": "t"})).raise_for_status()
    (await http.post("/models/set_active", json={"id": "a"})).raise_for_status()


async def make_job(http: httpx.AsyncClient, config: dict[str, Any] = CONFIG) -> str:
    body = {"model_id": "a", "strategy": "pipeline", "config": config}
    return str((await http.post("/data_gen/jobs", json=body)).raise_for_status().json()["job_id"])


def without_its_run(row: dict[str, Any]) -> dict[str, Any]:
    metadata = {name: value for name, value in row["metadata"].items() if name not in {"created_at", "job_id"}}
    return row | {"metadata": metadata}


async def made(base: Path, config: dict[str, Any], lives: list[float]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The job and its rows, control killed at the end of each of the lives."""
    base.mkdir()
    gateway = FakeGateway(settings_of(base).layout.gateway_socket)
    gateway.answer = answers
    trainer = Trainer(base / "train_shards_out")
    async with gateway.running():
        async with control(base, max_concurrent_by_type={"data_gen": 0}) as http:
            await activate(base, http)
            job_id = await make_job(http, config)
        gateway.batch_takes_s = EACH_TAKES_S
        for life_s in lives:
            await run_and_kill(base, trainer, life_s)
        gateway.batch_takes_s = 0.0
        async with control(base) as http:

            async def look() -> Any:
                trainer.take()
                return (await http.get(f"/data_gen/jobs/{job_id}")).json()

            job = await eventually(look, lambda seen: seen["status"] in {"done", "failed"})
    trainer.take()
    assert set(trainer.taken) == set(job["shards"])
    return job, [row for name in job["shards"] for row in trainer.taken[name]]


@pytest.mark.parametrize("config", [CONFIG, SPLIT], ids=["whole rows", "split rows"])
async def test_a_job_that_was_killed_makes_what_one_makes_that_was_not(tmp_path: Path, config: dict[str, Any]) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    job, rows = await made(tmp_path / "killed", config, [chance.uniform(0.0, 0.3) for _ in range(2)])
    quiet, wanted = await made(tmp_path / "quiet", config, [])
    assert [attempt["outcome"] for attempt in job["attempts"]].count("lost") >= 1
    assert job["result"]["attempts"] == quiet["result"]["attempts"] == len(DOCS)
    assert job["result"]["rejected"] == quiet["result"]["rejected"]
    assert quiet["result"]["rejected"].keys() == {"not_verified", "truncated"}
    assert len(rows) == len({row["id"] for row in rows})
    assert len(rows) + job["result"]["rejected_total"] == config["num_examples"]
    by_id = {row["id"]: without_its_run(row) for row in rows}
    assert by_id == {row["id"]: without_its_run(row) for row in wanted}


async def test_a_preview_shows_the_jobs_first_rows_and_makes_nothing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    previews = data_gen.previews_router(Previews(settings.layout))
    app = create_app(settings, [DataGenKind(settings.layout)], more_routes=[previews], pace=PACE, job_poll_s=0.3)
    gateway = FakeGateway(settings.layout.gateway_socket)
    gateway.answer = answers
    async with (
        gateway.running(),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://control") as http,
    ):

        async def preview(**body: Any) -> httpx.Response:
            return await http.post("/data_gen/pipelines/preview", json=body)

        assert (await preview(config=CONFIG)).status_code == 404, "no model is active"
        await activate(tmp_path, http, "b")
        shown = (await preview(config=CONFIG)).raise_for_status().json()
        short = (await preview(config=CONFIG, rows=2)).raise_for_status().json()
        split = (await preview(config=SPLIT, rows=2)).raise_for_status().json()["rows"]
        for row in split:
            assert "word" not in row["columns"]
            assert row["columns"]["words"] == [item["word"] for item in row["items"]] == ["why", "when", "who"]
            asked_of_it = {item.get("question") for item in row["items"]}
            assert {example["messages"][0]["content"] for example in row["examples"]} <= asked_of_it
            assert len(row["examples"]) + len(row["rejected"]) == 3
        assert any(row["examples"] for row in split)
        assert (await http.get("/jobs")).json()["jobs"] == []
        assert not list((tmp_path / "train_shards_out").iterdir())
        asked = len(gateway.batches)
        cyclic = [{"name": "a", "kind": "expression", "template": "{{a}}"}]
        for body, status, reason in (
            (
                {"config": CONFIG | {"columns": cyclic, "user": "{{a}}", "assistant": "b"}},
                422,
                "config.columns.0: a cycle: a needs a",
            ),
            ({"config": CONFIG | {"user": "{{qestion}}"}}, 422, "no column 'qestion' (did you mean question?)"),
            ({"config": CONFIG, "rows": 51}, 422, "rows"),
            ({"config": CONFIG, "colour": 1}, 422, "colour"),
            ({"config": CONFIG, "model_id": "c"}, 404, "c"),
            ({"config": _asking("c")}, 404, "config.columns.1.model: "),
        ):
            refused = await preview(**body)
            assert (refused.status_code, reason in refused.text) == (status, True), refused.text
        assert len(gateway.batches) == asked
        not_loaded = await preview(config=_asking("b"))
        assert (not_loaded.status_code, "models that are loaded" in not_loaded.text) == (409, True), not_loaded.text

        job_id = await make_job(http)

        async def look() -> Any:
            return (await http.get(f"/data_gen/jobs/{job_id}")).json()

        job = await eventually(look, lambda seen: seen["status"] in {"done", "failed"})
        made_rows = (tmp_path / "train_shards_out" / name for name in job["shards"])
        text = "".join(path.read_text() for path in made_rows)
    assert (shown["model"], shown["seed"], len(shown["rows"])) == ("a", 11, 10)
    assert short["rows"] == shown["rows"][:2]
    assert shown["order"] == ["doc", "level", "draw", "question", "answer", "checked"]
    kept = [row for row in shown["rows"] if row["examples"]]
    assert kept
    for row in shown["rows"]:
        values = row["columns"]
        assert values["doc"] == DOCS[row["attempt"]]
        assert 0 <= values["draw"] <= 1_000_000
        assert (not row["examples"]) == bool(row["rejected"])
    for row in kept:
        (example,) = row["examples"]
        assert example["messages"][0]["content"] == row["columns"]["question"]
        assert example["messages"][1]["content"] in text, "the job made the same"
        assert row["items"] == []
    numbers = [int(number) for number in re.findall(r"\((\d+)\)", text)]
    assert {row["columns"]["draw"] for row in kept} <= set(numbers)


def _asking(model: str) -> dict[str, Any]:
    first, second, *others = CONFIG["columns"]
    return CONFIG | {"columns": [first, {**second, "model": model}, *others]}
