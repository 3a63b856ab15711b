"""The client against servers that are away, slow, broken, or no Stepserve at all, and against a real one."""

import json
from pathlib import Path

import httpx
import pytest

from stepserve import AsyncClient, Client
from stepserve.client.errors import (
    Conflict,
    Invalid,
    JobFailed,
    NotFound,
    NotStepserve,
    OtherVersion,
    TooMany,
    Unauthorized,
    Unavailable,
    Unreachable,
    WaitedTooLong,
)
from tests.integration.public_server import PublicServer, public_server
from tests.integration.raw_server import BAD_GATEWAY, HTML, raw_server, reply
from tests.integration.test_push import visit, write_large

MODELS = reply(b'{"models": []}')


@pytest.mark.parametrize(
    ("said", "raised", "text"),
    [
        (HTML, NotStepserve, "is not a Stepserve server: 200 with text/html"),
        (BAD_GATEWAY, Unavailable, "502 Bad Gateway"),
        (reply(b"[]"), OtherVersion, "GET /models"),
        (reply(b'{"models": [{"id": 3}]}'), OtherVersion, "id: Input should be a valid string"),
        (reply(b"not json"), NotStepserve, "instead of JSON"),
        (reply(b'{"detail": "no key"}', "401 Unauthorized"), Unauthorized, "no key"),
        (reply(b'{"detail": "too many"}', "429 Too Many", retry_after="0"), TooMany, "too many"),
        (b"garbage\r\n\r\n", Unreachable, "No server can be reached"),
        (reply(b'{"models"')[:-3], Unreachable, "No server can be reached"),
    ],
)
def test_what_is_no_good_answer_is_one_sentence(said: bytes, raised: type[Exception], text: str) -> None:
    with raw_server(lambda _, __: said) as (url, _), Client(url, retry_s=0) as client:
        with pytest.raises(raised, match=text) as caught:
            client.list_models()
        assert "\n" not in str(caught.value)


def test_a_server_that_says_nothing() -> None:
    with (
        raw_server(lambda _, __: None) as (url, _),
        Client(url, retry_s=0, timeout_s=0.3) as client,
        pytest.raises(Unreachable, match="does not answer in time"),
    ):
        client.list_models()


def test_a_server_that_comes_back_is_asked_again_where_that_does_no_harm() -> None:
    answers = [BAD_GATEWAY, reply(b'{"detail": "restarting"}', "503 Unavailable", retry_after="0"), b"", MODELS]
    with raw_server(lambda _, number: answers[number - 1]) as (url, seen), Client(url) as client:
        assert client.list_models() == []
        assert len(seen) == 4
    with raw_server(lambda _, __: BAD_GATEWAY) as (url, seen), Client(url) as client:
        with pytest.raises(Unavailable):
            client.roll_back()
        assert seen == ["POST /models/rollback"]


def test_a_job_whose_answer_was_lost_is_asked_for_by_the_same_key() -> None:
    keys: list[str] = []

    class Recording(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            keys.append(request.headers["idempotency-key"])
            return super().handle_request(request)

    made = reply(b'{"job_id": "eval_1", "status": "pending"}')
    with (
        raw_server(lambda _, number: b"" if number == 1 else made) as (url, _),
        Client(url, transport=Recording()) as client,
    ):
        assert client.eval_job("m", "n", "d").job_id == "eval_1"
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_watched_job_outlives_a_broken_stream() -> None:
    job: dict[str, object] = {"id": "eval_1", "type": "eval", "status": "running", "progress": {"done": 1, "total": 2}}
    over = job | {"status": "done", "progress": {"done": 2, "total": 2}, "result": {"accuracy": 1.0}}

    def stream(state: dict[str, object]) -> bytes:
        body = f"event: state\ndata: {json.dumps(state)}\n\n".encode()
        return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + body

    answers = [stream(job), BAD_GATEWAY, stream(over)]
    with raw_server(lambda _, number: answers[number - 1]) as (url, seen), Client(url) as client:
        assert client.wait_for_job("eval_1").result == {"accuracy": 1.0}
        assert len(seen) == 3


def test_errors_carry_status_and_detail(tmp_path: Path) -> None:
    def body(_: PublicServer, client: Client) -> None:
        with pytest.raises(NotFound) as gone:
            client.get_job("ghost")
        assert (gone.value.status, gone.value.detail) == (404, "there is no job 'ghost'")
        with pytest.raises(Invalid, match="path: the folder "):
            client.register_model("ghost", "t")
        with pytest.raises(Invalid, match="engines: unknown field"):
            client.register_model("ghost", "t", engines=1)
        with pytest.raises(Conflict):
            client.roll_back()

    visit(tmp_path, body)


def test_the_class_that_scripts_use(tmp_path: Path) -> None:
    """The names and arguments of API.md's client class, results read as JSON."""

    def body(there: PublicServer, client: Client) -> None:
        (there.layout.datasets / "d.jsonl").write_text('{"question": "6*7?", "answer": "42"}\n')
        write_large(there.layout.models / "m", seed=1)
        assert client.health()["status"] == "loading"
        assert client.register_model("m", "4090", "a,b")["status"] == "registered"
        assert client.set_active_model("m")["status"] == "activated"
        assert [model["id"] for model in client.list_models()] == ["m"]
        made = client.eval_job("m", "first", "d", ["accuracy"], 10)
        assert client.wait_for_job(made["job_id"])["result"]["accuracy"] == 1.0
        assert client.get_eval_job(made["job_id"])["status"] == "done"
        there.gateway.batch_takes_s = 30.0
        slow = client.eval_job("m", "second", "d")
        with pytest.raises(WaitedTooLong):
            client.wait_for_job(slow.job_id, timeout_s=0.0)
        client.cancel_job(slow.job_id)
        with pytest.raises(JobFailed, match="cancelled"):
            client.wait_for_job(slow.job_id)

    visit(tmp_path, body)


async def test_the_awaited_client_has_the_same_methods(tmp_path: Path) -> None:
    async with public_server(tmp_path) as there, AsyncClient(there.url) as client:
        (there.layout.datasets / "d.jsonl").write_text('{"question": "6*7?", "answer": "42"}\n')
        write_large(there.layout.models / "m", seed=1)
        await client.register_model("m", "t", activate=True)
        made = await client.eval_job("m", "first", "d")
        assert (await client.wait_for_job(made.job_id)).status == "done"
        with pytest.raises(NotFound):
            await client.get_job("ghost")
    only_sync = {"push_checkpoint", "shards", "sender", "streaming", "get", "post", "put", "delete"}
    classes = Client.__mro__[:-1]
    methods = {name for each in classes for name in vars(each) if not name.startswith("_")} - only_sync
    assert methods == {name for name in vars(AsyncClient) if not name.startswith("_")}
