"""Spans by OpenTelemetry's own SDK: imported only where there is an endpoint, a tenth of the gateway's modules."""

from collections.abc import Mapping

import requests
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.http.asgi import Scope
from gateway.http.tracing import Span

_CARRIED = ("traceparent", "tracestate")


class OpenTelemetry:
    """Implements gateway.http.tracing.Tracer. Spans go to `endpoint` by OTLP over HTTP, in the background."""

    def __init__(self, endpoint: str, sample_ratio: float) -> None:
        resource = Resource.create({"service.name": "stepserve"})
        self._provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(sample_ratio)))
        session = requests.Session()
        session.max_redirects = 0  # the keys that OTEL_EXPORTER_OTLP_HEADERS has would go along
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, session=session)))
        self._tracer = self._provider.get_tracer("stepserve.gateway")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, scope: Scope, route: str, request_id: str) -> Span:
        given = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            context=self._propagator.extract({key: given[key] for key in _CARRIED if key in given}),
            kind=trace.SpanKind.SERVER,
            attributes={
                "http.request.method": scope["method"],
                "url.path": scope["path"],
                "http.route": route,
                "stepserve.request_id": request_id,
            },
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        others = [pair for pair in scope["headers"] if pair[0].decode("latin-1") not in _CARRIED]
        scope["headers"] = [*others, *((key.encode(), value.encode()) for key, value in carrier.items())]
        return _RequestSpan(span)

    def close(self) -> None:
        self._provider.shutdown()


class _RequestSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def end(self, status: int, model: str, facts: Mapping[str, str | float | bool]) -> None:
        span = self._span
        span.set_attributes(facts)
        span.set_attribute("http.response.status_code", status)
        if model:
            span.set_attribute("gen_ai.request.model", model)
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end()
