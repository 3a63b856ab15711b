"""OpenTelemetry: a span for each request, the parent of vLLM's own; none at all without an endpoint."""

import importlib
import os
from collections.abc import Mapping
from typing import Protocol

from gateway.http.asgi import Scope
from stepserve.settings import TelemetrySettings

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_PROTOCOL_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"


class Span(Protocol):
    def end(self, status: int, model: str, facts: Mapping[str, str | float | bool]) -> None: ...


class Tracer(Protocol):
    def begin(self, scope: Scope, route: str, request_id: str) -> Span:
        """Takes up the caller's trace and puts this span into the headers that go further in."""
        ...

    def close(self) -> None:
        """Sends what is left, for some seconds at most."""
        ...


def prepare(settings: TelemetrySettings) -> None:
    """Tells vLLM, whose engines read the standard variables. To be called before any starts."""
    if settings.traces_endpoint is not None:
        os.environ[ENDPOINT_VARIABLE] = settings.traces_endpoint
        os.environ.setdefault(_PROTOCOL_VARIABLE, "http/protobuf")


def tracer_of(settings: TelemetrySettings) -> Tracer | None:
    if settings.traces_endpoint is None:
        return None
    module = importlib.import_module("gateway.http.open_telemetry")
    tracer: Tracer = module.OpenTelemetry(settings.traces_endpoint, settings.traces_sample_ratio)
    return tracer
