"""Files and batches through control, with a gateway that answers as it is told."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.batches.answers import Answers
from control.batches.requests import Line
from stepserve.contract import AskItem, AskOutput
from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control, control_plane
from tests.integration.long_lived import LongLived, long_lived

ENDPOINT = "/v1/chat/completions"


def line(number: int, **changed: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": str(number)}]}
    return {"custom_id": f"r{number}", "method": "POST", "url": ENDPOINT, "body": body} | changed


def jsonl(*lines: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def upload(opened: ControlPlane, content: bytes, name: str = "in.jsonl") -> str:
    response = await opened.http.post("/v1/files", files={"file": (name, content)}, data={"purpose": "batch"})
    assert response.status_code == 200, response.text
    file_id: str = response.json()["id"]
    return file_id


async def batch_of(opened: ControlPlane, content: bytes) -> Any:
    file_id = await upload(opened, content)
    return await opened.post("/v1/batches", input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h")


async def ended(opened: ControlPlane, batch_id: str) -> Any:
    over = {"completed", "failed", "cancelled"}
    return await eventually(lambda: opened.get(f"/v1/batches/{batch_id}"), lambda batch: batch["status"] in over)


async def answers_of(opened: ControlPlane, file_id: str) -> dict[str, Any]:
    response = await opened.http.get(f"/v1/files/{file_id}/content")
    return {each["custom_id"]: each["response"] for each in map(json.loads, response.text.splitlines())}


async def test_a_file_goes_in_and_out_unchanged(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as opened:
        content = b"\x00\xff any bytes \n" * 100_000
        file_id = await upload(opened, content, "päth/../naïve.jsonl")
        shown = await opened.get(f"/v1/files/{file_id}")
        assert (shown["bytes"], shown["filename"]) == (len(content), "päth/../naïve.jsonl")
        assert (await opened.http.get(f"/v1/files/{file_id}/content")).content == content
        assert [each["id"] for each in (await opened.get("/v1/files?purpose=batch"))["data"]] == [file_id]
        assert (await opened.get("/v1/files?purpose=evals"))["data"] == []
        assert (await opened.http.delete(f"/v1/files/{file_id}")).json()["deleted"] is True
        assert (await opened.http.get(f"/v1/files/{file_id}")).status_code == 404
        assert not list(opened.layout.files.iterdir())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongLived[ControlPlane]]:
    """Takes files of 4 KiB at most."""
    with long_lived(control_plane(tmp_path_factory.mktemp("small"), max_file_bytes=4096)) as opened:
        yield opened


@pytest.fixture(scope="module")
def with_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongLived[ControlPlane]]:
    with long_lived(control_plane(tmp_path_factory.mktemp("with_model"))) as opened:
        opened.run(opened.here.add_active("m"))
        yield opened


@pytest.mark.parametrize(
    ("files", "data", "named"),
    [
        ({"file": ("x", b"")}, {"purpose": "batch"}, "file"),
        ({"file": ("x", b"1")}, {"purpose": "fun"}, "purpose"),
        ({"file": ("x", b"1")}, {}, "purpose"),
        ({}, {"purpose": "batch"}, "file"),
        ({"file": ("x", b"1")}, {"purpose": "batch", "colour": "red"}, "colour"),
        ({"file": ("x", b"1" * 5000)}, {"purpose": "batch"}, "max_file_bytes"),
    ],
)
def test_an_upload_is_refused_in_openais_envelope(
    small: LongLived[ControlPlane], files: dict[str, Any], data: dict[str, str], named: str
) -> None:
    async def scenario() -> None:
        response = await small.here.http.post("/v1/files", files=files or None, data=data)
        assert response.status_code == 400
        assert named in response.json()["error"]["message"]
        assert not list(small.here.layout.files.iterdir())

    small.run(scenario())


@pytest.mark.parametrize("file_id", ["../db.sqlite", "file-x", "file-batch_20250101_000000_aaaa-output", "%2e%2e%2fx"])
def test_a_file_that_is_not_there(small: LongLived[ControlPlane], file_id: str) -> None:
    async def scenario() -> None:
        for method, suffix in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            response = await small.here.http.request(method, f"/v1/files/{file_id}{suffix}")
            assert response.status_code in (404, 405)

    small.run(scenario())


@pytest.mark.usefixtures("each_database")
async def test_a_batch_answers_each_line_by_its_custom_id(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as opened:
        await opened.add_active("m")
        opened.gateway.reply = lambda item: (
            AskOutput(status=400, body={"error": {"message": "no"}})
            if item.body["messages"][0]["content"] == "7"
            else AskOutput(status=200, body={"said": item.body["messages"][0]["content"]})
        )
        batch = await batch_of(opened, jsonl(*(line(number) for number in range(100))) + b"\n\n")
        assert batch["object"] == "batch"
        assert batch["request_counts"]["total"] == 100
        batch = await ended(opened, batch["id"])
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 100, "completed": 99, "failed": 1}
        answers = await answers_of(opened, batch["output_file_id"])
        assert {key: value["body"]["said"] for key, value in answers.items()} == {
            f"r{number}": str(number) for number in range(100) if number != 7
        }
        refused = await answers_of(opened, batch["error_file_id"])
        assert refused["r7"]["status_code"] == 400
        assert (await opened.get(f"/jobs/{batch['id']}"))["result"] == {"total": 100, "completed": 99, "failed": 1}
        listed = await opened.get("/v1/files")
        assert {each["id"] for each in listed["data"]} >= {batch["output_file_id"], batch["error_file_id"]}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "file: is empty"),
        (b"{\n", "line 1"),
        (jsonl(line(1), line(1)), "line 2: custom_id 'r1' was used before"),
        (jsonl(line(1), line(2, url="/v1/completions")), "line 2: url"),
        (jsonl(line(1, method="GET")), "line 1: method"),
        (jsonl(line(1, custom_id=7)), "line 1: custom_id"),
        (jsonl(line(1, body=[])), "line 1: body"),
        (jsonl(line(1, body={"messages": []})), "line 1: body.model"),
        (jsonl(line(1, body={"model": "m", "stream": True})), "line 1: body.stream"),
        (jsonl(line(1), line(2, body={"model": "m", "n": 257})), "line 2: body.n: 1 prompts with 257 answers"),
        (jsonl(line(1, body={"model": "m", "prompt": ["x"] * 26, "n": 10})), "line 1: body.n: 26 prompts"),
        (jsonl(line(1, body={"model": "m" * 1000})), "line 1: body.model"),
        (jsonl(line(1), line(2, body={"model": "other"})), "line 2: a batch asks one model"),
        (b'{"custom_id": "a", "x": ' + b"[" * 100_000 + b"\n", "line 1"),
        (b"\xff\xfe\n", "line 1"),
        (jsonl(line(1, body={"model": "nobody"})), "nobody"),
    ],
)
def test_an_input_file_that_is_no_batch(with_model: LongLived[ControlPlane], content: bytes, named: str) -> None:
    async def scenario() -> None:
        opened = with_model.here
        response = await opened.http.post("/v1/files", files={"file": ("in", content)}, data={"purpose": "batch"})
        if response.status_code == 200:
            asked = {"input_file_id": response.json()["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
            response = await opened.http.post("/v1/batches", json=asked)
        assert response.status_code in (400, 404)
        assert named in response.json()["error"]["message"]
        assert (await opened.get("/v1/batches"))["data"] == []

    with_model.run(scenario())


@pytest.mark.usefixtures("each_database")
async def test_a_cancelled_batch_keeps_what_was_answered(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as opened:
        await opened.add_active("m")
        may_go_on = asyncio.Event()

        async def hold(item: AskItem) -> None:
            if int(item.body["messages"][0]["content"]) >= 16:
                await may_go_on.wait()

        opened.gateway.before_reply = hold
        batch = await batch_of(opened, jsonl(*(line(number) for number in range(64))))
        await eventually(
            lambda: opened.get(f"/v1/batches/{batch['id']}"),
            lambda shown: (
                (opened.layout.runs / "batch" / batch["id"] / "output.jsonl").exists()
                and (opened.layout.runs / "batch" / batch["id"] / "output.jsonl").stat().st_size > 0
            ),
        )
        in_use = await opened.http.delete(f"/v1/files/{batch['input_file_id']}")
        assert in_use.status_code == 409
        shown = await opened.post(f"/v1/batches/{batch['id']}/cancel")
        assert shown["status"] == "cancelled"
        again = await opened.post(f"/v1/batches/{batch['id']}/cancel")
        assert again["cancelled_at"] == shown["cancelled_at"]
        assert set(await answers_of(opened, again["output_file_id"])) == {f"r{number}" for number in range(16)}
        assert (await opened.http.delete(f"/v1/files/{batch['input_file_id']}")).status_code == 200


@pytest.mark.usefixtures("each_database")
async def test_a_batch_goes_on_where_its_control_was_stopped(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as opened:
        await opened.add_active("m")
        stuck = asyncio.Event()

        async def hold(item: AskItem) -> None:
            if int(item.body["messages"][0]["content"]) >= 32:
                await stuck.wait()

        opened.gateway.before_reply = hold
        batch = await batch_of(opened, jsonl(*(line(number) for number in range(64))))
        output = opened.layout.runs / "batch" / batch["id"] / "output.jsonl"
        await eventually(
            lambda: opened.get(f"/v1/batches/{batch['id']}"),
            lambda _: output.exists() and output.read_bytes().count(b"\n") == 32,
        )
    with output.open("ab") as file:
        file.write(b'{"custom_id": "torn')
    asked: list[str] = []

    async def note(item: AskItem) -> None:
        asked.append(item.body["messages"][0]["content"])

    opened.gateway.before_reply = note
    async with opened.gateway.running(), control(tmp_path, opened.gateway) as again:
        done = await ended(again, batch["id"])
        assert done["request_counts"] == {"total": 64, "completed": 64, "failed": 0}
        assert sorted(map(int, asked)) == list(range(32, 64))
        assert len(await answers_of(again, done["output_file_id"])) == 64


@pytest.mark.usefixtures("each_database")
async def test_batches_are_listed_page_by_page(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as opened:
        await opened.add_active("m")
        made = [(await batch_of(opened, jsonl(line(number))))["id"] for number in range(5)]
        seen: list[str] = []
        after = ""
        while True:
            shown = await opened.get(f"/v1/batches?limit=2{after}")
            seen += [batch["id"] for batch in shown["data"]]
            if not shown["has_more"]:
                break
            after = f"&after={shown['last_id']}"
        assert seen == made[::-1]
        assert (await opened.http.get("/v1/batches?after=batch_nope")).status_code == 404


async def test_a_queued_request_becomes_a_job_whose_result_is_its_answer(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as opened:
        await opened.add_active("m")
        opened.gateway.reply = lambda item: AskOutput(status=200, body={"text": item.body["prompt"], "at": item.path})
        made = await opened.post("/inference/jobs", model_id="active", request={"prompt": "hello"})
        job = await opened.job(made["job_id"], "done")
        assert job["result"] == {"text": "hello", "at": "/generate"}
        opened.gateway.reply = lambda item: AskOutput(status=400, body={"detail": "too long"})
        made = await opened.post("/inference/jobs", model_id="active", request={"prompt": "hello"})
        assert "too long" in (await opened.job(made["job_id"], "failed"))["error"]


def test_answers_with_text_that_is_no_unicode_are_kept(tmp_path: Path) -> None:
    with Answers(tmp_path, "batch_1") as answers:
        answers.append([(Line(1, "a", {}), AskOutput(status=200, body={"text": "\ud800"}))])
    with Answers(tmp_path, "batch_1") as answers:
        assert answers.answered == {"a"}
