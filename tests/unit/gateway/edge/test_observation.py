import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter

from gateway.edge.observation import RequestLogMiddleware
from gateway.http.asgi import Message, Receive, Scope, Send, read_body, send_json
from gateway.metrics import ModelLabel
from gateway.status.usage import UsageBook, batch_id
from stepserve.request_id import request_id
from stepserve.route_table import match
from stepserve.settings import LogSettings

SECRET = b'{"prompt": "a private thought"}'


class Answering:
    """Answers as told, and remembers what it was asked with."""

    def __init__(self, status: int | None = 200, model: str = "m") -> None:
        self.status = status
        self.model = model
        self.headers: dict[bytes, bytes] = {}
        self.known: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = dict(scope["headers"])
        self.known = request_id.get()
        await read_body(receive, 1000)
        if self.status is not None:
            await send_json(send, self.status, {}, [(b"x-model-id", self.model.encode()), (b"X-Request-Id", b"other")])


def ask(
    app: Answering,
    *,
    path: str = "/v1/completions",
    header: bytes | None = None,
    more: Sequence[tuple[bytes, bytes]] = (),
    **logs: bool,
) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": SECRET, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"x"), *more, *([(b"x-request-id", header)] if header is not None else [])]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(RequestLogMiddleware(app, LogSettings(**logs))(scope, receive, send))
    return sent


def identity(sent: list[Message]) -> list[bytes]:
    return [value for key, value in sent[0]["headers"] if key.lower() == b"x-request-id"]


def test_a_clients_id_goes_in_and_comes_back() -> None:
    app = Answering()
    assert identity(ask(app, header=b"trace/1:a")) == [b"trace/1:a"]
    assert (app.known, app.headers[b"x-request-id"]) == ("trace/1:a", b"trace/1:a")
    assert request_id.get() is None


def test_no_client_says_which_job_its_request_belongs_to() -> None:
    app = Answering()
    ask(app, more=[(b"x-stepserve-job", b"eval_1")])
    assert b"x-stepserve-job" not in app.headers


@pytest.mark.parametrize("given", [None, b"", b"a" * 129, b"new\nline", b'{"a"}', "über".encode()])
def test_without_a_usable_id_one_is_made(given: bytes | None) -> None:
    app = Answering()
    (made,) = identity(ask(app, header=given))
    assert made.startswith(b"req-")
    assert app.headers[b"x-request-id"] == made
    assert made != identity(ask(app))[0]


def counted(**labels: str) -> float:
    return REGISTRY.get_sample_value("stepserve_requests_total", labels) or 0.0


def test_requests_are_counted_by_route_model_code_and_key() -> None:
    labels = {"route": "/v1/completions", "model": "seen", "code": "503", "key": "none"}
    before = counted(**labels)
    ask(Answering(503, "seen"))
    assert counted(**labels) == before + 1


def test_a_client_that_left_is_counted_too() -> None:
    labels = {"route": "/models", "model": "", "code": "499", "key": "none"}
    before = counted(**labels)
    ask(Answering(None), path="/models/some/where")
    assert counted(**labels) == before + 1


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.msg for record in caplog.records if isinstance(record.msg, dict)]


def test_prompts_are_logged_only_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gateway.requests"):
        ask(Answering())
        ask(Answering(), prompts=True)
    first, second = lines(caplog)
    assert (first["path"], first["status"], first["model"]) == ("/v1/completions", 200, "m")
    assert "thought" not in json.dumps(first)
    assert second["body"] == SECRET.decode()


def test_probes_of_health_are_not_logged_and_all_can_be_silenced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gateway.requests"):
        ask(Answering(), path="/livez")
        ask(Answering(), requests=False)
    assert lines(caplog) == []


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/reasoning/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/responses/resp_1/cancel", "/v1/responses"),
        ("/v1/models/a/b", "/v1/models"),
        ("/models/a", "/models"),
        ("/eval/jobs/eval_1", "/eval"),
        ("/", "/"),
        ("/wp-login.php", "other"),
        ("/a/b/v1/models", "other"),
        ("", "other"),
    ],
)
def test_routes_are_as_many_as_there_are(path: str, route: str) -> None:
    assert match("POST", path).label == route


def test_only_the_newest_models_have_series() -> None:
    registry = CollectorRegistry()
    counter = Counter("c", "c", ["model", "code"], registry=registry)
    label = ModelLabel((counter,), kept=2)
    for name in ("a", "b", "a", "c"):
        counter.labels(label(name), "200").inc()
    assert registry.get_sample_value("c_total", {"model": "a", "code": "200"}) == 2
    assert registry.get_sample_value("c_total", {"model": "b", "code": "200"}) is None


def test_usage_by_kind_and_job() -> None:
    book = UsageBook("boot", jobs_kept=1)
    book.note("m", "chatcmpl-req-1", 10, 20, 1.5)
    book.note("m", f"{batch_id('eval_20251122_053000_k3f9', 'u')}-0", 5, 6, 0.5)
    book.note("m", f"{batch_id('eval_20251122_053000_k3f9', 'v')}-1-score", 5, 1, 0.25)
    book.note("m", f"{batch_id(None, 'u')}-0", 1, 1, 1)
    book.note("m", "alive-1", 1, 1, 0)
    report = book.report(3)
    found = {row.request_class: (row.requests, row.prompt_tokens, row.completion_tokens) for row in report.models}
    assert found == {"interactive": (1, 10, 20), "batch": (3, 11, 8), "probe": (1, 1, 1)}
    assert [(job.job_id, job.completion_tokens, job.busy_s) for job in report.jobs] == [
        ("eval_20251122_053000_k3f9", 7, 0.75)
    ]
    book.note("m", f"{batch_id('eval_2', 'u')}-0", 1, 1, 1)
    assert [job.job_id for job in book.report(0).jobs] == ["eval_2"]
