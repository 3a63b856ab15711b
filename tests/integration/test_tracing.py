"""Spans as a collector receives them."""

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider

from gateway.edge.observation import RequestLogMiddleware
from gateway.http.asgi import Message, Receive, Scope, Send, send_json
from gateway.http.tracing import tracer_of
from stepserve.client import AsyncClient
from stepserve.settings import LogSettings, TelemetrySettings
from tests.integration.full_stack import full_stack
from tests.integration.raw_server import raw_server, reply
from tests.integration.test_weights import OTHER, tensors_of
from tests.threaded_server import threaded

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}/v1/traces"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    with threaded(collector.server):
        yield collector


def test_a_span_takes_up_the_callers_trace_and_hands_it_on(collector: Collector) -> None:
    inner: dict[bytes, bytes] = {}

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        inner.update(scope["headers"])
        await send_json(send, 503, {}, [(b"x-model-id", b"m")])

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Message) -> None: ...

    tracer = tracer_of(TelemetrySettings(traces_endpoint=collector.endpoint))
    assert tracer is not None
    headers = [(b"traceparent", PARENT), (b"x-request-id", b"r-1")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
    asyncio.run(RequestLogMiddleware(app, LogSettings(), tracer)(scope, receive, send))
    tracer.close()

    (span,) = collector.spans
    assert span.name == "POST /v1/completions"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (PARENT[3:35].decode(), PARENT[36:52].decode())
    assert inner[b"traceparent"] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01".encode()
    attributes = {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
    assert attributes["http.response.status_code"] == 503
    assert attributes["stepserve.request_id"] == "r-1"
    assert attributes["gen_ai.request.model"] == "m"
    assert span.status.code == 2


async def test_a_push_is_a_part_of_the_trainers_trace(collector: Collector, tmp_path: Path) -> None:
    telemetry = TelemetrySettings(traces_endpoint=collector.endpoint)
    trainer = TracerProvider().get_tracer("trainer")
    async with full_stack(tmp_path, telemetry=telemetry) as there, AsyncClient(there.url) as client:
        with trainer.start_as_current_span("step 7") as step:
            pushed = await client.push_weights(tensors_of(OTHER))
    (span,) = (each for each in collector.spans if each.name == "PUT /models")
    context = step.get_span_context()
    assert (int(span.trace_id.hex(), 16), int(span.parent_span_id.hex(), 16)) == (
        context.trace_id,
        context.span_id,
    )
    attributes = {each.key: each.value for each in span.attributes}
    assert attributes["stepserve.weights.version"].int_value == pushed.version
    assert attributes["stepserve.weights.paused_ms"].double_value == pushed.paused_ms
    assert attributes["stepserve.weights.proof"].string_value == "changed"
    assert attributes["stepserve.weights.proved"].bool_value


def test_a_collector_that_redirects_is_not_followed(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of the first one would go to the second one."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=secret")
    moved = reply(b"", "307 Temporary Redirect", location=collector.endpoint)
    with raw_server(lambda _, __: moved) as (url, seen):
        tracer = tracer_of(TelemetrySettings(traces_endpoint=f"{url}/v1/traces"))
        assert tracer is not None
        tracer.begin({"method": "GET", "path": "/", "headers": []}, "/", "r-1").end(200, "", {})
        tracer.close()
        assert seen == ["POST /v1/traces"]
    assert collector.spans == []


def test_without_an_endpoint_there_is_none() -> None:
    assert tracer_of(TelemetrySettings()) is None
