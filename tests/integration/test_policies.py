"""Policies: a registration alone makes the evals, the promotion and the data generation, once, whatever is killed."""

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.app import create_app
from datagen.kind import DataGenKind
from evals.kind import EvalKind
from stepserve.contract import BatchItem, BatchOutput
from stepserve.jobs.ports import JobKind
from tests.eventually import eventually
from tests.integration.control_plane import PACE, run_sql, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.migrated import place_database
from tests.unit.control.checkpoint_files import write_checkpoint

EVAL: dict[str, Any] = {"dataset_ref": "sums", "metrics": ["numeric"]}
PROMOTION: dict[str, Any] = {"suite": [{"dataset_ref": "sums", "metric": "numeric"}], "max_samples": 20}
DATA_GEN: dict[str, Any] = {"config": {"num_samples": 2, "samples": 1, "only_unsolved": False}}
NEVER_S = 3600.0


def never_right(_item: BatchItem) -> BatchOutput:
    return BatchOutput(text="The answer is -1", finish_reason="stop", completion_tokens=3)


class Here:
    def __init__(self, base: Path, http: httpx.AsyncClient, gateway: FakeGateway) -> None:
        self.base, self.http, self.gateway = base, http, gateway
        self.datasets = settings_of(base).layout.datasets

    async def register(self, model_id: str, seed: int = 0, **more: Any) -> None:
        shutil.rmtree(self.base / "models" / model_id, ignore_errors=True)
        write_checkpoint(self.base / "models" / model_id, seed)
        self.gateway.answers[model_id] = never_right
        self.gateway.has_room_for.add(model_id)
        body = {"id": model_id, "source": "t", **more}
        (await self.http.post("/models/register", json=body)).raise_for_status()

    async def active(self, model_id: str, seed: int = 0) -> None:
        await self.register(model_id, seed)
        (await self.http.post("/models/set_active", json={"id": model_id})).raise_for_status()

    async def put(self, name: str, body: Any, status: int = 201) -> Any:
        answer = await self.http.put(f"/policies/{name}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str) -> Any:
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def jobs(self) -> list[tuple[str, str, str]]:
        """Type, model and maker of each."""
        jobs = (await self.get("/jobs"))["jobs"]
        return sorted((job["type"], job["model_id"], job["created_by"]) for job in jobs)

    async def run_of(self, name: str) -> Any:
        """The policy's only run, once it is over."""
        seen = await eventually(
            lambda: self.get(f"/policies/{name}"), lambda policy: [run["state"] for run in policy["runs"]] == ["over"]
        )
        return seen["runs"][0]

    async def looked_at(self) -> None:
        """Once no model waits for its policies."""
        await eventually(
            lambda: run_sql(self.base, "UPDATE models SET policies_due = true WHERE policies_due"), lambda due: due == 0
        )


@asynccontextmanager
async def control(
    base: Path, gateway: FakeGateway, *, policies_every_s: float = 0.05, **changes: Any
) -> AsyncIterator[Here]:
    settings = settings_of(base, batch_items=8, **changes)
    kinds: list[JobKind] = [EvalKind(), DataGenKind(settings.layout)]
    place_database(settings)
    app = create_app(settings, kinds, pace=PACE, job_poll_s=0.3, policies_every_s=policies_every_s)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240) as http:
            lines = [{"question": f"What is {a}+{a + 3}?", "answer": 2 * a + 3} for a in range(20)]
            (settings.layout.datasets / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
            yield Here(base, http, gateway)


@asynccontextmanager
async def both(base: Path, **changes: Any) -> AsyncIterator[Here]:
    gateway = FakeGateway(settings_of(base).layout.gateway_socket)
    async with gateway.running(), control(base, gateway, **changes) as here:
        yield here


@pytest.mark.usefixtures("each_database")
async def test_a_registration_alone_makes_every_job_once_over_restarts(tmp_path: Path) -> None:
    policy = {
        "match": {"id": "step-*"},
        "evals": [EVAL, EVAL | {"name": "few", "max_samples": 5}],
        "promotion": PROMOTION,
    }
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with gateway.running():
        async with control(tmp_path, gateway) as here:
            await here.active("old")
            await here.register("step-1", 1)
            await here.looked_at()
            made = await here.put("nightly", policy | {"data_gen": DATA_GEN})
            assert (made["match"], made["created_by"]) == ({"id": "step-*", "tags": []}, "policy:nightly")
        # Control goes between the registration and the making of jobs.
        async with control(tmp_path, gateway, policies_every_s=NEVER_S) as here:
            await here.register("step-2", 2)
            await here.register("other", 3)
            assert await here.jobs() == []
        async with control(tmp_path, gateway) as here:
            run = await here.run_of("nightly")
            assert run["model_id"] == "step-2"
            assert [step["step"] for step in run["steps"]] == ["evals.0", "evals.1", "promotion", "data_gen"]
            assert [step["error"] for step in run["steps"]] == [None] * 4
            jobs = {step["step"]: await here.get(f"/jobs/{step['job_id']}") for step in run["steps"]}
            assert jobs["evals.0"]["status"] == "done"
            assert [jobs[step]["config"]["name"] for step in ("evals.0", "evals.1")] == ["nightly", "few"]
            assert jobs["promotion"]["config"]["baseline"]["id"] == "old"
            assert jobs["data_gen"]["config"]["config"]["source_eval_run_id"] == jobs["evals.0"]["id"]
            assert jobs["data_gen"]["created_at"] > jobs["evals.0"]["finished_at"]
            expected = [(kind, "step-2", "policy:nightly") for kind in ("data_gen", "eval", "eval", "promotion")]
            assert await here.jobs() == expected
            # As if control had been killed after it made them, before it wrote that down.
            await run_sql(tmp_path, _FORGOTTEN.format(steps=json.dumps([_forgotten(step) for step in run["steps"]])))
            again = await here.run_of("nightly")
            assert again["steps"] == run["steps"]
            # And the same content once more.
            await run_sql(tmp_path, "UPDATE models SET policies_due = true WHERE id = 'step-2'")
            await here.looked_at()
            assert await here.jobs() == expected


_FORGOTTEN = "UPDATE policy_runs SET state = 'open', steps = '{steps}'"


def _forgotten(step: Any) -> Any:
    return step | {"job_id": None}


async def test_other_content_in_its_place_is_another_model_and_tags_count(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.active("old")
        await here.put("tagged", {"match": {"tags": ["nightly"]}, "evals": [EVAL]})
        await here.register("a", 1, tags=["big"])
        await here.register("b", 2, tags=["nightly", "big"])
        run = await here.run_of("tagged")
        assert run["model_id"] == "b"
        first = run["steps"][0]["job_id"]
        await eventually(lambda: here.get(f"/jobs/{first}"), lambda job: job["status"] == "done")
        await here.register("b", 3, tags=["nightly"], replace=True)
        await eventually(here.jobs, lambda jobs: len(jobs) == 2)
        runs = (await here.get("/policies/tagged"))["runs"]
        assert [one["model_id"] for one in runs] == ["b", "b"]
        assert runs[0]["model_digest"] != runs[1]["model_digest"]


async def test_a_step_that_is_refused_says_why_and_stops_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with both(tmp_path) as here:
        await here.active("old")
        few = here.datasets / "few.jsonl"
        few.write_bytes((here.datasets / "sums.jsonl").read_bytes())
        evals = [EVAL | {"dataset_ref": "few"}, EVAL]
        await here.put("p", {"match": {"id": "new"}, "evals": evals, "data_gen": DATA_GEN})
        few.unlink()
        await here.register("new", 1)
        gone, made, data_gen = (await here.run_of("p"))["steps"]
        assert (gone["job_id"], gone["error"].partition(":")[0]) == (None, "dataset_ref")
        assert made["job_id"].startswith("eval_")
        assert (data_gen["job_id"], data_gen["error"]) == (None, "evals.0 was not made")
        assert f"policy p makes no evals.0 of new: {gone['error']}" in caplog.text
        assert await here.jobs() == [("eval", "new", "policy:p")]


async def test_a_data_generation_waits_for_its_eval(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.active("old")
        await here.put("p", {"match": {"id": "new"}, "evals": [EVAL], "data_gen": DATA_GEN})
        here.gateway.batch_takes_s = 0.5
        await here.register("new", 1)
        waiting = await eventually(
            lambda: here.get("/policies/p"),
            lambda policy: any(run["steps"][1]["waiting_for"] for run in policy["runs"]),
        )
        first, second = waiting["runs"][0]["steps"]
        job_id = first["job_id"]
        assert (waiting["runs"][0]["state"], second["job_id"], second["waiting_for"]) == ("open", None, job_id)
        (await here.http.post(f"/jobs/{job_id}/cancel")).raise_for_status()
        run = await here.run_of("p")
        assert run["steps"][1]["error"] == f"{job_id} is cancelled, so there are no failures to read"
        assert (await here.http.delete("/policies/p")).status_code == 200
        assert (await here.http.get("/policies/p")).status_code == 404
        assert (await here.get("/policies"))["policies"] == []


async def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    async with both(tmp_path, max_pending_jobs=1) as here:
        await here.active("old")
        await here.put("p", {"match": {"id": "new"}, "evals": [EVAL, EVAL | {"name": "second"}]})
        write_checkpoint(tmp_path / "models" / "new", 1)  # there is no room for it, so its jobs wait
        (await here.http.post("/models/register", json={"id": "new", "source": "t"})).raise_for_status()
        waiting = await eventually(
            lambda: here.get("/policies/p"),
            lambda policy: any(run["steps"][1]["waiting_for"] for run in policy["runs"]),
        )
        first, second = waiting["runs"][0]["steps"]
        assert second["waiting_for"].startswith("1 jobs are pending")
        (await here.http.post(f"/jobs/{first['job_id']}/cancel")).raise_for_status()
        done = (await here.run_of("p"))["steps"][1]
        assert (done["waiting_for"], (await here.get(f"/jobs/{done['job_id']}"))["config"]["name"]) == (
            None,
            "second",
        )


async def test_rows_that_were_written_by_hand_hold_up_no_others(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.active("old")
        for name in ("a", "b", "c"):
            await here.put(name, {"match": {"id": "new"}, "evals": [EVAL]})
        await run_sql(tmp_path, "UPDATE policies SET content = '[]' WHERE name = 'a'")
        await here.register("new", 1)
        await here.run_of("c")
        tried = await here.http.post("/policies/a/dry_run", json={"id": "new"})
        assert (tried.status_code, "put it again" in tried.json()["detail"]) == (409, True)
        assert await here.jobs() == [("eval", "new", f"policy:{name}") for name in "bc"]
        assert await run_sql(tmp_path, "UPDATE policy_runs SET state = 'open', steps = '[1]' WHERE policy = 'b'") == 1
        await here.run_of("b")
        await here.put("a", {"match": {"id": "later"}, "evals": [EVAL]}, 200)
        await here.register("later", 2)
        assert (await here.run_of("a"))["steps"][0]["error"] is None


async def test_a_dry_run_shows_the_jobs_and_makes_none(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.active("old")
        await here.register("new", 1)
        policy = {"match": {"id": "n*"}, "evals": [EVAL], "promotion": PROMOTION, "data_gen": DATA_GEN}
        await here.put("p", policy)
        shown = (await here.http.post("/policies/p/dry_run", json={"id": "new"})).json()
        assert (shown["matches"], shown["model_id"]) == (True, "new")
        assert [(step["step"], step["error"]) for step in shown["steps"]] == [
            ("evals.0", None), ("promotion", None), ("data_gen", None),
        ]  # fmt: skip
        assert shown["steps"][0]["request"]["model_id"] == "new"
        assert shown["steps"][1]["request"]["candidate"] == "new"
        shown = (await here.http.post("/policies/p/dry_run", json={"id": "active"})).json()
        assert (shown["matches"], shown["model_id"]) == (False, "old")
        assert shown["steps"][1]["error"].startswith("promotion.candidate: old is the baseline")
        assert (await here.http.post("/policies/p/dry_run", json={"id": "none"})).status_code == 404
        assert await here.jobs() == []


async def test_a_policy_that_cannot_work_is_refused_naming_the_field(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        for body, said in (
            ({"evals": [EVAL]}, "match: is missing"),
            ({"match": {}}, "evals: there is no eval"),
            ({"match": {"ids": "a"}, "evals": [EVAL]}, "match.ids: unknown field"),
            ({"match": {}, "evals": [EVAL], "canary": 1}, "canary: unknown field"),
            ({"match": {}, "evals": [EVAL, EVAL | {"dataset_ref": "none"}]}, "evals.1.dataset_ref: there is no"),
            ({"match": {}, "evals": [EVAL | {"metrics": ["bleurt"]}]}, "evals.0.metrics: unknown metric 'bleurt'"),
            ({"match": {}, "evals": [EVAL | {"metric": "f1"}]}, "evals.0.metric: unknown field"),
            ({"match": {}, "evals": [EVAL | {"model_id": "a"}]}, "evals.0.model_id: is filled in"),
            ({"match": {}, "evals": [{"metrics": ["f1"]}]}, "evals.0.dataset_ref: is missing"),
            ({"match": {}, "promotion": PROMOTION | {"candidate": "a"}}, "promotion.candidate: is filled in"),
            ({"match": {}, "promotion": PROMOTION | {"baseline": "none"}}, "promotion.no model is registered"),
            (
                {"match": {}, "promotion": {"suite": [{"dataset_ref": "sums", "metric": "x"}]}},
                "promotion.suite.0.metric: unknown metric 'x'",
            ),
            ({"match": {}, "data_gen": DATA_GEN}, "data_gen: is made of the failures of the first eval"),
            (
                {"match": {}, "evals": [EVAL | {"per_example_logging": False}], "data_gen": DATA_GEN},
                "evals.0.per_example_logging: ",
            ),
            ({"match": {}, "evals": [EVAL], "data_gen": {"config": {"sample": 1}}}, "data_gen.config.sample: "),
            ({"match": {}, "evals": [EVAL], "data_gen": {"strategy": "x"}}, "data_gen.strategy: is filled in"),
            ({"match": {}, "evals": [EVAL], "data_gen": {"model_id": "none"}}, "data_gen.model_id: "),
            (
                {"match": {}, "evals": [EVAL], "data_gen": {"config": {"source_eval_run_id": "e"}}},
                "data_gen.config.source_eval_run_id: is filled in",
            ),
        ):
            answer = await here.put("p", body, 422)
            assert answer["detail"].startswith(said), answer["detail"]
        assert (await here.get("/policies"))["policies"] == []
