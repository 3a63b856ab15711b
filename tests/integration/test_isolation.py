"""Keys that are isolated: over every route that lists or reads, one key sees nothing of another's work.

A new route is a decision to be made: it belongs in one of the tables here, or the first test fails.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from control.app import create_app
from control.clock import utc_now
from control.database.database import Database, url_of
from control.database.tables import JobRow, ShardRow
from control.routes import data_gen, datasets, eval_tasks, evals, traffic
from datagen.feedback import FeedbackRows
from datagen.kind import DataGenKind
from datagen.pipelines.preview import Previews
from datagen.rejections import RunReports
from evals.dataset_store import FileDatasetStore
from evals.harness.kind import TaskFileKind
from evals.kind import EvalKind
from evals.reports import EvalReports
from stepserve.access_settings import AccessSettings
from stepserve.contract import BatchOutput
from stepserve.jobs.ports import JobKind
from stepserve.route_table import match
from stepserve.settings import Settings
from tests.eventually import eventually
from tests.integration.control_plane import PACE, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.full_stack import MODEL, FullStack, bearer, run_story
from tests.integration.migrated import place_database
from tests.unit.control.checkpoint_files import write_checkpoint

MINE, OTHER, ADMIN = "aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc"
LINES = b"".join(json.dumps({"question": f"What is {a}+1?", "answer": a + 1}).encode() + b"\n" for a in range(8))
SECRET = "the-secret-of-a"
MADE = "data_gen_20260101_000000_aaaa"

# What is everybody's: models, the machine, and what makes something new.
SHARED = {
    ("GET", "/models"), ("GET", "/models/active"), ("GET", "/models/activations"), ("GET", "/models/{model_id}/files"),
    ("GET", "/models/{model_id}"),
    ("GET", "/gpu"), ("GET", "/system"), ("GET", "/history"), ("GET", "/eval/tasks"),
}  # fmt: skip

# Lists: of the other key's they have nothing.
LISTS = (
    "/jobs", "/jobs?type=eval", "/jobs/stats", "/shards", "/datasets", "/v1/files", "/v1/files?purpose=batch",
    "/v1/batches", "/eval/history", "/policies",
)  # fmt: skip

# One thing, by its name: for another key it is not there.
BY_NAME: dict[tuple[str, str], tuple[str, Any]] = {
    ("GET", "/jobs/{job_id}"): ("/jobs/{eval}", None),
    ("GET", "/jobs/{job_id}/events"): ("/jobs/{eval}/events", None),
    ("GET", "/eval/jobs/{job_id}"): ("/eval/jobs/{eval}", None),
    ("GET", "/eval/jobs/{job_id}/samples"): ("/eval/jobs/{eval}/samples", None),
    ("GET", "/eval/jobs/{job_id}/report"): ("/eval/jobs/{eval}/report", None),
    ("GET", "/eval/jobs/{job_id}/flaky"): ("/eval/jobs/{eval}/flaky", None),
    ("GET", "/eval/jobs/{job_id}/export"): ("/eval/jobs/{eval}/export", None),
    ("POST", "/eval/jobs/{job_id}/rescore"): ("/eval/jobs/{eval}/rescore", {"metrics": ["numeric"]}),
    ("GET", "/eval/compare"): ("/eval/compare?a={eval}&b={eval}", None),
    ("GET", "/promotions/{job_id}/report"): ("/promotions/{promotion}/report", None),
    ("GET", "/promotions/{job_id}"): ("/promotions/{promotion}", None),
    ("GET", "/policies/{name}"): ("/policies/{policy}", None),
    ("POST", "/policies/{name}/dry_run"): ("/policies/{policy}/dry_run", {"id": "other"}),
    ("GET", "/data_gen/jobs/{job_id}"): ("/data_gen/jobs/{made}", None),
    ("GET", "/data_gen/jobs/{job_id}/shards/{name:path}"): ("/data_gen/jobs/{made}/shards/{shard}", None),
    ("HEAD", "/data_gen/jobs/{job_id}/shards/{name:path}"): ("/data_gen/jobs/{made}/shards/{shard}", None),
    ("GET", "/data_gen/jobs/{job_id}/files/{name}"): ("/data_gen/jobs/{made}/files/manifest.json", None),
    ("GET", "/data_gen/jobs/{job_id}/report"): ("/data_gen/jobs/{made}/report", None),
    ("GET", "/data_gen/jobs/{job_id}/rejected"): ("/data_gen/jobs/{made}/rejected", None),
    ("GET", "/shards/{name}"): ("/shards/{shard}", None),
    ("HEAD", "/shards/{name}"): ("/shards/{shard}", None),
    ("GET", "/datasets/{name:path}/versions"): ("/datasets/private/versions", None),
    ("GET", "/datasets/{name:path}"): ("/datasets/private", None),
    ("GET", "/v1/files/{file_id}"): ("/v1/files/{output}", None),
    ("GET", "/v1/files/{file_id}/content"): ("/v1/files/{file}/content", None),
    ("GET", "/v1/batches/{batch_id}"): ("/v1/batches/{batch}", None),
    # What changes something, and so comes last.
    ("DELETE", "/datasets/{name:path}"): ("/datasets/private", None),
    ("POST", "/shards/{name}/nack"): ("/shards/{shard}/nack", {"claim_id": "{claim}"}),
    ("POST", "/shards/{name}/ack"): ("/shards/{shard}/ack", {"claim_id": "{claim}"}),
    ("POST", "/jobs/{job_id}/cancel"): ("/jobs/{waiting}/cancel", {}),
    ("POST", "/jobs/{job_id}/retry"): ("/jobs/{waiting}/retry", {}),
    ("POST", "/v1/batches/{batch_id}/cancel"): ("/v1/batches/{batch}/cancel", {}),
    ("DELETE", "/v1/files/{file_id}"): ("/v1/files/{file}", None),
}  # fmt: skip

# Its key's alone, isolated or not, and no administrator's: tests/integration/test_stored_responses.py.
PRIVATE = {
    ("GET", "/v1/responses/{response_id}"), ("DELETE", "/v1/responses/{response_id}"),
    ("POST", "/v1/responses/{response_id}/cancel"), ("GET", "/v1/responses/{response_id}/input_items"),
    ("POST", "/v1/conversations"),
    *((method, "/v1/conversations/{conversation_id}") for method in ("GET", "POST", "DELETE")),
    *((method, "/v1/conversations/{conversation_id}/items") for method in ("GET", "POST")),
    *((method, "/v1/conversations/{conversation_id}/items/{item_id}") for method in ("GET", "DELETE")),
}  # fmt: skip

# Its key's alone, isolated or not, but administrators see all: tests/integration/test_traffic.py.
TRAFFIC = {
    ("GET", "/traffic/consent"), ("PUT", "/traffic/consent"), ("POST", "/traffic/datasets"),
    *((method, f"/traffic/requests{rest}") for method in ("GET", "DELETE") for rest in ("", "/{request_id:path}")),
}  # fmt: skip

# Making: what a new job names must be its maker's; tested one by one below.
MAKING = {
    ("POST", "/eval/imports"), ("POST", "/eval/tasks"), ("POST", "/data_gen/pipelines/preview"),
    ("POST", "/eval/jobs"), ("POST", "/promotions"), ("POST", "/data_gen/jobs"), ("POST", "/v1/batches"),
    ("POST", "/v1/files"), ("POST", "/shards/claim"), ("PUT", "/datasets/{name:path}"),
}  # fmt: skip


def stamped(key: str) -> dict[str, str]:
    """As the gateway says who asks."""
    return {"x-stepserve-key": key, "x-stepserve-scopes": "admin" if key == ADMIN else "jobs"}


def application(settings: Settings) -> FastAPI:
    routes = [
        datasets.router_of(FileDatasetStore()),
        traffic.datasets_router(FileDatasetStore(), FeedbackRows()),
        evals.router_of(EvalReports()),
        eval_tasks.router_of(TaskFileKind.at(settings.layout, settings)),
        data_gen.reports_router(RunReports()),
        data_gen.previews_router(Previews(settings.layout)),
    ]
    kinds: list[JobKind] = [EvalKind(), DataGenKind(settings.layout)]
    place_database(settings)
    return create_app(settings, kinds, more_routes=routes, pace=PACE, job_poll_s=0.3)


def test_every_route_is_decided() -> None:
    decided = SHARED | PRIVATE | TRAFFIC | MAKING | set(BY_NAME) | {("GET", path.partition("?")[0]) for path in LISTS}
    found = set()
    for route in application(settings_of(Path("/nowhere"))).routes:
        if not isinstance(route, APIRoute):
            continue
        for method in route.methods:
            known = match(method, route.path)
            if known.row is not None and known.row.owner == "control" and known.scope not in {"admin", "fleet"}:
                found.add((method, route.path))
    assert found - decided == set(), "is it another key's to see?"
    assert decided - found == set(), "no such route any more"


@dataclass
class Shop:
    """Control, where MINE has made one of everything; `names` has what BY_NAME asks for."""

    http: httpx.AsyncClient
    settings: Settings
    names: dict[str, str]

    async def ask(self, key: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        for name, value in self.names.items():
            path = path.replace(f"{{{name}}}", value)
            if isinstance(body, dict):
                body = {k: value if v == f"{{{name}}}" else v for k, v in body.items()}
        return await self.http.request(method, path, json=body, headers=stamped(key) | headers)

    async def made(self, key: str, path: str, body: Any, **headers: str) -> Any:
        answer = await self.ask(key, "POST", path, body, **headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def over(self, path: str) -> Any:
        async def look() -> Any:
            return (await self.ask(MINE, "GET", path)).json()

        seen = await eventually(look, lambda job: job["status"] in {"done", "completed", "failed"})
        assert seen["status"] != "failed", seen
        return seen


def eval_of(dataset: str, **fields: Any) -> dict[str, Any]:
    return {"model_id": "active", "name": SECRET, "dataset_ref": dataset, "metrics": ["numeric"], **fields}


def promotion_of(dataset: str, **fields: Any) -> dict[str, Any]:
    return {"candidate": "other", "suite": [{"dataset_ref": dataset, "metric": "numeric"}], **fields}


def previewed_of(dataset: str, ends: dict[str, Any]) -> dict[str, Any]:
    return {"config": {"columns": [{"name": "doc", "kind": "rows", "dataset_ref": dataset}], **ends}}


def batch_lines() -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": SECRET}]}
    line = {"custom_id": "r", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode() + b"\n"


@asynccontextmanager
async def shop(base: Path, *, isolated: bool = True) -> AsyncIterator[Shop]:
    settings = settings_of(base, access=AccessSettings(isolate_keys=isolated))
    gateway = FakeGateway(settings.layout.gateway_socket)
    gateway.answer = lambda _item: BatchOutput(text=SECRET, finish_reason="stop", prompt_tokens=1, completion_tokens=1)
    app = application(settings)
    async with gateway.running(), app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240) as http:
            here = Shop(http, settings, {"made": MADE, "shard": "shard_20260101_001.jsonl"})
            await _stock(here)
            yield here


async def _stock(here: Shop) -> None:
    for model in (MODEL, "other"):
        write_checkpoint(here.settings.layout.models / model, 1 if model == MODEL else 2)
        await here.made(ADMIN, "/models/register", {"id": model, "source": "t"})
    await here.made(ADMIN, "/models/set_active", {"id": MODEL})
    put = await here.http.put("/datasets/private.jsonl", content=LINES, headers=stamped(MINE))
    assert put.status_code == 201, put.text
    (here.settings.layout.datasets / "common.jsonl").write_bytes(LINES)
    here.names["eval"] = (await here.made(MINE, "/eval/jobs", eval_of("private")))["job_id"]
    await here.over("/jobs/{eval}")
    here.names["file"] = await upload(here, MINE)
    asked = {"input_file_id": here.names["file"], "endpoint": "/v1/chat/completions"}
    here.names["batch"] = (await here.made(MINE, "/v1/batches", asked))["id"]
    here.names["output"] = (await here.over("/v1/batches/{batch}"))["output_file_id"]
    here.names["waiting"] = (await here.made(MINE, "/eval/jobs", eval_of("common", model_id="other")))["job_id"]
    promoted = await here.ask(MINE, "POST", "/promotions", promotion_of("private"))
    assert promoted.status_code == 202, promoted.text
    here.names["promotion"] = promoted.json()["job_id"]
    here.names["policy"] = "policy-of-a"
    policy = {"match": {}, "evals": [{"dataset_ref": "private", "metrics": ["numeric"]}]}
    put = await here.ask(MINE, "PUT", "/policies/{policy}", policy)
    assert put.status_code == 201, put.text
    await _generated(here)
    claimed = await here.made(MINE, "/shards/claim", {})
    here.names["claim"] = claimed["shard"]["claim_id"]


async def _generated(here: Shop) -> None:
    """A data generation job that is done, with its run and its shard."""
    layout, now = here.settings.layout, utc_now()
    run = layout.runs / "data_gen" / MADE
    run.mkdir(parents=True)
    for name in ("manifest.json", "report.json"):
        (run / name).write_text('{"yield": {"rejected": {}}}')
    (run / "attempts.jsonl").write_text(LINES.decode())
    (layout.shards / here.names["shard"]).write_bytes(LINES)
    database = Database(url_of(here.settings))
    async with database.transaction() as session:
        session.add(
            JobRow(
                id=MADE,
                type="data_gen",
                model_id=MODEL,
                model_digest="d",
                status="done",
                config={"name": SECRET},
                attempt=1,
                progress_done=1,
                created_by=MINE,
                created_at=now,
                started_at=now,
                finished_at=now,
                result={},
            )
        )
        session.add(
            ShardRow(
                name=here.names["shard"],
                path=f"{layout.shards.name}/{here.names['shard']}",
                day="20260101",
                number=1,
                job_id=MADE,
                ordinal=0,
                state="published",
                rows=8,
                size_bytes=len(LINES),
                created_at=now,
                published_at=now,
            )
        )
    await database.close()


async def upload(here: Shop, key: str) -> str:
    answer = await here.http.post(
        "/v1/files", files={"file": ("in.jsonl", batch_lines())}, data={"purpose": "batch"}, headers=stamped(key)
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def _owner_and_administrator(here: Shop, path: str) -> tuple[Any, Any]:
    """Read one after the other: what a pending job waits for may change between them."""
    own, all_of_them = await here.ask(MINE, "GET", path), await here.ask(ADMIN, "GET", path)
    assert own.status_code == all_of_them.status_code == 200, (path, own.text, all_of_them.text)
    return own.json(), all_of_them.json()


async def test_another_key_sees_nothing_and_an_administrator_everything(tmp_path: Path) -> None:
    async with shop(tmp_path) as here:
        traces = [SECRET, MINE, "private", *here.names.values()]
        for path in LISTS:
            empty = await here.ask(OTHER, "GET", path)
            assert empty.status_code == 200, (path, empty.text)
            assert [trace for trace in traces if trace in empty.text] == [], (path, empty.text)
            full, _ = await eventually(partial(_owner_and_administrator, here, path), lambda seen: seen[0] == seen[1])
            assert full != empty.json(), path
        # The other one first: nothing that is refused has changed anything.
        for (method, route), (path, body) in BY_NAME.items():
            refused = await here.ask(OTHER, method, path, body)
            assert refused.status_code == 404, (method, route, refused.text)
            assert SECRET not in refused.text
        for (method, route), (path, body) in BY_NAME.items():
            if route.endswith("/events"):
                continue
            assert (await here.ask(MINE, method, path, body)).status_code != 404, (method, route)


async def test_by_default_keys_of_one_scope_share_their_work(tmp_path: Path) -> None:
    async with shop(tmp_path, isolated=False) as here:
        for (method, route), (path, body) in BY_NAME.items():
            if not route.endswith("/events"):
                assert (await here.ask(OTHER, method, path, body)).status_code != 404, (method, route)
        assert SECRET in (await here.ask(OTHER, "GET", "/jobs")).text


async def test_a_job_reads_nothing_of_another_key(tmp_path: Path) -> None:
    async with shop(tmp_path) as here:
        layout = here.settings.layout
        (layout.base / "mine.jsonl").write_bytes(LINES)  # the operator's
        (layout.base / "link.jsonl").symlink_to(layout.runs / "data_gen" / MADE / "attempts.jsonl")
        for dataset in (
            "private",
            "private.jsonl",
            "./private",
            "x/../private",
            str(layout.datasets / "private.jsonl"),
        ):
            for body in (eval_of(dataset), eval_of("common", fewshot_dataset_ref=dataset, num_fewshot=1)):
                refused = await here.ask(OTHER, "POST", "/eval/jobs", body)
                assert refused.status_code == 404, (body, refused.text)
                assert "private.jsonl," not in refused.text
        missing = await here.ask(OTHER, "POST", "/eval/jobs", eval_of("nowhere"))
        assert "private" not in missing.text

        def generate(strategy: str, **config: Any) -> dict[str, Any]:
            return {"model_id": "active", "strategy": strategy, "config": {"num_samples": 1, **config}}

        template = {"prompt_template": "{{ question }}"}
        configs = [
            generate("fix_eval_failures", source_eval_run_id=here.names["eval"]),
            generate("custom", dataset_ref="private", **template),
            generate("custom", input=f"runs/data_gen/{MADE}/attempts.jsonl", **template),
            generate("custom", input=f"runs/eval/{here.names['eval']}/samples.jsonl", **template),
            generate("custom", input=f"train_shards_out/{here.names['shard']}", **template),
            generate("custom", input="datasets/private.jsonl", **template),
            generate("custom", input="link.jsonl", **template),
            generate("custom", input="mine.jsonl", judge={"calibration": "datasets/private.jsonl"}, **template),
            generate("self_instruct", seed_file=f"runs/data_gen/{MADE}/attempts.jsonl"),
            generate("self_instruct", quality={"known_sets": ["private"]}),
        ]
        for config in configs:
            refused = await here.ask(OTHER, "POST", "/data_gen/jobs", config)
            assert refused.status_code == 404, (config, refused.text)
        ends = {"user": "{{ doc.question }}", "assistant": "x"}
        for reading in (
            {"dataset_ref": "private"},
            {"input": f"runs/data_gen/{MADE}/attempts.jsonl"},
            {"input": "link.jsonl"},
        ):
            columns = [{"name": "doc", "kind": "rows", **reading}]
            previewed: dict[str, Any] = {"config": {"columns": columns, **ends}}
            for path, body in (
                ("/data_gen/jobs", generate("pipeline", columns=columns, **ends)),
                ("/data_gen/pipelines/preview", previewed),
            ):
                refused = await here.ask(OTHER, "POST", path, body)
                assert refused.status_code == 404, (body, refused.text)
                assert "config.columns.0." in refused.text
        seen = await here.ask(MINE, "POST", "/data_gen/pipelines/preview", previewed_of("private", ends))
        assert seen.status_code == 200, seen.text
        taken = await here.ask(OTHER, "POST", "/data_gen/jobs", generate("custom", input="mine.jsonl", **template))
        assert taken.status_code != 404, taken.text
        batch = {"input_file_id": here.names["file"], "endpoint": "/v1/chat/completions"}
        assert (await here.ask(OTHER, "POST", "/v1/batches", batch)).status_code == 404
        for promotion in (promotion_of("private"), promotion_of("common", baseline=here.names["eval"])):
            assert (await here.ask(OTHER, "POST", "/promotions", promotion)).status_code == 404
        switching = promotion_of("common", on_pass="activate")
        assert (await here.ask(OTHER, "POST", "/promotions", switching)).status_code == 403
        assert (await here.ask(ADMIN, "POST", "/promotions", switching)).status_code == 202
        claimed = await here.made(OTHER, "/shards/claim", {})
        assert claimed["shard"] is None


async def test_the_same_idempotency_key_and_the_same_work_are_each_keys_own(tmp_path: Path) -> None:
    async with shop(tmp_path) as here:
        asked = eval_of("common", model_id="other", max_samples=3)
        named = {"Idempotency-Key": "run-1"}
        first = await here.made(MINE, "/eval/jobs", asked, **named)
        second = await here.made(OTHER, "/eval/jobs", asked | {"max_samples": 4}, **named)
        assert first["job_id"] != second["job_id"]
        again = await here.made(MINE, "/eval/jobs", asked, **named)
        assert (again["job_id"], again["existing"]) == (first["job_id"], True)
        conflict = await here.ask(MINE, "POST", "/eval/jobs", asked | {"max_samples": 5}, **named)
        assert conflict.status_code == 409
        assert "'run-1'" in conflict.json()["detail"]
        deduplicated = await here.made(OTHER, "/eval/jobs", asked | {"dedupe": True})
        assert deduplicated["job_id"] != first["job_id"]
        assert (await here.made(MINE, "/eval/jobs", asked | {"dedupe": True}))["job_id"] == first["job_id"]


async def test_a_data_set_is_written_by_who_put_it(tmp_path: Path) -> None:
    async with shop(tmp_path) as here:

        async def put(key: str, name: str, content: bytes = LINES, **query: Any) -> int:
            answer = await here.http.put(f"/datasets/{name}", content=content, params=query, headers=stamped(key))
            return answer.status_code

        other = LINES + LINES
        assert await put(OTHER, "private.jsonl", other, replace=True) == 409
        assert await put(OTHER, "private.jsonl") == 409  # whether the content is the same is not told
        assert await put(OTHER, "common.jsonl", other, replace=True) == 409
        assert await put(OTHER, "common.jsonl") == 200
        assert await put(OTHER, "broken.jsonl", b"{") == 422
        assert await put(MINE, "broken.jsonl") == 201  # the name was free again
        assert await put(MINE, "private.jsonl", other, replace=True) == 201
        assert await put(ADMIN, "common.jsonl", other, replace=True) == 201
        assert (await here.ask(MINE, "DELETE", "/datasets/common")).status_code == 409
        for name, seen in (("private", 404), ("broken", 404), ("common", 200)):
            assert (await here.ask(OTHER, "GET", f"/datasets/{name}")).status_code == seen
            assert (await here.ask(ADMIN, "GET", f"/datasets/{name}")).status_code == 200
        assert (await here.ask(MINE, "DELETE", "/datasets/broken.jsonl")).json()["status"] == "deleted"
        assert await put(OTHER, "broken.jsonl") == 201  # and the name is nobody's


@pytest.mark.parametrize("forged", ["x-stepserve-key", "x-stepserve-scopes"])
def test_a_key_cannot_say_that_it_is_another(tmp_path: Path, forged: str) -> None:
    async def story(there: FullStack) -> None:
        key = await there.key(scopes=["jobs"])
        other = await there.key(scopes=["jobs"])
        put = await there.http.post(
            "/v1/files", files={"file": ("in.jsonl", batch_lines())}, data={"purpose": "batch"}, headers=bearer(key)
        )
        file_id = put.json()["id"]
        assert (await there.http.get(f"/v1/files/{file_id}", headers=bearer(key))).status_code == 200
        value = "admin" if forged.endswith("scopes") else key.split("_")[1]
        refused = await there.http.get(f"/v1/files/{file_id}", headers={forged: value, **bearer(other)})
        assert refused.status_code == 404

    run_story(tmp_path, story, access=AccessSettings(isolate_keys=True))
