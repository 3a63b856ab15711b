"""Datasets in, evals compared, scored again and lined up: control with real evals, the engine is told what to say."""

import asyncio
import gzip
import hashlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from control.app import create_app
from control.routes import contamination, datasets, evals
from datagen.contamination_reports import ContaminationReports
from evals.dataset_store import FileDatasetStore
from evals.judge import AllowedJudges
from evals.kind import EvalKind
from evals.reports import EvalReports
from stepserve.contract import BatchItem, BatchOutput
from tests.eventually import eventually
from tests.integration.control_plane import PACE, run_sql, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.migrated import place_database
from tests.unit.control.checkpoint_files import write_checkpoint

LINES = "".join(json.dumps({"question": f"What is {a}+1?", "answer": a + 1}) + "\n" for a in range(40))

EVAL: dict[str, Any] = {"model_id": "active", "name": "n", "dataset_ref": "sums"}
AWAY = "http://127.0.0.1:9"
JUDGED: dict[str, Any] = {"metrics": ["judge"], "judge": {"model": "big", "url": "http://169.254.169.254/v1"}}


class Desk:
    """Control's routes, and a gateway whose answers are right below `knows`."""

    def __init__(self, base: Path, http: httpx.AsyncClient, gateway: FakeGateway) -> None:
        self.base, self.http, self.gateway = base, http, gateway
        self.knows = 40
        gateway.answer = self._answer

    def _answer(self, item: BatchItem) -> BatchOutput:
        assert item.messages is not None
        number = int(item.messages[-1].content.split()[-1].split("+")[0])
        said = f"It is {number + 1}" if number < self.knows else f"It is {number}"
        return BatchOutput(text=said, finish_reason="stop", prompt_tokens=5, completion_tokens=3)

    async def put(self, name: str, body: bytes, **query: Any) -> httpx.Response:
        return await self.http.put(f"/datasets/{name}", content=body, params=query)

    async def activate(self, model_id: str, step: int) -> None:
        write_checkpoint(self.base / "models" / model_id, step)
        body = {"id": model_id, "source": "test", "step": step}
        (await self.http.post("/models/register", json=body)).raise_for_status()
        (await self.http.post("/models/set_active", json={"id": model_id})).raise_for_status()

    async def evaluate(self, status: str = "done", **fields: Any) -> str:
        body = {"model_id": "active", "name": "n", "dataset_ref": "sums", "metrics": ["numeric"], **fields}
        made = await self.http.post("/eval/jobs", json=body)
        assert made.status_code == 200, made.text
        job_id = str(made.json()["job_id"])

        async def look() -> Any:
            return (await self.http.get(f"/jobs/{job_id}")).json()

        job = await eventually(look, lambda job: job["status"] in ("done", "failed"))
        assert job["status"] == status, job["error"]
        return job_id


@asynccontextmanager
async def desk(base: Path) -> AsyncIterator[Desk]:
    settings = settings_of(base)
    routes = [
        contamination.router_of(ContaminationReports()),
        datasets.router_of(FileDatasetStore()),
        evals.router_of(EvalReports(AllowedJudges([AWAY]))),
    ]
    place_database(settings)
    app = create_app(settings, [EvalKind()], more_routes=routes, pace=PACE, job_poll_s=0.3)
    gateway = FakeGateway(settings.layout.gateway_socket)
    async with gateway.running(), app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240) as http:
            yield Desk(base, http, gateway)


def at_the_desk(test: Callable[[Desk], Awaitable[None]]) -> Callable[[Path], None]:
    async def run(base: Path) -> None:
        async with desk(base) as here:
            await test(here)

    def opened(tmp_path: Path) -> None:
        asyncio.run(run(tmp_path))

    opened.__name__ = str(getattr(test, "__name__", ""))
    return opened


@at_the_desk
async def test_a_dataset_is_put_once_and_listed(here: Desk) -> None:
    digest = f"sha256:{hashlib.sha256(LINES.encode()).hexdigest()}"
    made = await here.put("sums.jsonl", LINES.encode(), digest=digest)
    assert (made.status_code, made.json()["existing"]) == (201, False)
    again = await here.put("sums.jsonl", LINES.encode())
    assert (again.status_code, again.json()["existing"]) == (200, True)
    packed = await here.put("packed.jsonl.gz", gzip.compress(LINES.encode()))
    assert packed.status_code == 201, packed.text
    listed = (await here.http.get("/datasets")).json()["datasets"]
    assert [(one["name"], one["samples"], one["format"]) for one in listed] == [
        ("packed.jsonl.gz", 40, "question_answer"),
        ("sums.jsonl", 40, "question_answer"),
    ]
    assert listed[1]["digest"] == digest
    assert (await here.http.get("/datasets/sums")).json() == listed[1]


@at_the_desk
async def test_other_content_needs_replace(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    other = b'{"question": "q", "answer": 1}\n'
    refused = await here.put("sums.jsonl", other)
    assert refused.status_code == 409
    assert "replace=true" in refused.json()["detail"]
    assert (await here.http.get("/datasets/sums")).json()["samples"] == 40
    assert (await here.put("sums.jsonl", other, replace=True)).status_code == 201
    assert (await here.http.get("/datasets/sums")).json()["samples"] == 1


@at_the_desk
async def test_what_cannot_be_put_names_the_line_and_leaves_nothing(here: Desk) -> None:
    for name, body, query, detail in (
        ("a.jsonl", b'{"a": 1}\n{"a"\n', {}, "a.jsonl, line 2: broken JSON"),
        ("a.jsonl", b'{"a": "\xff"}\n', {}, "a.jsonl, line 1: not UTF-8"),
        ("a.jsonl", b"\n", {}, "a.jsonl: has no samples"),
        ("a.jsonl.gz", b'{"a": 1}\n', {}, "but the body is no gzip"),
        ("a.jsonl", gzip.compress(b'{"a": 1}\n'), {}, "but the body is gzip"),
        ("a.jsonl.gz", gzip.compress(LINES.encode())[:-20], {}, "broken gzip"),
        ("a.jsonl", b'{"a": 1}\n', {"digest": "0" * 64}, "digest: the body that came is sha256:"),
        ("a.txt", b'{"a": 1}\n', {}, "must be letters, digits"),
        ("..%2Fa.jsonl", b'{"a": 1}\n', {}, "must be letters, digits"),
        ("x/a.jsonl", b'{"a": 1}\n', {}, "must be letters, digits"),
    ):
        refused = await here.put(name, body, **query)
        assert refused.status_code == 422, (name, refused.text)
        assert detail in refused.json()["detail"]
    assert list((here.base / "datasets").iterdir()) == []


@at_the_desk
async def test_a_dataset_of_unknown_keys_is_kept_and_says_so(here: Desk) -> None:
    put = await here.put("odd.jsonl", b'{"q": "2+1?", "a": 3}\n')
    assert put.status_code == 201
    assert put.json()["format"] is None
    assert "a field_map can name them" in put.json()["error"]
    (here.base / "datasets" / "out.jsonl").symlink_to("/etc/passwd")
    assert [one["name"] for one in (await here.http.get("/datasets")).json()["datasets"]] == ["odd.jsonl"]
    await here.activate("a", 1)
    here.gateway.answer = lambda _: BatchOutput(text="3", finish_reason="stop")
    await here.evaluate(dataset_ref="odd", field_map={"question": "q", "answer": "a"})


@at_the_desk
async def test_a_dataset_is_removed_when_no_job_reads_it(here: Desk) -> None:
    await here.activate("early", 100)
    await here.activate("late", 200)
    folder = here.base / "datasets"
    for name in ("sums.jsonl", "shots.jsonl", "spare.jsonl"):
        await here.put(name, LINES.encode())
    (folder / "other.jsonl").symlink_to("spare.jsonl")
    done = await here.evaluate()
    fewshot = {"num_fewshot": 1, "fewshot_dataset_ref": str(folder / "shots.jsonl")}
    waiting = await here.http.post("/eval/jobs", json={**EVAL, "model_id": "early", "when_inactive": "wait", **fewshot})
    job_id = waiting.json()["job_id"]
    for name in ("sums", "shots.jsonl"):
        refused = await here.http.delete(f"/datasets/{name}")
        assert (refused.status_code, job_id in refused.json()["detail"]) == (409, True), refused.text
    (await here.http.post(f"/jobs/{job_id}/cancel")).raise_for_status()
    removed = await here.http.delete("/datasets/sums")
    assert removed.json() == {"status": "deleted", "name": "sums.jsonl"}
    assert (await here.http.get(f"/eval/jobs/{done}/report")).status_code == 200
    assert (await here.http.delete("/datasets/other")).json()["name"] == "other.jsonl"  # the link alone
    assert {path.name for path in folder.glob("*.jsonl")} == {"shots.jsonl", "spare.jsonl"}
    for name in ("sums", ".versions", quote(f".versions/{next((folder / '.versions').iterdir()).name}/versions.jsonl")):
        assert (await here.http.delete(f"/datasets/{name}")).status_code == 404, name
    assert (await here.http.delete("/datasets/..%2F..%2Fpasswd")).status_code == 422


@at_the_desk
async def test_two_checkpoints_compared_and_lined_up(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    await here.activate("late", 200)
    late = await here.evaluate()
    await here.activate("early", 100)
    here.knows = 25
    early = await here.evaluate()
    other = await here.evaluate(max_samples=10)
    report = (await here.http.get("/eval/compare", params={"a": early, "b": late})).json()
    assert (report["metric"], report["paired"], report["fixed"], report["broken"]) == ("numeric", 40, 15, 0)
    assert report["mcnemar_p"] < 0.001
    assert report["difference"] == 15 / 40
    assert report["differs"] == []
    points = (await here.http.get("/eval/history", params={"dataset": "sums"})).json()["points"]
    line = [point for point in points if point["series"] == points[0]["series"]]
    assert sorted((point["step"], point["accuracy"]) for point in points) == [(100, 25 / 40), (100, 1.0), (200, 1.0)]
    assert {point["job_id"] for point in points} == {late, early, other}
    assert len({point["series"] for point in points}) == 2
    assert [point["step"] for point in line] == sorted(point["step"] for point in line)
    assert (await here.http.get("/eval/history", params={"dataset": "none"})).json()["points"] == []
    await here.put("others.jsonl", LINES.encode())
    await here.evaluate(dataset_ref="others")
    newest = (await here.http.get("/eval/history", params={"dataset": "sums", "limit": 1})).json()
    assert ([point["job_id"] for point in newest["points"]], newest["total"]) == ([other], 3), "before it is limited"
    page = (await here.http.get("/eval/history", params={"dataset": "sums.jsonl", "limit": 2, "offset": 1})).json()
    assert {point["job_id"] for point in page["points"]} == {late, early}
    await run_sql(here.base, f"UPDATE jobs SET config = '{{nope' WHERE id = '{other}'")
    found = (await here.http.get("/eval/history", params={"dataset": "sums"})).json()
    assert found["total"] == 2, "one odd row hides no other"


@at_the_desk
async def test_questions_of_one_document_say_less_than_as_many_of_their_own(here: Desk) -> None:
    lines = [{"question": f"What is {a}+1?", "answer": a + 1, "page": a // 10} for a in range(40)]
    await here.put("sums.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    await here.activate("late", 200)
    late = await here.evaluate(cluster_by="page")
    plain = await here.evaluate()
    here.knows = 25
    early = await here.evaluate(cluster_by="page")
    reports = [(await here.http.get("/eval/compare", params={"a": early, "b": b})).json() for b in (late, plain)]
    assert [report["clusters"] for report in reports] == [4, 4]
    bare = await here.evaluate()
    alone = (await here.http.get("/eval/compare", params={"a": bare, "b": plain})).json()
    assert (alone["clusters"], alone["difference"]) == (None, reports[0]["difference"])
    assert reports[0]["stderr"] > 2 * alone["stderr"]
    assert reports[0]["t_p"] > 0.05 > alone["t_p"]
    assert reports[0]["p"] == reports[0]["t_p"]
    assert alone["p"] == alone["mcnemar_p"] < 0.05
    low, high = reports[0]["difference_ci95"]
    assert low < 0 < alone["difference_ci95"][0], "the pages alone may have been easy"
    assert high > alone["difference_ci95"][1]


@at_the_desk
async def test_scored_again_without_the_engine(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    await here.activate("a", 1)
    first, second = await here.evaluate(), await here.evaluate()
    here.gateway.batches.clear()
    described = (await here.http.get("/openapi.json")).json()["paths"]["/eval/jobs/{job_id}/rescore"]["post"]
    asked = described["requestBody"]["content"]["application/json"]["schema"]
    assert (set(asked["properties"]), asked["required"]) == ({"metrics", "judge"}, ["metrics"])
    rescored = await here.http.post(f"/eval/jobs/{first}/rescore", json={"metrics": ["math", "f1", "accuracy"]})
    assert rescored.status_code == 200, rescored.text
    result = rescored.json()
    assert (result["metrics"]["math"]["mean"], result["metrics"]["accuracy"]["mean"]) == (1.0, 0.0)
    assert 0 < result["metrics"]["f1"]["mean"] < 1
    assert here.gateway.batches == []
    assert (await here.http.get(f"/jobs/{first}")).json()["result"]["accuracy_metric"] == "numeric"
    again = await here.http.post(f"/eval/jobs/{first}/rescore", json={"metrics": ["accuracy", "f1", "math"]})
    assert again.json() == result
    query = {"a": first, "b": second, "metric": "math"}
    refused = await here.http.get("/eval/compare", params=query)
    assert refused.status_code == 409
    assert f"/eval/jobs/{second}/rescore" in refused.json()["detail"]
    await here.http.post(f"/eval/jobs/{second}/rescore", json={"metrics": ["math"]})
    assert (await here.http.get("/eval/compare", params=query)).json()["paired"] == 40


@at_the_desk
async def test_an_eval_of_errors_fails_and_is_no_point(here: Desk) -> None:
    await here.put("sums.jsonl", b"".join(b'{"question": "What is %d+1?", "answer": 1}\n' % a for a in range(5000)))
    await here.activate("a", 1)
    here.gateway.answer = lambda _: BatchOutput(error="no chat template")
    failed = await here.evaluate("failed", max_samples=5000)
    job = (await here.http.get(f"/jobs/{failed}")).json()
    assert job["result"] is None
    assert job["error"].endswith("no chat template")
    assert sum(len(batch.items) for batch in here.gateway.batches) < 2500, "the rest of them was not asked"
    assert (await here.http.get("/eval/history")).json()["points"] == []


@at_the_desk
async def test_a_few_errors_are_shown_and_count_neither_way(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    await here.activate("a", 1)
    answer = here.gateway.answer
    here.gateway.answer = lambda item: BatchOutput(error="no") if "What is 7+1?" in str(item) else answer(item)
    await here.evaluate("failed")
    done = await here.evaluate(max_error_share=0.03)
    (point,) = (await here.http.get("/eval/history")).json()["points"]
    assert (point["job_id"], point["accuracy"], point["total_samples"], point["errors"]) == (done, 1.0, 40, 1)


def _as_an_older_version(database: Path, job_id: str) -> None:
    with closing(sqlite3.connect(database, timeout=240)) as connection, connection:
        (result,) = connection.execute("SELECT result FROM jobs WHERE id = ?", (job_id,)).fetchone()
        changed = json.loads(result) | {"accuracy": 0.0, "engine_errors": 40}
        del changed["errors"]
        connection.execute("UPDATE jobs SET result = ? WHERE id = ?", (json.dumps(changed), job_id))


@at_the_desk
async def test_a_run_of_errors_that_an_older_version_called_done_is_left_out(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    await here.activate("a", 1)
    good, old = await here.evaluate(), await here.evaluate()
    # In a thread: control, in this loop, may have a transaction open that the change waits for.
    await asyncio.to_thread(_as_an_older_version, settings_of(here.base).layout.database, old)
    history = (await here.http.get("/eval/history")).json()
    assert [point["job_id"] for point in history["points"]] == [good]
    assert [(one["job_id"], one["reason"]) for one in history["left_out"]] == [
        (old, "40 of its 40 samples have no result (max_error_share is 0.02)")
    ]
    compared = await here.http.get("/eval/compare", params={"a": good, "b": old})
    assert compared.status_code == 409
    assert compared.json()["detail"].startswith(f"b: {old} does not name its model: 40 of its 40 samples")


@at_the_desk
async def test_a_judge_that_is_away_gives_no_verdict(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    await here.activate("a", 1)
    done = await here.evaluate()
    body = {"metrics": ["judge"], "judge": {"model": "j", "url": AWAY}}
    rescored = await here.http.post(f"/eval/jobs/{done}/rescore", json={"metrics": ["judge"]} | body)
    assert rescored.status_code == 409
    assert "cannot be connected to" in rescored.json()["detail"]
    assert not (here.base / "runs" / "eval" / done / "rescored").exists()


@at_the_desk
async def test_what_cannot_be_reported_says_why(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    await here.activate("a", 1)
    done, bare = await here.evaluate(), await here.evaluate(per_example_logging=False)
    for path, body, status, detail in (
        (f"/eval/jobs/{done}/rescore", {"metrics": ["bleurt"]}, 422, "metrics: unknown metric 'bleurt'"),
        (f"/eval/jobs/{done}/rescore", {"metrics": []}, 422, "metrics: "),
        (f"/eval/jobs/{done}/rescore", {"metric": ["f1"]}, 422, "metrics: "),
        (f"/eval/jobs/{done}/rescore", {"metrics": ["acc"]}, 422, "acc does not fit sample 1: it has no choices"),
        (
            f"/eval/jobs/{done}/rescore",
            JUDGED,
            422,
            "judge.url: http://169.254.169.254/v1 is not allowed: .*judge_urls",
        ),
        ("/eval/jobs", {**EVAL, **JUDGED}, 422, "judge.url: http://169.254.169.254/v1 is not allowed: .*judge_urls"),
        (f"/eval/jobs/{bare}/rescore", {"metrics": ["f1"]}, 409, "kept no samples"),
        ("/eval/jobs/eval_none/rescore", {"metrics": ["f1"]}, 404, "no eval job is called 'eval_none'"),
    ):
        refused = await here.http.post(path, json=body)
        assert refused.status_code == status, refused.text
        assert re.search(detail, refused.json()["detail"])
    compared = await here.http.get("/eval/compare", params={"a": done, "b": "eval_none"})
    assert (compared.status_code, compared.json()["detail"][:2]) == (404, "b:")


@at_the_desk
async def test_an_eval_can_be_mailed_as_one_file(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    await here.activate("a", 1)
    here.knows = 25
    hostile = "<script>alert(1)</script> | "
    answer = here.gateway.answer
    here.gateway.answer = lambda item: (told := answer(item)).model_copy(update={"text": hostile + told.text})
    done, bare = await here.evaluate(), await here.evaluate(per_example_logging=False)
    page = await here.http.get(f"/eval/jobs/{done}/report")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text
    assert "wrong: 15" in page.text
    assert page.text.count("<svg") == 2
    text = (await here.http.get(f"/eval/jobs/{done}/report?format=markdown")).text
    assert "numeric 0.625 on sums.jsonl, 40 questions." in text
    assert "What is 39+1?" in text
    short = (await here.http.get(f"/eval/jobs/{bare}/report?format=markdown")).text
    assert "What is 39+1?" not in short
    assert "0.625" in short
    assert (await here.http.get("/eval/jobs/eval_none/report")).status_code == 404


@at_the_desk
async def test_a_suite_that_tells_nobody_apart_says_so(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    await here.activate("a", 1)
    everything = await here.evaluate()
    here.knows = 0
    nothing = await here.evaluate()
    here.knows = 20
    half = await here.evaluate()
    points = (await here.http.get("/eval/history")).json()["points"]
    told = {point["job_id"]: point["saturated"] for point in points}
    assert told == {everything: "all", nothing: "none", half: None}
    report = (await here.http.get(f"/eval/jobs/{everything}/report?format=markdown")).text
    assert "Saturated: all of the questions are right, so models cannot be told apart." in report


@at_the_desk
async def test_a_dataset_tells_what_changed_and_which_evals_saw_it(here: Desk) -> None:
    rows = [{"id": f"q{a}", "question": f"What is {a}+1?", "answer": a + 1} for a in range(40)]

    async def put(content: list[dict[str, Any]], **query: Any) -> str:
        return str((await here.put("sums.jsonl", "".join(map(_line, content)).encode(), **query)).json()["digest"])

    first = await put(rows)
    await here.activate("a", 1)
    before = await here.evaluate()
    second = await put([{**rows[0], "answer": 9}, *rows[2:], {**rows[1], "id": "new"}], replace="true")
    after = await here.evaluate()
    told = (await here.http.get("/datasets/sums/versions")).json()
    assert (told["name"], told["digest"]) == ("sums.jsonl", second)
    newest, oldest = told["versions"]
    assert (newest["digest"], newest["changes"]) == (second, {"added": 1, "removed": 1, "changed": 1})
    assert (oldest["digest"], oldest["changes"], oldest["rows"]) == (first, None, 40)
    assert (newest["evals"], oldest["evals"], told["not_seen"]) == ([after], [before], [])
    (here.base / "datasets" / "sums.jsonl").write_text(LINES)  # by hand
    assert len((await here.http.get("/datasets/sums.jsonl/versions")).json()["versions"]) == 3
    assert [one["name"] for one in (await here.http.get("/datasets")).json()["datasets"]] == ["sums.jsonl"]
    assert (await here.http.get("/datasets/none/versions")).status_code == 404


@at_the_desk
async def test_what_of_a_dataset_is_in_training_text(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    trained = [{"text": "Once upon a time."}, {"messages": [{"role": "user", "content": "what is 7 + 1"}]}]
    await here.put("trained.jsonl", "".join(map(_line, trained)).encode())
    clean = (await here.http.get("/datasets/sums/contamination")).json()
    assert (clean["dataset"], clean["contaminated"], clean["sources"]) == ("sums.jsonl", 0, [])
    for _ in range(2):  # made, and kept
        told = (await here.http.get("/datasets/sums/contamination?against=trained")).json()
        assert (told["contaminated"], told["share"]) == (1, 1 / 40)
        (leak,) = told["questions"]
        assert (leak["question"], leak["source"], leak["line"]) == ("What is 7+1?", "trained.jsonl", 2)
    assert told["sources"][0]["rows"] == 2
    left = here.base / "datasets" / ".contamination-killed"
    left.mkdir()
    await here.put("more.jsonl", LINES.encode())
    assert (await here.http.get("/datasets/more/contamination")).status_code == 200
    assert not left.exists()
    for query, status, said in (
        ("against=none", 404, "against: "),
        ("against=sums", 422, "against: sums is the dataset itself"),
    ):
        refused = await here.http.get(f"/datasets/sums/contamination?{query}")
        assert (refused.status_code, refused.json()["detail"].startswith(said)) == (status, True)


@at_the_desk
async def test_questions_that_are_answered_otherwise_each_time_are_named(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    await here.activate("a", 1)
    answer, first = here.gateway.answer, await here.evaluate()
    alone = (await here.http.get(f"/eval/jobs/{first}/flaky")).json()
    assert (alone["compared_with"], alone["flaky"]) == ([], 0)

    def otherwise(item: BatchItem) -> BatchOutput:
        told = answer(item)
        change = {"What is 3+1?": "It is 5", "What is 4+1?": "5, of course, is 5"}
        return told.model_copy(update={"text": change.get(str(item.messages and item.messages[-1].content), told.text)})

    here.gateway.answer = otherwise
    second = await here.evaluate()
    await here.evaluate(max_samples=10)  # another series
    told = (await here.http.get(f"/eval/jobs/{first}/flaky")).json()
    assert (told["compared_with"], told["flaky"]) == ([second], 2)
    assert [one["differs"] for one in told["questions"]] == ["verdict", "answer"]
    assert told["questions"][0]["answers"] == {first: "It is 4", second: "It is 5"}
    for job_id in (first, second):
        shown = (await here.http.get(f"/eval/jobs/{job_id}/samples?limit=40")).json()["samples"]
        marked = {one["input"]: one["flaky"] for one in shown if one["flaky"]}
        assert marked == {"What is 3+1?": "verdict", "What is 4+1?": "answer"}


def _line(row: object) -> str:
    return json.dumps(row) + "\n"


@at_the_desk
async def test_a_run_goes_out_in_other_formats_and_comes_back_the_same(here: Desk) -> None:
    await here.put("sums.jsonl", LINES.encode())
    await here.activate("a", 1)
    here.knows = 25
    done = await here.evaluate()
    for out, back in (("inspect", "inspect"), ("lm_eval_samples", "lm_eval")):
        file = await here.http.get(f"/eval/jobs/{done}/export", params={"format": out})
        assert "attachment" in file.headers["content-disposition"]
        query = {"model_id": "a", "format": back, "name": f"from {back}"}
        made = await here.http.post("/eval/imports", content=file.content, params=query)
        assert made.status_code == 201, made.text
        taken = made.json()
        assert (taken["status"], taken["result"]["accuracy"]) == ("done", 25 / 40)
        compared = (await here.http.get("/eval/compare", params={"a": done, "b": taken["job_id"]})).json()
        assert (compared["paired"], compared["fixed"], compared["broken"]) == (40, 0, 0)
        samples = (await here.http.get(f"/eval/jobs/{taken['job_id']}/samples?verdict=wrong")).json()
        assert samples["total"] == 15
        assert samples["samples"][0]["prediction"] == "It is 25"
    results = (await here.http.get(f"/eval/jobs/{done}/export?format=lm_eval")).json()
    assert results["results"]["sums"]["numeric,none"] == 25 / 40
    assert results["n-samples"]["sums"] == {"original": 40, "effective": 40}


@at_the_desk
async def test_a_run_of_no_words_and_a_name_of_other_letters_can_be_shown(here: Desk) -> None:
    await here.activate("a", 1)
    sample = {"id": 1, "input": [], "target": "t", "scores": {"match": {"value": "C"}}}
    log = {"status": "success", "eval": {"task": "算数"}, "samples": [sample]}
    query = {"model_id": "a", "format": "inspect"}
    made = await here.http.post("/eval/imports", content=json.dumps(log), params=query)
    assert made.status_code == 201, made.text
    job = made.json()["job_id"]
    assert (await here.http.get(f"/eval/jobs/{job}/report")).status_code == 200
    turns = {"doc_id": 0, "doc": {"question": [{"said": "x"}]}, "target": "2", "match": 1.0, "metrics": ["match"]}
    query = {"model_id": "a", "format": "lm_eval"}
    other = (await here.http.post("/eval/imports", content=json.dumps(turns), params=query)).json()["job_id"]
    assert (await here.http.get(f"/eval/jobs/{other}/samples?text=2")).json()["total"] == 1
    file = await here.http.get(f"/eval/jobs/{job}/export")
    assert (file.status_code, f"___{job}.json" in file.headers["content-disposition"]) == (200, True)


@at_the_desk
async def test_a_log_that_cannot_be_taken_in_says_why(here: Desk) -> None:
    await here.activate("a", 1)
    line = {"doc_id": 0, "doc": {}, "target": "2", "filtered_resps": ["2"], "bleu": 0.4, "metrics": ["bleu"]}
    graded = {**line, "metrics": ["odd"], "odd": 0.5}
    score = {"id": 1, "input": "q", "target": "t", "scores": {"match": {"value": "C"}}}
    log = {"status": "success", "eval": {"task": "t"}, "samples": [score, score]}

    def odd(facts: dict[str, Any]) -> dict[str, Any]:
        return {**log, "samples": [score | facts]}

    for model_id, form, body, metric, status, said in (
        ("b", "inspect", log, None, 404, "'b'"),
        ("a", "inspect", {}, None, 422, "is not an inspect-ai log in JSON"),
        ("a", "inspect", {**log, "status": "error"}, None, 422, "the run is 'error'"),
        ("a", "inspect", log, "other", 422, "no score is called 'other'; there are match"),
        ("a", "inspect", log, None, 422, "two of its samples have the same id"),
        ("a", "lm_eval", {"id": 1}, None, 422, "line 1 is not of lm-eval's samples file"),
        ("a", "lm_eval", graded, None, 422, "'odd' is graded, and not a metric of ours"),
        ("a", "lm_eval", {**line, "bleu": 40.0}, None, 422, "must lie between 0 and 1"),
        ("a", "csv", line, None, 422, "format"),
        ("a", "inspect", odd({"scores": [1]}), None, 422, "is not as inspect writes it"),
        ("a", "inspect", odd({"scores": {"match": 1}}), None, 422, "is not as inspect writes it"),
        ("a", "inspect", odd({"output": "x"}), None, 422, "is not as inspect writes it"),
        ("a", "inspect", odd({"input": ["x"]}), None, 422, "is not as inspect writes it"),
        ("a", "inspect", odd({"scores": {"match": {"value": 10**400}}}), None, 422, "is not as inspect writes it"),
        ("a", "inspect", odd({"target": "\ud800"}), None, 422, "holds what cannot be written"),
        ("a", "inspect", {**log, "samples": [score], "eval": {"task": "x" * 5000}}, None, 422, "at most 4096"),
        ("a", "lm_eval", {**line, "bleu": 10**400}, None, 422, "is not as lm_eval writes it"),
    ):
        query = {"model_id": model_id, "format": form} | ({} if metric is None else {"metric": metric})
        answer = await here.http.post("/eval/imports", content=json.dumps(body), params=query)
        assert answer.status_code == status, answer.text
        assert said in answer.text
    assert (await here.http.get("/jobs?type=eval")).json()["jobs"] == []
    assert not list((here.base / "runs" / "eval").glob("*"))
